"""Answers: their cross-entropy in training, and greedy generation in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pilot_secure.data.collate import IGNORED, AnswerBatch, prompt_batch
from pilot_secure.models.base import image_outputs, llava_of
from pilot_secure.models.features import ImageFeatures


def answer_losses(model: nn.Module, batch: AnswerBatch, image_tokens: Tensor) -> Tensor:
    """Cross-entropy of each sample: the mean over its own answer's tokens. Returns [B].

    image_tokens: a connector's output [B, N, D], one image per sample. Logits are computed at
    answer positions only. The mean over samples is the caller's: a long answer weighs as much as
    a short one, and no sample's loss depends on another.
    """
    llava = llava_of(model)
    states = llava.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        mm_encoder_outputs=image_outputs(image_tokens),
        use_cache=False,
    ).last_hidden_state[:, :-1]
    targets = batch.labels[:, 1:]
    answered = targets != IGNORED
    logits = llava.lm_head(states[answered])
    values = F.cross_entropy(logits.float(), targets[answered], reduction="none")
    sample = answered.nonzero()[:, 0]
    counts = answered.sum(1).clamp(min=1)
    return values.new_zeros(len(targets)).index_add(0, sample, values) / counts


@torch.no_grad()
def prompt_states(model: nn.Module, prompts: Mapping[str, Tensor], image_tokens: Tensor) -> Tensor:
    """The last hidden state of each prompt's last token, [B, D].

    prompts: padded on the left, as ``prompt_batch`` gives them; image_tokens: [B, N, D].
    """
    llava = llava_of(model)
    states: Tensor = llava.model(
        input_ids=prompts["input_ids"].to(llava.device),
        attention_mask=prompts["attention_mask"].to(llava.device),
        mm_encoder_outputs=image_outputs(image_tokens),
        use_cache=False,
    ).last_hidden_state
    return states[:, -1]


@torch.no_grad()
def generate_answers(
    model: nn.Module,
    processor: Any,
    connector: Callable[[Tensor], Tensor],
    instructions: Sequence[str],
    features: Tensor | ImageFeatures,
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    around: Callable[[list[int]], AbstractContextManager[None]] = lambda rows: nullcontext(),
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Greedy answers to one instruction per image, in order.

    connector: features to image tokens, [B, N, C] to [B, N, D]; features: cached vision features
    [len(instructions), N, C]. Prompts are sorted by length, so
    that a batch holds little padding; padding is on the left. A batch's rows are answered inside
    ``around(rows)``. ``progress`` is called with (answers done, answers in all).
    """
    if len(instructions) != len(features):
        raise ValueError(f"{len(instructions)} instructions for {len(features)} images")
    llava, tokenizer = llava_of(model), processor.tokenizer
    order = sorted(range(len(instructions)), key=lambda i: len(instructions[i]))
    answers = [""] * len(instructions)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = connector(features[rows].to(llava.device))
        batch = prompt_batch(tokenizer, [instructions[i] for i in rows], tokens.shape[1])
        with around(rows):
            generated = llava.generate(  # type: ignore[misc]
                input_ids=batch["input_ids"].to(llava.device),
                attention_mask=batch["attention_mask"].to(llava.device),
                mm_encoder_outputs=image_outputs(tokens),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(
            generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text.strip()
        if progress:
            progress(start + len(rows), len(order))
    return answers
