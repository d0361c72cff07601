"""The hash of the base model: of its weights, not of where it lies or what was attached to it."""

from __future__ import annotations

from pathlib import Path

import torch

from pilot_secure.federation.base_weights import base_sha256
from pilot_secure.models import attach_text_adapter, load_base


def test_the_hash_is_of_the_weights_alone(tiny_base: Path) -> None:
    bare, _ = load_base(tiny_base)
    expected = base_sha256(bare)
    assert len(expected) == 64
    again, _ = load_base(tiny_base)
    for rank, seed in ((2, 0), (4, 7)):
        adapted = attach_text_adapter(
            load_base(tiny_base)[0], rank=rank, alpha=4, dropout=0.0, seed=seed
        )
        assert base_sha256(adapted) == expected
    with torch.no_grad():
        name, parameter = next(iter(again.named_parameters()))
        before = parameter.reshape(-1)[-1].clone()
        parameter.reshape(-1)[-1] = torch.nextafter(before, torch.tensor(torch.inf))
    assert base_sha256(again) != expected, name
    with torch.no_grad():
        parameter.reshape(-1)[-1] = before
    assert base_sha256(again) == expected
    half, _ = load_base(tiny_base, dtype=torch.bfloat16)
    assert base_sha256(half) != expected
