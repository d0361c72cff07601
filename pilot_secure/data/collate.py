"""From instructions and answers to padded batches of token ids.

Both paths write the image as one ``<image>`` token per vision feature, as the processor does with
pixels at hand; only ids come out here, images travel as cached features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pilot_secure.data.prompts import END_MARK, IMAGE_TOKEN, conversation, prompt_text

IGNORED = -100


@dataclass(frozen=True)
class EncodedSample:
    """Token ids of a prompt with its answer; the first ``prompt_length`` of them are the prompt."""

    input_ids: tuple[int, ...]
    prompt_length: int


class AnswerBatch(NamedTuple):
    """input_ids, attention_mask, labels: int64 [B, T]; labels hold IGNORED outside answers."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> AnswerBatch:
        """The batch on another device."""
        return AnswerBatch(*(tensor.to(device) for tensor in self))


def _for_tokenizer(tokenizer: Any, text: str, image_tokens: int) -> str:
    """A text of the template with the tokenizer's own end mark and all of the image's tokens."""
    text = text.replace(END_MARK, tokenizer.eos_token)
    return text.replace(IMAGE_TOKEN, IMAGE_TOKEN * image_tokens)


def prompt_lengths(tokenizer: Any, instructions: Sequence[str], image_tokens: int) -> list[int]:
    """How many tokens the prompt of each instruction has, those of its image included."""
    texts = [_for_tokenizer(tokenizer, prompt_text(asked), image_tokens) for asked in instructions]
    return [len(ids) for ids in tokenizer(texts)["input_ids"]] if texts else []


def encode_samples(
    tokenizer: Any,
    instructions: Sequence[str],
    answers: Sequence[str],
    image_tokens: int,
    *,
    max_length: int = 2048,
) -> list[EncodedSample]:
    """Tokenise prompts with their answers, end mark included, each about one image.

    What exceeds ``max_length`` is cut off at the end. Raises ValueError if that would leave no
    token of an answer.
    """
    pairs = list(zip(instructions, answers, strict=True))
    prompts = [_for_tokenizer(tokenizer, prompt_text(asked), image_tokens) for asked, _ in pairs]
    wholes = [_for_tokenizer(tokenizer, conversation([pair]), image_tokens) for pair in pairs]
    if not pairs:
        return []
    samples = []
    for prompt, whole in zip(
        tokenizer(prompts)["input_ids"], tokenizer(wholes)["input_ids"], strict=True
    ):
        length = _common_prefix(prompt, whole)
        if length >= max_length:
            raise ValueError(f"a prompt of {length} tokens leaves no room within {max_length}")
        samples.append(EncodedSample(tuple(whole[:max_length]), length))
    return samples


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens agree: a tokenizer may join the last of a prompt to the answer."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def answer_batch(samples: Sequence[EncodedSample], pad_id: int) -> AnswerBatch:
    """Pad samples on the right for training."""
    length = max(len(sample.input_ids) for sample in samples)
    input_ids = torch.full((len(samples), length), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for row, sample in enumerate(samples):
        size, ids = len(sample.input_ids), torch.tensor(sample.input_ids)
        input_ids[row, :size] = ids
        attention_mask[row, :size] = 1
        labels[row, sample.prompt_length : size] = ids[sample.prompt_length :]
    return AnswerBatch(input_ids, attention_mask, labels)


def prompt_batch(
    tokenizer: Any, instructions: Sequence[str], image_tokens: int
) -> dict[str, Tensor]:
    """Prompts padded on the left for generation: input_ids and attention_mask, int64 [B, T]."""
    texts = [_for_tokenizer(tokenizer, prompt_text(asked), image_tokens) for asked in instructions]
    encoded = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def bare_prompts(samples: Sequence[EncodedSample], pad_id: int) -> dict[str, Tensor]:
    """The prompts of encoded samples as ``prompt_batch`` gives them, without their answers."""
    length = max(sample.prompt_length for sample in samples)
    input_ids = torch.full((len(samples), length), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, sample in enumerate(samples):
        start = length - sample.prompt_length
        input_ids[row, start:] = torch.tensor(sample.input_ids[: sample.prompt_length])
        attention_mask[row, start:] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
