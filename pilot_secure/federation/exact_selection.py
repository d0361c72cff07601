"""Did encrypted distances choose the neighbours that exact ones would? A check of simulations only.

No party of a federation could make it: it takes all uploads in the clear. A simulator's owner has
them in the clients' journals, compares, and forgets them; nothing of it is sent, and no machine of
the protocol knows of it. A change is a near-tie: the sketch's error (`sketch_size`) and the grid of
released distances are larger than the gap between two neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pilot_secure.summary import ChangedNeighbour
from protocols import AggregationResult
from protocols.selection import select

CHECKED_UP_TO = 1 << 24
"""Longest vector that journals keep for the check, in numbers: 64 MiB a client."""

Vector = NDArray[np.float32]


def changed_neighbours(
    round_number: int,
    stage: int,
    results: Mapping[str, AggregationResult],
    uploads: Mapping[str, Vector],
) -> dict[str, tuple[ChangedNeighbour, ...]]:
    """Return, for each client with a row of distances, whom it chose in place of whom.

    ``uploads`` holds the vectors whose distances were measured. Clients whose rows name somebody
    without one are left out.
    """
    changes = {}
    for client, result in sorted(results.items()):
        if not result.row or not {client, *result.row} <= uploads.keys():
            continue
        exact = {peer: _distance(uploads[client], uploads[peer]) for peer in result.row}
        due = set(select(exact, len(result.neighbours)).neighbours)
        chosen = sorted(set(result.neighbours) - due, key=exact.__getitem__)
        passed_over = sorted(due - set(result.neighbours), key=exact.__getitem__)
        changes[client] = tuple(
            ChangedNeighbour(
                round=round_number,
                stage=stage,  # type: ignore[arg-type]
                client=client,
                chosen=one,
                chosen_distance=exact[one],
                passed_over=other,
                passed_over_distance=exact[other],
            )
            for one, other in zip(chosen, passed_over, strict=True)
        )
    return changes


def _distance(one: Vector, other: Vector) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))
