"""Did encrypted distances choose the neighbours that exact ones would? A check of simulations only.

No party of a federation could make it: it takes all uploads in the clear. A simulator's owner has
them in the clients' journals, compares, and forgets them; nothing of it is sent, and no machine of
the protocol knows of it. A change is a near-tie: the sketch's error (`sketch_size`) and the grid of
released distances are larger than the gap between two neighbours.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pilot_secure.files import told_in_a_sentence
from pilot_secure.summary import ChangedNeighbour
from protocols import AggregationResult
from protocols.selection import select

IN_MEMORY = 1 << 24
"""Longest vector that is kept in memory for the check, in numbers: 64 MiB a client."""
_PIECE = 1 << 18

Vector = NDArray[np.float32]


def set_aside(vector: Vector, folder: Path) -> Vector:
    """Return a vector to be compared later; a long one lies in a file of `folder` without a name.

    Raises: RunFolderError if the disk refuses.
    """
    if vector.size <= IN_MEMORY:
        return vector
    with told_in_a_sentence(folder), tempfile.TemporaryFile(dir=folder) as file:
        vector.tofile(file)
        return np.memmap(file, vector.dtype, "r", shape=vector.shape)


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
    measured = {
        client: result
        for client, result in sorted(results.items())
        if result.row and {client, *result.row} <= uploads.keys()
    }
    pairs = {
        frozenset((client, peer)) for client, result in measured.items() for peer in result.row
    }
    distances = {pair: _distance(*(uploads[name] for name in sorted(pair))) for pair in pairs}
    changes = {}
    for client, result in measured.items():
        exact = {peer: distances[frozenset((client, peer))] for peer in result.row}
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
    """Add up in double precision, piece by piece: of long vectors only a piece is in memory."""
    squared = 0.0
    for start in range(0, one.size, _PIECE):
        piece = slice(start, start + _PIECE)
        difference = one[piece].astype(np.float64) - other[piece]
        squared += float(difference @ difference)
    return math.sqrt(squared)
