"""A client's adapters on disk, in formats that other tools read.

    adapter_config.json, adapter_model.safetensors    the text adapter, in PEFT's format:
                                                      `PeftModel.from_pretrained(base, folder)`
    connector.safetensors, connector.json             the connector module that replaces the
                                                      base model's, and how to build it

    personal/                                         a second text adapter in PEFT's format, and
                                                      references.safetensors, for methods that
                                                      keep one

PEFT saves no connector, so a client's model is both. All files are written at once or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from peft import PeftConfig
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pilot_secure.errors import RunFolderError
from pilot_secure.files import told_in_a_sentence, write_atomically

CONNECTOR_DESCRIPTION = "connector.json"
CONNECTOR_TENSORS = "connector.safetensors"
PERSONAL_FOLDER = "personal"
REFERENCES = "references.safetensors"


class ConnectorDescription(BaseModel):
    """How to build a connector module before its tensors are loaded.

    `kind` names the module's class, `arguments` are what its constructor takes beside the base
    model's connector.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: str
    arguments: dict[str, bool | int | float | str | list[str] | None] = {}


def save_text_adapter(
    folder: Path, config: PeftConfig, state: Mapping[str, Tensor], *, base: str
) -> None:
    """Write a LoRA in PEFT's format.

    `state` is named as by `peft.get_peft_model_state_dict`, without the adapter's name; names
    with ".default" lose it. `base` is the base model as the user named it: a
    folder, a hub id or the shipped one's name.
    Raises: RunFolderError if a file cannot be written; ValueError if `state` holds anything but
    LoRA matrices.
    """
    tensors = {name.replace(".default", ""): tensor for name, tensor in state.items()}
    foreign = [name for name in tensors if ".lora_" not in name]
    if foreign or not tensors:
        raise ValueError(f"expected LoRA matrices only, got {foreign or 'nothing'}")
    settings = {**config.to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(settings, indent=2, sort_keys=True, default=_plain)
    write_atomically(folder / "adapter_model.safetensors", _serialised(tensors))
    write_atomically(folder / "adapter_config.json", text.encode() + b"\n")


def save_personal_adapter(
    folder: Path,
    config: PeftConfig,
    state: Mapping[str, Tensor],
    references: Tensor | None,
    *,
    base: str,
) -> None:
    """Write a second LoRA, and the hidden states [S, D] that its weight is computed from.

    Raises: RunFolderError if a file cannot be written.
    """
    folder = folder / PERSONAL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    save_text_adapter(folder, config, state, base=base)
    if references is not None:
        write_atomically(folder / REFERENCES, _serialised({"references": references}))


def save_connector(
    folder: Path, description: ConnectorDescription, state: Mapping[str, Tensor]
) -> None:
    """Write a connector module's tensors and what is needed to build it again.

    Raises: RunFolderError if a file cannot be written.
    """
    write_atomically(folder / CONNECTOR_TENSORS, _serialised(state))
    text = description.model_dump_json(indent=2)
    write_atomically(folder / CONNECTOR_DESCRIPTION, text.encode() + b"\n")


def load_connector(folder: Path) -> tuple[ConnectorDescription, dict[str, Tensor]]:
    """Read what `save_connector` wrote; tensors on the CPU.

    Raises: RunFolderError if a file is missing or malformed.
    """
    path = folder / CONNECTOR_DESCRIPTION
    with told_in_a_sentence(path):
        text = path.read_bytes()
    try:
        description = ConnectorDescription.model_validate_json(text)
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"{path}: no connector description ({reason}).") from None
    path = folder / CONNECTOR_TENSORS
    with told_in_a_sentence(path):
        content = path.read_bytes()
    try:
        return description, load(content)
    except SafetensorError as error:
        raise RunFolderError(f"{path}: no safetensors file ({error}).") from None


def restore_connector(module: nn.Module, folder: Path) -> ConnectorDescription:
    """Load the tensors of `folder` into a module built from its description.

    Raises: RunFolderError if names or shapes differ.
    """
    description, state = load_connector(folder)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"{folder / CONNECTOR_TENSORS}: {reason}.") from None
    return description


def _serialised(state: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes of detached, contiguous copies on the CPU."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def _plain(value: Any) -> Any:
    """JSON for what PEFT's settings hold beside plain values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
