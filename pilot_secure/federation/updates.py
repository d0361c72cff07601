"""How a batch's losses become a step: on the mean gradient, clipped; the private way is
`pilot_secure.privacy.dp_sgd`, imported where it is asked for, since Opacus loads slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

import torch
from accelerate import Accelerator
from torch import Tensor

from pilot_secure.federation.plan import ProximalTerm
from pilot_secure.federation.ranks import sum_gradients


class Update(Protocol):
    """The steps of one training, a context around it."""

    steps: int

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None: ...

    def batches(self, count: int) -> Iterator[list[int]]:
        """Return an epoch's batches of ``range(count)``."""
        ...

    def step(self, losses: Tensor | None) -> None:
        """Take one step on the losses [B] of a batch, None where the batch is empty."""
        ...


class PlainUpdate:
    """Shuffled batches; a step on the mean loss and the proximal term, its gradient clipped."""

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        pull: ProximalTerm,
        generator: torch.Generator,
        *,
        batch_size: int,
        max_grad_norm: float,
    ) -> None:
        self._accelerator, self._optimizer, self._pull = accelerator, optimizer, pull
        self._generator = generator
        self._batch_size, self._max_grad_norm = batch_size, max_grad_norm
        self.steps = 0

    def __enter__(self) -> Self:
        self._optimizer.zero_grad(set_to_none=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        pass

    def batches(self, count: int) -> Iterator[list[int]]:
        """Every row once, in an order that the generator draws."""
        order = torch.randperm(count, generator=self._generator).tolist()
        size = self._batch_size
        return (order[start : start + size] for start in range(0, count, size))

    def add(self, losses: Tensor, share: float) -> None:
        """Add the gradient of some of a batch's rows, which are this share of it."""
        self._accelerator.backward((losses.mean() + self._pull.loss()) * share)

    def finish(self) -> None:
        """Take one step on what was added, here and in the processes that train along."""
        sum_gradients(self._accelerator, self._pull.parameters)
        self._accelerator.clip_grad_norm_(self._pull.parameters, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    def step(self, losses: Tensor | None) -> None:
        """Take one step on the losses of a whole batch."""
        assert losses is not None  # no shuffled batch is empty
        self.add(losses, 1.0)
        self.finish()
