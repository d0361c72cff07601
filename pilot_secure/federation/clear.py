"""Aggregation in the clear: the same sums as under masks, on vectors that the server sees.

It is the reference that a secure run is compared with: selection and weights are the functions of
``protocols.selection``, the sums are float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pilot_secure.federation.messages import ClearSum, ClearUpdate, vector_bytes, vector_from_bytes
from protocols import AggregationParameters
from protocols.selection import select, weight

Rows = Mapping[str, Mapping[str, float]]


def aggregate_in_clear(
    parameters: AggregationParameters,
    updates: Mapping[str, ClearUpdate],
    replayed: Rows | None,
) -> dict[str, dict[str, Any]]:
    """Return the fields of every client's ``ClearDelivery``, by client.

    ``replayed`` gives {recipient: {neighbour: u}} in place of a selection by distance. A sum with
    fewer contributors than ``min_contributors`` is opened all the same: nothing is hidden here.
    """
    samples = {client: update.num_samples for client, update in updates.items()}
    vectors = {
        client: {name: vector_from_bytes(data) for name, data in update.vectors.items()}
        for client, update in updates.items()
    }
    means = {
        spec.id: _mean(
            [c for c in spec.contributors if c in updates], spec.vector, vectors, samples
        )
        for spec in parameters.sums
        if spec.contributors != "selected"
    }
    rows: dict[str, dict[str, float]] = {client: {} for client in updates}
    weights: dict[str, dict[str, float]] = {client: {} for client in updates}
    if parameters.distance_vector is not None:
        own = {client: vectors[client][parameters.distance_vector] for client in updates}
        rows = _distance_rows(own)
        weights = {
            client: dict((replayed or {}).get(client, {}))
            if replayed is not None
            else _weights(rows[client], parameters.num_neighbours)
            for client in updates
        }
    return {
        client: {
            "means": means,
            "personal": _personal(weights[client], own, samples) if weights[client] else None,
            "row": rows[client],
            "neighbours": tuple(sorted(weights[client])),
            "weights": {k: row[client] for k, row in weights.items() if client in row},
        }
        for client in updates
    }


def _mean(
    contributors: list[str],
    vector: str,
    vectors: Mapping[str, Mapping[str, np.ndarray]],
    samples: Mapping[str, int],
) -> bytes | None:
    """n_k-weighted mean (Eq. 10)."""
    if not contributors:
        return None
    total = sum(samples[c] * vectors[c][vector].astype(np.float64) for c in contributors)
    return vector_bytes(total / sum(samples[c] for c in contributors))


def _distance_rows(vectors: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Euclidean distances (Eq. 11), every client to every other."""
    return {
        k: {
            j: float(np.linalg.norm(x.astype(np.float64) - y.astype(np.float64)))
            for j, y in vectors.items()
            if j != k
        }
        for k, x in vectors.items()
    }


def _weights(row: Mapping[str, float], num_neighbours: int) -> dict[str, float]:
    chosen = select(row, num_neighbours)
    return {j: weight(chosen.scale, row[j]) for j in chosen.neighbours}


def _personal(
    weights: Mapping[str, float], vectors: Mapping[str, np.ndarray], samples: Mapping[str, int]
) -> ClearSum:
    """The sums of Eq. 12 over the neighbours that sent an update."""
    present = {j: u for j, u in weights.items() if j in vectors}
    total = sum(samples[j] * u * vectors[j].astype(np.float64) for j, u in present.items())
    return ClearSum(
        vector_sum=vector_bytes(np.asarray(total)),
        sum_nu=float(sum(samples[j] * u for j, u in present.items())),
        sum_u=float(sum(present.values())),
        sum_n=sum(samples[j] for j in present),
        num_contributors=len(present),
    )
