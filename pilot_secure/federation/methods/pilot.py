"""Pilot: task adapter and client adapter, then the cross-task mixture of adapters.

Source: Xiong et al., AAAI 2025. Task adapters are averaged within each task (Eq. 10); every
client's text adapter is combined with those of its nearest neighbours (Eq. 11-12), or by one of
the simpler rules of Table 5 (``text_aggregation``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pilot_secure.federation.methods.base import Method
from pilot_secure.federation.state import (
    ClientState,
    TensorDict,
    add_vector,
    difference,
    flatten,
)
from pilot_secure.federation.worker import Worker
from pilot_secure.models import MixtureConnector, TwoAdapterConnector, new_adapter
from protocols import SealedSum, SumSpec, personalise
from protocols.identity import SERVER

TASK, TEXT = "task_adapter", "text_adapter"


def task_sum_id(task: str) -> str:
    """Return the id of the sum of a task's adapters."""
    return f"task.{task}"


def _mean(sum_id: str, vector: str, clients: Sequence[str]) -> SumSpec:
    return SumSpec(id=sum_id, vector=vector, recipient=SERVER, contributors=tuple(clients))


class Pilot(Method):
    """The paper's method."""

    name = "pilot"

    def stages(self, round_number: int) -> tuple[int, ...]:
        """``stage1_once``: stage 1 in round 1, stage 2 after it; else both in every round."""
        if self._config.federation.schedule == "both_stages":
            return (1, 2)
        return (1,) if round_number == 1 else (2,)

    def sums(
        self, tasks: Mapping[str, str], cohort: Sequence[str], stage: int
    ) -> tuple[SumSpec, ...]:
        """One mean of task adapters per task, and the text adapters' sums.

        These are one sealed sum per client (``adaptive``), one mean per task (``same_task``) or one
        of all (``all``) for everybody, or none.
        """
        members = {task: sorted(c for c in cohort if tasks[c] == task) for task in self._tasks}
        members = {task: clients for task, clients in members.items() if clients}
        sums = [_mean(task_sum_id(task), TASK, clients) for task, clients in members.items()]
        if self._text == "adaptive":
            sums += [
                SumSpec(id=f"text.{client}", vector=TEXT, recipient=client, contributors="selected")
                for client in cohort
            ]
        elif self._text == "same_task":
            sums += [_mean(f"text.{task}", TEXT, clients) for task, clients in members.items()]
        elif self._text == "all":
            sums.append(_mean("text.all", TEXT, sorted(cohort)))
        return tuple(sorted(sums, key=lambda spec: spec.id))

    @property
    def _text(self) -> str:
        return self._config.federation.text_aggregation

    def start(self, worker: Worker) -> dict[str, TensorDict]:
        """The scaled base connector and the fresh LoRA: public, equal for everybody."""
        adapter = new_adapter(worker.base_connector, scale=self._config.model.adapter_init_scale)
        task_adapter = {name: t.detach().clone() for name, t in adapter.state_dict().items()}
        if self._text == "none":
            return {TASK: task_adapter}
        return {TASK: task_adapter, TEXT: worker.initial_text_adapter()}

    def begin_stage(self, state: ClientState, stage: int, worker: Worker, task: str) -> None:
        """Put the stage's connector into ``state``; adapters carry over from the other stage."""
        if stage == 1:
            state.connector = self._two_adapters(state, worker)
        else:
            state.connector = self._mixture(state, worker, task)

    def _two_adapters(self, state: ClientState, worker: Worker) -> TwoAdapterConnector:
        connector = TwoAdapterConnector(
            worker.base_connector,
            init_scale=self._config.model.adapter_init_scale,
            normalise_difference=self._config.training.normalise_difference,
        )
        if isinstance(state.connector, MixtureConnector):
            connector.task_adapter.load_state_dict(state.connector.task_adapter.state_dict())
            connector.client_adapter.load_state_dict(state.connector.client_adapter.state_dict())
            state.mixture = state.connector
        elif isinstance(state.connector, TwoAdapterConnector):
            return state.connector
        return connector

    def _mixture(self, state: ClientState, worker: Worker, task: str) -> MixtureConnector:
        if isinstance(state.connector, MixtureConnector):
            return state.connector
        first = state.connector or self._two_adapters(state, worker)
        assert isinstance(first, TwoAdapterConnector)
        start = self.start(worker)[TASK]
        others = {
            other: state.task_adapters.get(other, start) for other in self._tasks if other != task
        }
        if state.mixture is None:
            modules = {other: new_adapter(worker.base_connector) for other in others}
            for other, module in modules.items():
                module.load_state_dict(others[other])
            return MixtureConnector(
                first.task_adapter,
                first.client_adapter,
                modules,
                cross_task_init=self._config.model.cross_task_init,
                cross_task_adapter=self._config.model.cross_task_adapter,
                seed=worker.seed,
            )
        state.mixture.load_task_adapter_state(first.task_adapter_state())
        state.mixture.client_adapter.load_state_dict(first.client_adapter.state_dict())
        state.mixture.load_other_task_adapters(others)
        return state.mixture

    def upload(self, state: ClientState) -> dict[str, TensorDict]:
        """psi_t (in stage 2: psi_1) and the text adapter; the client adapter never leaves."""
        connector = state.connector
        assert isinstance(connector, TwoAdapterConnector | MixtureConnector)
        if self._text == "none":
            return {TASK: connector.task_adapter_state()}
        return {TASK: connector.task_adapter_state(), TEXT: state.text_adapter}

    def absorb_means(
        self,
        state: ClientState,
        means: Mapping[str, np.ndarray | None],
        worker: Worker,
        task: str,
    ) -> None:
        """Take the means: the own task's becomes psi_1, the others' the frozen psi_i.

        A client that has not trained yet gets its connector with the own task's first mean. A
        mean of text adapters, where there is one, takes the place of the client's own.
        """
        text = means.get("text.all" if self._text == "all" else f"text.{task}")
        if text is not None:
            state.text_adapter = add_vector(worker.initial_text_adapter(), text)
        start = self.start(worker)[TASK]
        for name in self._tasks:
            mean = means.get(task_sum_id(name))
            if mean is not None:
                state.task_adapters[name] = add_vector(start, mean)
        own = means.get(task_sum_id(task)) is not None
        if own and state.connector is None:
            state.connector = self._two_adapters(state, worker)
        connector = state.connector
        if connector is None:
            return
        assert isinstance(connector, TwoAdapterConnector | MixtureConnector)
        if own:
            connector.load_task_adapter_state(state.task_adapters[task])
        if isinstance(connector, MixtureConnector):
            others = {k: v for k, v in state.task_adapters.items() if k != task}
            connector.load_other_task_adapters(others)

    def absorb_personal(
        self, state: ClientState, sealed: SealedSum, worker: Worker, num_samples: int
    ) -> None:
        """Combine the text adapter with the neighbours' (Eq. 12).

        The sums are of differences from the public start. Where the coefficients do not add up to
        one (``literal``), the start shrinks with the rest, as it does on the adapters themselves.
        """
        start = worker.initial_text_adapter()
        own = flatten(difference(state.text_adapter, start))
        arguments = (num_samples, sealed.vector_sum, sealed.sum_nu, sealed.sum_u, sealed.sum_n)
        form = self._config.federation.eq12
        combined = add_vector(start, personalise(own, *arguments, form))
        if form == "literal" and sealed.sum_u > 0:
            weights = num_samples + sealed.sum_nu / sealed.sum_u
            shrink = weights / (num_samples + sealed.sum_n)
            for name, tensor in combined.items():
                tensor.sub_((1 - shrink) * start[name].cpu())
        state.text_adapter = combined
