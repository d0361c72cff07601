"""Which weights a run started from: one hash over the base model, whatever it was called."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_PEFT_PREFIX, _PEFT_INFIX, _ADAPTER = "base_model.model.", ".base_layer", "lora_"


def base_sha256(model: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of a model's tensors without its text adapter.

    It covers names, types, shapes and values as loaded, so a PEFT model has the hash of the model
    inside it, at any rank and however trained; the same checkpoint in another precision has
    another.
    """
    tensors = {
        name.removeprefix(_PEFT_PREFIX).replace(_PEFT_INFIX, ""): tensor
        for name, tensor in model.state_dict().items()
        if _ADAPTER not in name
    }
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
