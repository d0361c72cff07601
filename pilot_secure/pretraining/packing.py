"""Several exchanges about one image in one sequence, each blind to the others.

The image prefix is shared; every exchange sees the prefix and itself, and its positions start
right after the prefix, so that it is scored exactly as if it stood alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from pilot_secure.data.collate import IGNORED
from pilot_secure.data.prompts import ASSISTANT, IMAGE_TOKEN, SYSTEM_LINE, USER
from pilot_secure.data.tasks import Exchange


class PackedExchange(NamedTuple):
    """Token ids of the human turn, up to ``ASSISTANT:``, and of the answer, end mark included."""

    instruction: list[int]
    answer: list[int]


class PackedBatch(NamedTuple):
    """input_ids, position_ids, labels: int64 [B, T]; attention_mask: bool [B, 1, T, T].

    answer_lengths int64 [B, T]: at every token of an answer, how many tokens that answer has.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    answer_lengths: torch.Tensor


def prefix_ids(tokenizer: PreTrainedTokenizerBase, image_tokens: int) -> list[int]:
    """The ids of everything before the first instruction, the image's tokens included."""
    text = f"{SYSTEM_LINE} {USER} " + IMAGE_TOKEN * image_tokens
    return list(tokenizer(text)["input_ids"])


def tokenise(
    tokenizer: PreTrainedTokenizerBase, exchanges: list[list[Exchange]]
) -> list[list[PackedExchange]]:
    """Tokenise the exchanges of every image."""
    flat = [exchange for image in exchanges for exchange in image]
    asked = tokenizer([f"{e.instruction} {ASSISTANT}" for e in flat], add_special_tokens=False)
    said = tokenizer([e.answer + tokenizer.eos_token for e in flat], add_special_tokens=False)
    pairs = zip(asked["input_ids"], said["input_ids"], strict=True)
    packed = iter([PackedExchange(*pair) for pair in pairs])
    return [[next(packed) for _ in image] for image in exchanges]


def within_budget(exchanges: list[PackedExchange], start: int, budget: int) -> list[PackedExchange]:
    """As many exchanges as fit in ``budget`` tokens, beginning at ``start`` and going round.

    Rows of nearly equal length waste little padding. At least one exchange is returned.
    """
    chosen: list[PackedExchange] = []
    left = budget
    for i in range(len(exchanges)):
        exchange = exchanges[(start + i) % len(exchanges)]
        size = len(exchange.instruction) + len(exchange.answer)
        if size <= left or not chosen:
            chosen.append(exchange)
            left -= size
    return chosen


def pack(prefix: list[int], images: list[list[PackedExchange]], pad_id: int) -> PackedBatch:
    """Pack a batch; padding sees only itself and carries no label."""
    rows = [_pack_one(prefix, exchanges) for exchanges in images]
    length = max(len(row[0]) for row in rows)

    def padded(column: int, fill: int) -> torch.Tensor:
        return torch.tensor([row[column] + [fill] * (length - len(row[column])) for row in rows])

    input_ids, positions = padded(0, pad_id), padded(1, 0)
    segments, labels = padded(2, -1), padded(3, IGNORED)
    same = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (same & causal) | torch.eye(length, dtype=torch.bool)
    return PackedBatch(input_ids, positions, visible[:, None], labels, padded(4, 0))


def _pack_one(
    prefix: list[int], exchanges: list[PackedExchange]
) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Ids, positions, segments (0: prefix), labels and answer lengths of one image."""
    start = len(prefix)
    ids, positions = list(prefix), list(range(start))
    segments, labels, lengths = [0] * start, [IGNORED] * start, [0] * start
    for segment, (instruction, answer) in enumerate(exchanges, 1):
        size = len(instruction) + len(answer)
        ids += instruction + answer
        positions += range(start, start + size)
        segments += [segment] * size
        labels += [IGNORED] * len(instruction) + answer
        lengths += [0] * len(instruction) + [len(answer)] * len(answer)
    return ids, positions, segments, labels, lengths
