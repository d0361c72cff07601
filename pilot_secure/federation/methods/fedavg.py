"""FedAvg: the n_k-weighted mean of everything that is trained, over all clients.

Source: McMahan et al., AISTATS 2017, Algorithm 1. Its relatives here differ from it in a line or
two: whom they average over (``task_fedavg``), what (``shepherd``), and what becomes of the mean
(``fedadam``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pilot_secure.federation.methods.base import Method
from pilot_secure.federation.state import ClientState, TensorDict, add_vector
from pilot_secure.federation.worker import Worker
from pilot_secure.models import Connector, new_adapter
from protocols import SumSpec
from protocols.identity import SERVER

CONNECTOR, TEXT = "connector", "text_adapter"
_SUM_NAMES = {CONNECTOR: "visual", TEXT: "text"}
"""What sum ids begin with; a task's name follows, and an id has at most 64 characters."""


def mean_id(vector: str, group: str) -> str:
    """Return the id of the sum of a vector over a group of clients."""
    return f"{_SUM_NAMES[vector]}.{group}"


class FedAvg(Method):
    """One adapter and the text adapter, both averaged over all clients."""

    name = "fedavg"
    vectors: tuple[str, ...] = (CONNECTOR, TEXT)

    def group(self, task: str) -> str:
        """Return the name of the group that a task's clients are averaged in."""
        return "all"

    def combine(self, state: ClientState, vector: str, mean: np.ndarray) -> np.ndarray:
        """Return what takes the vector's place, given the mean; both less the start, ``[D]``."""
        return mean

    def sums(
        self, tasks: Mapping[str, str], cohort: Sequence[str], stage: int
    ) -> tuple[SumSpec, ...]:
        """One mean per vector and group, for everybody."""
        groups: dict[str, list[str]] = {}
        for client in sorted(cohort):
            groups.setdefault(self.group(tasks[client]), []).append(client)
        sums = [
            SumSpec(
                id=mean_id(vector, group),
                vector=vector,
                recipient=SERVER,
                contributors=tuple(clients),
            )
            for vector in self.vectors
            for group, clients in groups.items()
        ]
        return tuple(sorted(sums, key=lambda spec: spec.id))

    def start(self, worker: Worker) -> dict[str, TensorDict]:
        """The base connector and the fresh LoRA: public, equal for everybody."""
        adapter = new_adapter(worker.base_connector).state_dict()
        both = {
            CONNECTOR: {name: tensor.detach().clone() for name, tensor in adapter.items()},
            TEXT: worker.initial_text_adapter(),
        }
        return {vector: both[vector] for vector in self.vectors}

    def upload(self, state: ClientState) -> dict[str, TensorDict]:
        """What has been trained, as far as it is averaged."""
        both = {CONNECTOR: _connector(state).task_adapter_state(), TEXT: state.text_adapter}
        return {vector: both[vector] for vector in self.vectors}

    def absorb_means(
        self,
        state: ClientState,
        means: Mapping[str, np.ndarray | None],
        worker: Worker,
        task: str,
    ) -> None:
        """Put the own group's means in the place of what was trained."""
        start = self.start(worker)
        for vector in self.vectors:
            mean = means.get(mean_id(vector, self.group(task)))
            if mean is None:
                continue
            tensors = add_vector(start[vector], self.combine(state, vector, mean))
            if vector == TEXT:
                state.text_adapter = tensors
            else:
                self.begin_stage(state, 1, worker, task)  # where a client has not trained yet
                _connector(state).load_task_adapter_state(tensors)


def _connector(state: ClientState) -> Connector:
    assert isinstance(state.connector, Connector)
    return state.connector
