"""What a federated method has to say: what is trained, what is sent, how it is combined.

There is one training loop (``federation.worker``) and one aggregation (``federation.clear`` or
``protocols``); a method only names its stages, its sums, and what a client does with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from pilot_secure.federation.state import ClientState, TensorDict
from pilot_secure.federation.worker import Worker
from protocols import SealedSum, SumSpec


class Method(Protocol):
    """A federated method."""

    name: str

    def stages(self, round_number: int) -> tuple[int, ...]:
        """Return the stages of a round (counted from 1), in order."""
        ...

    def sums(self, tasks: Mapping[str, str], cohort: Sequence[str]) -> tuple[SumSpec, ...]:
        """Return the sums of one aggregation over ``cohort``; none if nothing is exchanged.

        ``tasks`` maps every client of the federation to its task.
        """
        ...

    def begin_stage(self, state: ClientState, stage: int, worker: Worker, task: str) -> None:
        """Put the stage's connector into ``state``."""
        ...

    def start(self, worker: Worker) -> dict[str, TensorDict]:
        """Return the public common start of every vector that is sent, by vector name."""
        ...

    def upload(self, state: ClientState) -> dict[str, TensorDict]:
        """Return the tensors of every vector that is sent, by vector name."""
        ...

    def absorb_means(
        self,
        state: ClientState,
        means: Mapping[str, np.ndarray | None],
        worker: Worker,
        task: str,
    ) -> None:
        """Take the means delivered to everybody, by sum id; None: keep the previous one."""
        ...

    def absorb_personal(
        self, state: ClientState, sealed: SealedSum, worker: Worker, num_samples: int
    ) -> None:
        """Take the client's own sealed sum."""
        ...
