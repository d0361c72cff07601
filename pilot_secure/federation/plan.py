"""How one stage of local training departs from the ordinary; the loop itself is the worker's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPlan:
    """What a method asks of a stage of local training.

    Attributes:
        proximal_weight: μ of μ/2 ‖θ − θ₀‖², θ₀ being what the stage started from; 0: no such term.
    """

    proximal_weight: float = 0.0
