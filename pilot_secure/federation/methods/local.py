"""Local: every client trains by itself; nothing is exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.state import ClientState, TensorDict
from pilot_secure.federation.worker import Worker
from pilot_secure.models import SingleConnector
from protocols import SealedSum, SumSpec


class Local:
    """Connector and text adapter, trained on the client's own data alone."""

    name = "local"

    def __init__(self, config: SimulationConfig, tasks: Sequence[str]) -> None:
        pass

    def stages(self, round_number: int) -> tuple[int, ...]:
        """One stage a round."""
        return (1,)

    def sums(self, tasks: Mapping[str, str], cohort: Sequence[str]) -> tuple[SumSpec, ...]:
        """Nothing is summed."""
        return ()

    def start(self, worker: Worker) -> dict[str, TensorDict]:
        """Nothing is sent."""
        return {}

    def begin_stage(self, state: ClientState, stage: int, worker: Worker, task: str) -> None:
        """One adapter, a copy of the base connector, kept from round to round."""
        if state.connector is None:
            state.connector = SingleConnector(worker.base_connector)

    def upload(self, state: ClientState) -> dict[str, TensorDict]:
        """Nothing is sent."""
        return {}

    def absorb_means(
        self,
        state: ClientState,
        means: Mapping[str, np.ndarray | None],
        worker: Worker,
        task: str,
    ) -> None:
        """Nothing comes back."""

    def absorb_personal(
        self, state: ClientState, sealed: SealedSum, worker: Worker, num_samples: int
    ) -> None:
        """Nothing comes back."""
