"""What a client's model consists of besides the frozen base: adapters and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor, from_numpy, nn
from torch.nn import functional

from pilot_secure.models import PERSONAL, SHARED, MixtureConnector

TensorDict = dict[str, Tensor]


@dataclass
class PersonalAdapter:
    """A second text adapter that never leaves its client.

    Attributes:
        tensors: LoRA tensors by PEFT's names, shaped as the shared adapter's.
        max_weight: λ of the mixing weight w = λ · mean cosine similarity to the references.
        weighs: which adapter w is the weight of; the other has 1 − w.
        references: last hidden states [S, D] of some training prompts, to which a test prompt's
            is compared; None before they are needed.
    """

    tensors: TensorDict
    max_weight: float
    weighs: Literal["personal", "shared"]
    references: Tensor | None = None

    def shares(self, states: Tensor) -> dict[str, Tensor]:
        """Return each adapter's weight [B] for prompts with these last hidden states [B, D]."""
        assert self.references is not None
        similar = functional.cosine_similarity(states[:, None], self.references[None], dim=-1)
        weight = self.max_weight * similar.mean(1)
        first, second = (PERSONAL, SHARED) if self.weighs == "personal" else (SHARED, PERSONAL)
        return {first: weight, second: 1 - weight}


@dataclass
class ClientState:
    """A client's own adapters.

    Attributes:
        text_adapter: LoRA tensors of the language model, by PEFT's names.
        connector: the current stage's connector module (None: the base model's own).
        mixture: stage 2's connector, laid aside while stage 1 is trained again.
        task_adapters: the newest mean of every task's adapter, as delivered by the server.
        personal: a second text adapter, for methods that keep one.
        memory: flat vectors that a method keeps from one aggregation to the next, by name.

    Secrecy: the client's alone; what leaves it is masked.
    """

    text_adapter: TensorDict
    connector: nn.Module | None = None
    mixture: MixtureConnector | None = None
    task_adapters: dict[str, TensorDict] = field(default_factory=dict)
    personal: PersonalAdapter | None = None
    memory: dict[str, np.ndarray] = field(default_factory=dict)


def difference(current: TensorDict, start: TensorDict) -> dict[str, np.ndarray]:
    """Return ``current - start`` by name, as float32 arrays on the CPU."""
    return {
        name: (tensor.detach().cpu().float() - start[name].cpu().float()).numpy()
        for name, tensor in current.items()
    }


def flatten(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Concatenate the arrays in the order of their names' first appearance; shape ``[D]``."""
    return np.concatenate([array.ravel() for array in arrays.values()])


def add_vector(start: TensorDict, delta: np.ndarray) -> TensorDict:
    """Return ``start`` plus the flat vector ``delta`` of shape ``[D]``, tensor by tensor."""
    total = sum(tensor.numel() for tensor in start.values())
    if delta.shape != (total,):
        raise ValueError(f"vector has shape {delta.shape}: expected ({total},)")
    result, offset = {}, 0
    for name, tensor in start.items():
        piece = delta[offset : offset + tensor.numel()].astype(np.float32)
        result[name] = tensor.cpu().float() + from_numpy(piece).view(tensor.shape)
        offset += tensor.numel()
    return result
