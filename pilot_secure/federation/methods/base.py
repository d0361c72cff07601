"""What a federated method has to say: what is trained, what is sent, how it is combined.

There is one training loop (``federation.worker``) and one aggregation (``federation.clear`` or
``protocols``); a method only names its stages, its sums, and what a client does with the result.
What it does not say is as here: one stage a round, one trained connector, nothing exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.plan import TrainingPlan
from pilot_secure.federation.state import ClientState, TensorDict
from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.models import SingleConnector
from protocols import SealedSum, SumSpec


class Method:
    """A federated method. ``tasks`` names the federation's tasks."""

    name: ClassVar[str]

    def __init__(self, config: SimulationConfig, tasks: Sequence[str]) -> None:
        self._config, self._tasks = config, tuple(tasks)

    def stages(self, round_number: int) -> tuple[int, ...]:
        """Return the stages of a round (counted from 1), in order."""
        return (1,)

    def trainers(self, cohort: Sequence[str]) -> Sequence[str]:
        """Return which clients of a round train."""
        return cohort

    def plan(self, stage: int) -> TrainingPlan:
        """Return how a stage's local training departs from the ordinary."""
        return TrainingPlan()

    def sums(
        self, tasks: Mapping[str, str], cohort: Sequence[str], stage: int
    ) -> tuple[SumSpec, ...]:
        """Return the sums of the aggregation after a stage; none if nothing is exchanged.

        ``tasks`` maps every client of the federation to its task.
        """
        return ()

    def start(self, worker: Worker) -> dict[str, TensorDict]:
        """Return the public common start of every vector that is sent, by vector name."""
        return {}

    def begin_stage(self, state: ClientState, stage: int, worker: Worker, task: str) -> None:
        """Put the stage's connector into ``state``: one adapter, kept from round to round."""
        if state.connector is None:
            state.connector = SingleConnector(worker.base_connector)

    def upload(self, state: ClientState) -> dict[str, TensorDict]:
        """Return the tensors of every vector that is sent, by vector name."""
        return {}

    def absorb_means(
        self,
        state: ClientState,
        means: Mapping[str, np.ndarray | None],
        worker: Worker,
        task: str,
    ) -> None:
        """Take the means delivered to everybody, by sum id; None: keep the previous one."""

    def prepare_to_answer(self, state: ClientState, worker: Worker, samples: Samples) -> None:
        """Make ready what answering needs beside the adapters, from the training samples."""

    def absorb_personal(
        self, state: ClientState, sealed: SealedSum, worker: Worker, num_samples: int
    ) -> None:
        """Take the client's own sealed sum."""
