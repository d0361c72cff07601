"""Reconstruction by linear algebra: solve the sums that a viewer sees for every client's vector.

`protocols.leakage` says which clients a view determines; this carries it out. What is not
determined is estimated by the solution of least norm, whose share of the victim is its leverage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.identity import SERVER
from protocols.leakage import OpenedRow

Vectors = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Reconstruction:
    """Estimates by client, and how far each is from the truth: |estimate - x| / |x|."""

    estimates: dict[str, NDArray[np.float64]]
    relative_errors: dict[str, float]

    @property
    def best(self) -> tuple[str, float]:
        """The client that came out most exactly."""
        return min(self.relative_errors.items(), key=lambda item: item[1])


def reconstruct(
    rows: Iterable[OpenedRow], sent: Vectors, viewer: Collection[str], truth: Vectors | None = None
) -> Reconstruction:
    """Solve what ``viewer`` sees: the sums for all, and those for its members.

    ``sent`` holds what clients put into the sums (noised, where they add noise), ``truth`` what an
    attacker is after (default: the same). Members' own vectors are known and subtracted.
    """
    truth = sent if truth is None else truth
    coalition = set(viewer) - {SERVER}
    others = sorted(set(sent) - coalition)
    seen = [row for row in rows if row.recipient == SERVER or row.recipient in coalition]
    length = len(next(iter(sent.values())))
    matrix = np.array([[row.coefficients.get(name, 0.0) for name in others] for row in seen])
    sums = np.array(
        [
            sum((c * sent[name] for name, c in row.coefficients.items()), np.zeros(length))
            - sum(
                (c * sent[n] for n, c in row.coefficients.items() if n in coalition),
                np.zeros(length),
            )
            for row in seen
        ]
    )
    matrix, sums = matrix.reshape(len(seen), len(others)), sums.reshape(len(seen), length)
    solved = np.linalg.pinv(matrix) @ sums if len(seen) else np.zeros((len(others), length))
    estimates = dict(zip(others, solved, strict=True))
    errors = {
        name: float(np.linalg.norm(estimate - truth[name]) / np.linalg.norm(truth[name]))
        for name, estimate in estimates.items()
    }
    return Reconstruction(estimates, errors)
