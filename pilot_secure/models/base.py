"""The base model: loading, its connector's place, and vision features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pilot_secure.errors import UsageError

SHIPPED_NAME = "tiny-llava"
SHIPPED_CHECKPOINT = Path(__file__).parents[1] / "assets" / SHIPPED_NAME


# What loading raises for files that are missing, damaged or of another kind.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    SafetensorError,
)


class CheckpointError(UsageError):
    """A base checkpoint that cannot be found or is not a LLaVA."""


def checkpoint_path(path_or_id: str | Path) -> str:
    """What transformers is to load: the shipped folder for its name, anything else unchanged.

    A folder in the working directory goes before the shipped checkpoint of the same name.
    """
    if str(path_or_id) == SHIPPED_NAME and not Path(SHIPPED_NAME).exists():
        return str(SHIPPED_CHECKPOINT)
    return str(path_or_id)


def load_base(
    path_or_id: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> tuple[LlavaForConditionalGeneration, Any]:
    """Load a llava-hf checkpoint (a folder, a hub id or the shipped one) and its processor.

    The model comes frozen and in evaluation mode. Raises CheckpointError.
    """
    where = checkpoint_path(path_or_id)
    try:
        model = LlavaForConditionalGeneration.from_pretrained(where, dtype=dtype)
        processor = AutoProcessor.from_pretrained(where)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"model.base: expected a LLaVA checkpoint (folder or hub id), got {where!r}: "
            f"{why_not_loaded(where, error)}"
        ) from error
    processor.tokenizer.padding_side = "left"
    model.to(torch.device(device))  # type: ignore[arg-type]
    model.requires_grad_(False)
    model.train(False)
    return model, processor


def why_not_loaded(where: str, error: Exception) -> str:
    """Why a checkpoint cannot be loaded: transformers takes a path that is not there for a hub id.

    Otherwise the first line of its error; a bare key or nothing at all after the error's name.
    """
    if where.startswith(("/", ".")) and not Path(where).exists():
        return "there is no such folder."
    first = str(error).partition("\n")[0]
    return first if " " in first else f"{type(error).__name__} {first}".strip()


def llava_of(model: nn.Module) -> LlavaForConditionalGeneration:
    """The LLaVA inside a PEFT model (whose LoRA layers stay in effect), or the model itself."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, LlavaForConditionalGeneration):
        raise TypeError(f"expected a LlavaForConditionalGeneration, got {type(inner).__name__}")
    return inner


def base_connector(model: nn.Module) -> nn.Module:
    """The connector in place: two linear layers with an activation between them."""
    connector: nn.Module = llava_of(model).model.multi_modal_projector
    return connector


@contextmanager
def connector_in_place(model: nn.Module, connector: nn.Module) -> Iterator[nn.Module]:
    """The model with another connector, for code that feeds it pixels; put back on exit."""
    core = llava_of(model).model
    before, core.multi_modal_projector = core.multi_modal_projector, connector
    try:
        yield model
    finally:
        core.multi_modal_projector = before


def image_outputs(image_tokens: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    """Connector outputs [B, N, D] as the ``mm_encoder_outputs`` of ``forward`` and ``generate``.

    They take the place of ``pixel_values``: neither vision tower nor connector is run.
    """
    outputs = BaseModelOutputWithPooling(pooler_output=list(image_tokens))  # type: ignore[arg-type]
    return {"image": outputs}


@torch.no_grad()
def tower_inputs(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """What the vision tower's first block is given: patches, positions and the class token.

    pixel_values: float [B, 3, H, W]. Returns [B, 1 + N, C].
    """
    llava = llava_of(model)
    tower = llava.model.vision_tower
    pixel_values = pixel_values.to(device=llava.device, dtype=tower.dtype)
    states: Tensor = tower.pre_layrnorm(tower.embeddings(pixel_values))
    return states


@torch.no_grad()
def vision_features(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """What the vision tower gives the connector, as the model's own configuration selects it.

    pixel_values: float [B, 3, H, W]. Returns [B, N, C], N the number of image tokens and C the
    width of the tower times the number of selected layers.
    """
    llava = llava_of(model)
    tower, config = llava.model.vision_tower, llava.config
    pixel_values = pixel_values.to(device=llava.device, dtype=tower.dtype)
    states = tower(pixel_values, output_hidden_states=True).hidden_states
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    if config.vision_feature_select_strategy == "default":  # without the class token
        chosen = [state[:, 1:] for state in chosen]
    return torch.cat(chosen, dim=-1)
