"""Several processes that train one client together, each on a GPU, as `accelerate launch` starts
them.

Rank 0 is the run: its keys, data, transcript and run folder are there alone. The others hold the
base model, wait to be told what is trained, and take their part of every batch; the gradients are
summed over all before a step, which all take alike. They are processes of one party: what they are
told is a client's own, and is shown to nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pilot_secure.federation.plan import TrainingPlan
from pilot_secure.federation.state import ClientState

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from pilot_secure.data import EncodedSample

PATIENCE = timedelta(days=30)
"""For how long the others wait to be told: rank 0 aggregates and scores in between."""


@dataclass(frozen=True)
class TrainingJob:
    """What is trained next, for how many steps, from which state, and the label of its draws."""

    state: ClientState
    stage: int
    plan: TrainingPlan
    steps: int
    label: str


@dataclass(frozen=True)
class BatchPart:
    """What every process takes its rows of, and then sums up.

    Attributes:
        encoded, features: the rows, token ids and vision features [n, N, C].
        share: which share of the step's batch they are.
        last: whether the step is taken on what has come.
    """

    encoded: Sequence[EncodedSample]
    features: Tensor
    share: float
    last: bool

    def of_rank(self, rank: int, count: int) -> BatchPart:
        """Return a process's rows; the first process has some whenever there are any."""
        total = len(self.encoded)
        start, stop = (-(-total * place // count) for place in (rank, rank + 1))
        share = self.share * ((stop - start) / total)
        return BatchPart(self.encoded[start:stop], self.features[start:stop], share, self.last)


class Ranks:
    """The processes of this launch; a run that nobody launched is one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes

    def tell(self, message: TrainingJob | BatchPart | None) -> None:
        """Tell the others; None ends what they do: a training, and outside of one the run."""
        if self.count > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list([message], from_process=0)

    def told(self) -> Any:
        """Wait for what rank 0 tells next."""
        from accelerate.utils import broadcast_object_list

        (message,) = broadcast_object_list([None], from_process=0)
        return message

    def sum_over_all(self, named: Mapping[str, float]) -> dict[str, float]:
        """Return the sums of numbers over the processes, by name; one that lacks a name has 0."""
        if self.count == 1:
            return dict(named)
        from accelerate.utils import gather_object

        everywhere = gather_object([dict(named)])
        return {name: sum(found.get(name, 0.0) for found in everywhere) for name in named}


def sum_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes; one that has none adds zero."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        own = parameter.grad if parameter.grad is not None else parameter.new_zeros(parameter.shape)
        parameter.grad = accelerator.reduce(own, reduction="sum")
