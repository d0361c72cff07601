"""The text adapter: LoRA on the seven linear layers of every block of the language model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlavaForConditionalGeneration

# PEFT's "all-linear" would also reach the vision tower and the connector.
LANGUAGE_LINEARS = (
    r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)
_ADAPTER = "default"


def attach_text_adapter(
    model: LlavaForConditionalGeneration, *, rank: int, alpha: int, dropout: float, seed: int
) -> PeftModel:
    """Add a fresh LoRA to the language model; only its matrices are trainable.

    ``seed`` fixes the initial A matrices (B starts at zero), so that every client starts from the
    same text adapter. The connector comes out frozen: what trains it switches it on.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=LANGUAGE_LINEARS,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def text_adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The LoRA matrices by PEFT's names in saved files (without the adapter's name)."""
    return {
        name.replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in model.named_parameters()
        if f".{_ADAPTER}." in name and "lora_" in name
    }


def text_adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """A detached copy of the text adapter. Secrecy: leaves the client only masked."""
    return {k: v.detach().clone() for k, v in text_adapter_parameters(model).items()}


@torch.no_grad()
def load_text_adapter_state(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Put another text adapter's values in place. Raises ValueError unless the names agree."""
    parameters = text_adapter_parameters(model)
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())
        raise ValueError(f"text adapters differ in {len(odd)} names, for instance {odd[0]}")
    for name, parameter in parameters.items():
        parameter.copy_(state[name])
