"""FedProx: FedAvg, with local training held near the global model.

Source: Li et al., MLSys 2020, Algorithm 2: clients minimise F_k(θ) + μ/2 ‖θ − θ_t‖².
"""

from __future__ import annotations

from pilot_secure.federation.methods.fedavg import FedAvg
from pilot_secure.federation.plan import TrainingPlan


class FedProx(FedAvg):
    """As FedAvg, with the proximal term over everything that is trained."""

    name = "fedprox"

    def plan(self, stage: int) -> TrainingPlan:
        """The proximal term around what the round started from, the global model."""
        return TrainingPlan(proximal_weight=self._config.methods.proximal_weight)
