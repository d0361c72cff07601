"""FedDPA: a shared text adapter that is averaged, and a personal one that never leaves.

Source: Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024,
and its public code where the paper leaves a choice.

- FedDPA-T (``feddpa_variant: training``): in every round but the first, the personal adapter is
  trained beside the frozen shared one as it came from the server (weights α and 1 − α), then the
  shared one by itself.
- FedDPA-F (``fine_tuning``): after the last round, the personal adapter starts from the shared
  one and is trained by itself.

A test instance is answered by both: w = λ · mean cosine similarity of the last prompt token's
hidden state to those of S training instances, as the personal adapter sees them; the personal
adapter has weight w and the shared one 1 − w. In the public code it is the other way round
(``feddpa_weighs: shared``).

The paper has no images: the connector belongs to the shared model here. Stage 1 trains the shared
adapter, stage 2 the personal one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilot_secure.federation.methods.fedavg import FedAvg
from pilot_secure.federation.plan import TrainingPlan
from pilot_secure.federation.state import ClientState, PersonalAdapter
from pilot_secure.federation.worker import Samples, Worker
from protocols import SumSpec

SHARED_STAGE, PERSONAL_STAGE = 1, 2


class FedDPA(FedAvg):
    """As FedAvg, with a personal text adapter beside the shared one."""

    name = "feddpa"

    @property
    def _during_rounds(self) -> bool:
        return self._config.methods.feddpa_variant == "training"

    def stages(self, round_number: int) -> tuple[int, ...]:
        """The personal stage goes before the shared one (T), or after the last round (F)."""
        if self._during_rounds and round_number > 1:
            return (PERSONAL_STAGE, SHARED_STAGE)
        if not self._during_rounds and round_number == self._config.federation.rounds:
            return (SHARED_STAGE, PERSONAL_STAGE)
        return (SHARED_STAGE,)

    def plan(self, stage: int) -> TrainingPlan:
        """Stage 2 trains the personal adapter: beside the shared one (T) or by itself (F)."""
        if stage == SHARED_STAGE:
            return TrainingPlan()
        alpha = self._config.methods.feddpa_update_weight if self._during_rounds else 1.0
        return TrainingPlan(personal_weight=alpha)

    def sums(
        self, tasks: Mapping[str, str], cohort: Sequence[str], stage: int
    ) -> tuple[SumSpec, ...]:
        """The shared model's means; nothing of the personal adapter."""
        return super().sums(tasks, cohort, stage) if stage == SHARED_STAGE else ()

    def begin_stage(self, state: ClientState, stage: int, worker: Worker, task: str) -> None:
        """The personal adapter begins fresh (T) or as the shared one (F)."""
        super().begin_stage(state, stage, worker, task)
        if stage == PERSONAL_STAGE and state.personal is None:
            fresh = worker.initial_text_adapter()
            tensors = fresh if self._during_rounds else state.text_adapter
            state.personal = PersonalAdapter(
                {name: tensor.clone() for name, tensor in tensors.items()},
                max_weight=self._config.methods.feddpa_max_weight,
                weighs=self._config.methods.feddpa_weighs,
            )

    def prepare_to_answer(self, state: ClientState, worker: Worker, samples: Samples) -> None:
        """Take the hidden states of S training instances, drawn by the run's seed."""
        if state.personal is not None:
            count = self._config.methods.feddpa_references
            state.personal.references = worker.reference_states(state, samples, count)
