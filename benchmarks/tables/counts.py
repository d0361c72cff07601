"""Table 4's counts: parameters that a stage trains and runs, and what is sent, per client.

Counted from the modules themselves, on the meta device, so that LLaVA-1.5-7B needs no memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pilot_secure.models import (
    ConnectorPath,
    MixtureConnector,
    TowerPath,
    TwoAdapterConnector,
    attach_text_adapter,
    text_adapter_parameters,
)
from pilot_secure.models.tiny import build_model

PAPER = {"text adapter": 159.9e6, "one adapter": 20.98e6}
"""What the paper states for LLaVA-1.5-7B, without CT-CLIP."""
RANKS = {"embedded": (8, 16), "llava-1.5-7b": (64, 128)}
TASKS = 3


def llava(shapes: str) -> Any:
    """Return a model of these shapes, without values."""
    with torch.device("meta"):
        if shapes == "embedded":
            return build_model()
        from transformers import (
            CLIPVisionConfig,
            LlamaConfig,
            LlavaConfig,
            LlavaForConditionalGeneration,
        )

        vision = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        )
        text = LlamaConfig(
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=32064,
        )
        return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count(shapes: str, *, ct_clip: bool) -> dict[str, int]:
    """Return the counts of one client of three tasks.

    - trained: with gradients in a stage; activated: trained, or an adapter that is only run.
    - sent up: own task adapter and text adapter; sent down: every task's mean, and the sealed sum.
    """
    model, (rank, alpha) = llava(shapes), RANKS[shapes]
    places = (TowerPath(model) if ct_clip else ConnectorPath(model)).places
    with torch.device("meta"):
        tuned = attach_text_adapter(model, rank=rank, alpha=alpha, dropout=0.0, seed=0)
        first = TwoAdapterConnector(places)
        others = {f"task-{i}": first.task_adapter for i in range(1, TASKS)}
        second = MixtureConnector(first.task_adapter, first.client_adapter, others)
    text = sum(parameter.numel() for parameter in text_adapter_parameters(tuned).values())
    adapter = _size(first.task_adapter)
    return {
        "text adapter": text,
        "one adapter": adapter,
        "trained, stage 1": text + sum(p.numel() for p in first.train_own_parts().values()),
        "trained, stage 2": text + sum(p.numel() for p in second.train_own_parts().values()),
        "activated, stage 1": text + _size(first),
        "activated, stage 2": text + _size(second),
        "sent up": text + adapter,
        "sent down": text + TASKS * adapter,
    }


def all_counts() -> dict[str, dict[str, int]]:
    """Return the counts of both models, with and without CT-CLIP."""
    return {
        f"{shapes}{', CT-CLIP' if ct_clip else ''}": count(shapes, ct_clip=ct_clip)
        for shapes in RANKS
        for ct_clip in (False, True)
    }
