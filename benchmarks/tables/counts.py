"""Table 4's counts: parameters that a stage trains and runs, and what is sent, per client."""

from __future__ import annotations

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.parameter_counts import count_parameters

PAPER = {"text adapter": 159.9e6, "one adapter": 20.98e6}
"""What the paper states for LLaVA-1.5-7B, without CT-CLIP."""
MODELS = {
    "embedded": {"base": "tiny-llava", "lora_rank": 8, "lora_alpha": 16},
    "llava-1.5-7b": {"base": "llava-hf/llava-1.5-7b-hf", "lora_rank": 64, "lora_alpha": 128},
}
TASKS = 3


def count(shapes: str, *, ct_clip: bool) -> dict[str, int]:
    """Return the counts of one client of three tasks.

    - trained: with gradients in a stage; activated: trained, or an adapter that is only run.
    - sent up: own task adapter and text adapter; sent down: every task's mean, and the sealed sum.
    """
    model = {**MODELS[shapes], "ct_clip": ct_clip}
    counts = count_parameters(SimulationConfig.model_validate({"model": model}))
    text = counts.stages[0].communicated["text_adapter"]
    return {
        "text adapter": text,
        "one adapter": counts.connector,
        **{f"trained, stage {stage.stage}": stage.trained for stage in counts.stages},
        **{f"activated, stage {stage.stage}": stage.activated for stage in counts.stages},
        "sent up": text + counts.connector,
        "sent down": text + TASKS * counts.connector,
    }


def all_counts() -> dict[str, dict[str, int]]:
    """Return the counts of both models, with and without CT-CLIP."""
    return {
        f"{shapes}{', CT-CLIP' if ct_clip else ''}": count(shapes, ct_clip=ct_clip)
        for shapes in MODELS
        for ct_clip in (False, True)
    }
