"""The text adapter: LoRA on the seven linear layers of every block of the language model.

A model may hold a second one, the personal adapter of methods that keep one beside the shared
one. Each adapter's part in a forward pass has a weight, for the whole batch or for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

# PEFT's "all-linear" would also reach the vision tower and the connector.
LANGUAGE_LINEARS = (
    r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)
SHARED, PERSONAL = "default", "personal"


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


def use_personal_adapter(model: PeftModel, used: bool) -> None:
    """Switch the second LoRA on beside the first, or off; it is made when first needed.

    It has the shared one's shape. Gradients are on for both where it is used.
    """
    if used and PERSONAL not in model.peft_config:
        with torch.random.fork_rng(devices=[]):
            model.add_adapter(PERSONAL, model.peft_config[SHARED])
    if PERSONAL in model.peft_config:
        model.base_model.set_adapter(  # type: ignore[operator]
            [SHARED, PERSONAL] if used else [SHARED]
        )


@contextmanager
def weighted_adapters(model: PeftModel, weights: Mapping[str, float | Tensor]) -> Iterator[None]:
    """Multiply what each named adapter adds to every layer by a number, or by one per sample [B].

    With per-sample weights, every forward pass inside has to be of exactly these samples.
    """

    def hook(weight: float | Tensor) -> object:
        factor = weight.view(-1, 1, 1) if isinstance(weight, Tensor) else weight
        return lambda _module, _inputs, output: output * factor

    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                for adapter, weight in weights.items():
                    module: nn.Module = layer.lora_B[adapter]
                    handle = module.register_forward_hook(hook(weight))  # type: ignore[arg-type]
                    stack.callback(handle.remove)
        yield


def text_adapter_parameters(
    model: PeftModel, adapter: str = SHARED
) -> dict[str, torch.nn.Parameter]:
    """The LoRA matrices by PEFT's names in saved files (without the adapter's name)."""
    return {
        name.replace(f".{adapter}.", "."): parameter
        for name, parameter in model.named_parameters()
        if f".{adapter}." in name and "lora_" in name
    }


def text_adapter_state(model: PeftModel, adapter: str = SHARED) -> dict[str, Tensor]:
    """A detached copy of a text adapter. Secrecy: leaves the client only masked."""
    parameters = text_adapter_parameters(model, adapter)
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def load_text_adapter_state(
    model: PeftModel, state: Mapping[str, Tensor], adapter: str = SHARED
) -> None:
    """Put another text adapter's values in place. Raises ValueError unless the names agree."""
    parameters = text_adapter_parameters(model, adapter)
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())
        raise ValueError(f"text adapters differ in {len(odd)} names, for instance {odd[0]}")
    for name, parameter in parameters.items():
        parameter.copy_(state[name])
