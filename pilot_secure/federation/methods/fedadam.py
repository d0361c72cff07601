"""FedAdam: a step of Adam towards the mean of the clients' models.

Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2 (FedAdam):

    Δ_t = mean of the clients' models − x_t
    m_t = β1 m_{t−1} + (1 − β1) Δ_t,      m_{−1} = 0
    v_t = β2 v_{t−1} + (1 − β2) Δ_t²,     v_{−1} = τ²
    x_{t+1} = x_t + η m_t / (√v_t + τ)

There is no bias correction, as in the paper. Δ is weighted by n_k, as in its experiments.

Every client takes the server's step itself: the means are delivered to all, and a step is a
function of the means so far. So the server needs to know no more than the means it has anyway,
under secure aggregation too.
"""

from __future__ import annotations

import numpy as np

from pilot_secure.federation.methods.fedavg import FedAvg
from pilot_secure.federation.state import ClientState


class FedAdam(FedAvg):
    """As FedAvg, with the mean's place taken by a step of Adam towards it."""

    name = "fedadam"

    def combine(self, state: ClientState, vector: str, mean: np.ndarray) -> np.ndarray:
        """Take the step; x, m and v are kept in the state's memory, x less the start."""
        settings, memory = self._config.methods, state.memory
        x: np.ndarray = memory.get(f"{vector}.global", np.zeros_like(mean))
        m = memory.get(f"{vector}.momentum", np.zeros_like(mean))
        v = memory.get(f"{vector}.variance", np.full_like(mean, settings.server_tau**2))
        delta = mean - x
        m = settings.server_beta1 * m + (1 - settings.server_beta1) * delta
        v = settings.server_beta2 * v + (1 - settings.server_beta2) * delta**2
        x = x + settings.server_learning_rate * m / (np.sqrt(v) + settings.server_tau)
        memory[f"{vector}.global"] = x
        memory[f"{vector}.momentum"], memory[f"{vector}.variance"] = m, v
        return x
