"""A federation of made-up updates, for attacks that need vectors which no run gives away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.identity import SERVER
from protocols.leakage import OpenedRow
from protocols.selection import select, weight

Vectors = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class SimulatedUpdates:
    """Updates of clients of several tasks: a part per task, and a larger one of their own.

    The defaults give the distances of trained text adapters: about 1.9 within a task and 2.3
    across.
    """

    tasks: dict[str, str]
    vectors: Vectors
    samples: dict[str, int]

    @classmethod
    def draw(
        cls,
        generator: np.random.Generator,
        *,
        length: int = 512,
        tasks: int = 3,
        clients_per_task: int = 3,
        own_norm: float = 1.35,
        task_norm: float = 0.9,
    ) -> SimulatedUpdates:
        """Draw them; sample counts lie between 32 and 128."""

        def direction(norm: float) -> NDArray[np.float64]:
            drawn = generator.normal(size=length)
            return drawn * norm / np.linalg.norm(drawn)

        common = {f"task-{t + 1}": direction(task_norm) for t in range(tasks)}
        names = [f"client-{i + 1:02d}" for i in range(tasks * clients_per_task)]
        of = {name: f"task-{i // clients_per_task + 1}" for i, name in enumerate(names)}
        return cls(
            tasks=of,
            vectors={name: common[of[name]] + direction(own_norm) for name in names},
            samples={name: int(generator.integers(32, 129)) for name in names},
        )

    def task_rows(self) -> list[OpenedRow]:
        """The task means, which everybody sees."""
        return [
            OpenedRow(
                "task_adapter",
                SERVER,
                {n: float(self.samples[n]) for n, t in self.tasks.items() if t == task},
            )
            for task in dict.fromkeys(self.tasks.values())
        ]

    def personal_rows(self, num_neighbours: int, *, sealed: bool) -> list[OpenedRow]:
        """Every client's personalised sum (Eq. 12): for itself where sealed, else for all."""
        rows = []
        for client, x in self.vectors.items():
            distances = {
                other: float(np.linalg.norm(x - y))
                for other, y in self.vectors.items()
                if other != client
            }
            chosen = select(distances, num_neighbours)
            coefficients = {
                other: self.samples[other] * weight(chosen.scale, distances[other])
                for other in chosen.neighbours
            }
            rows.append(OpenedRow("text_adapter", client if sealed else SERVER, coefficients))
        return rows

    def noised(self, deviation: float, generator: np.random.Generator) -> Vectors:
        """The updates under local Gaussian noise, for attacks alone."""
        return {n: x + deviation * generator.normal(size=x.shape) for n, x in self.vectors.items()}
