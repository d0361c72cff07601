"""What distances tell: a client's task, and after enough of them its whole vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Rows = Mapping[str, Mapping[str, float]]


def pairwise(vectors: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Every client's row of Euclidean distances to the others."""
    return {
        k: {j: float(np.linalg.norm(x - y)) for j, y in vectors.items() if j != k}
        for k, x in vectors.items()
    }


def task_accuracy(rows: Rows, tasks: Mapping[str, str]) -> float:
    """How often a client's nearest others are of its task, over all clients that have a row.

    Each guesses as many as its task has other members. Chance is :func:`task_chance`.
    """
    hits = guesses = 0
    for client, row in rows.items():
        mates = sum(tasks[other] == tasks[client] for other in row)
        nearest = sorted(row, key=lambda other: (row[other], other))[:mates]
        hits += sum(tasks[other] == tasks[client] for other in nearest)
        guesses += mates
    return hits / guesses if guesses else 0.0


def task_chance(rows: Rows, tasks: Mapping[str, str]) -> float:
    """What guessing at random gets right."""
    mates = [sum(tasks[other] == tasks[client] for other in row) for client, row in rows.items()]
    sizes = [len(row) for row in rows.values()]
    weighted = sum(m * m / size for m, size in zip(mates, sizes, strict=True) if size)
    return weighted / sum(mates) if sum(mates) else 0.0


def vector_from_distances(
    distance: Callable[[NDArray[np.float64]], float],
    length: int,
    queries: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Estimate x of ``length`` from distances to vectors of one's own choice.

    |x - y|^2 - |x|^2 is linear in x: ``length`` + 1 queries determine it, fewer leave the part of x
    outside their span at zero. ``distance`` is what the attacker may ask, ``queries`` how often.
    """
    points = generator.normal(size=(queries, length))
    squares = np.array([distance(y) ** 2 for y in points])
    matrix = np.hstack([np.ones((queries, 1)), -2 * points])
    solved, *_ = np.linalg.lstsq(matrix, squares - (points**2).sum(axis=1), rcond=None)
    estimate: NDArray[np.float64] = solved[1:]
    return estimate


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The cosine of two vectors, 0 for one without length."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0
