"""How one stage of local training departs from the ordinary; the loop itself is the worker's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingPlan:
    """What a method asks of a stage of local training.

    Attributes:
        proximal_weight: μ of μ/2 ‖θ − θ₀‖², θ₀ being what the stage started from; 0: no such term.
        personal_weight: None: the shared text adapter and the connector are trained, without the
            personal adapter. A number: the personal adapter alone is trained, with this weight,
            beside the frozen shared one, which has the rest of 1.
    """

    proximal_weight: float = 0.0
    personal_weight: float | None = None


class ProximalTerm:
    """μ/2 ‖θ − θ₀‖² over the trained parameters, θ₀ their values when it is made (FedProx)."""

    def __init__(self, weight: float, parameters: list[nn.Parameter]) -> None:
        self.parameters, self._weight = parameters, weight
        self._anchors = [p.detach().clone() for p in parameters] if weight else []

    def loss(self) -> Tensor | float:
        """The term's value; 0.0 if its weight is."""
        if not self._weight:
            return 0.0
        pairs = zip(self.parameters, self._anchors, strict=True)
        return self._weight / 2 * torch.stack([(p - a).square().sum() for p, a in pairs]).sum()
