"""Aggregation in the clear: the same sums as under masks, on vectors that the server sees.

It is the reference that a secure run is compared with: selection and weights are the functions of
``protocols.selection``, the sums are float64. With a replayed selection the sums are rounded to
the secure run's fixed point, so that both runs train on from the same values in every round:
what then still differs between them is the cryptography's doing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pilot_secure.federation.messages import ClearSum, ClearUpdate, vector_bytes, vector_from_bytes
from protocols import AggregationParameters
from protocols.ring import FixedPoint, clip_in_place
from protocols.selection import select, weight

Rows = Mapping[str, Mapping[str, float]]
Term = tuple[np.ndarray, float]


def aggregate_in_clear(
    parameters: AggregationParameters,
    updates: Mapping[str, ClearUpdate],
    replayed: Rows | None,
    min_contributors: int = 1,
) -> dict[str, dict[str, Any]]:
    """Return the fields of every client's ``ClearDelivery``, by client.

    ``replayed`` gives {recipient: {neighbour: u}} in place of a selection by distance. A sum with
    fewer contributors than ``min_contributors`` is None; nothing is hidden here, so that matters
    only where a secure run is repeated.
    """
    samples = {client: update.num_samples for client, update in updates.items()}
    vectors = {
        client: {name: vector_from_bytes(data) for name, data in update.vectors.items()}
        for client, update in updates.items()
    }
    summing = _Summing(parameters, rounded=replayed is not None)
    means = {
        spec.id: summing.mean(
            spec.vector,
            [(vectors[c][spec.vector], samples[c]) for c in spec.contributors if c in updates],
            min_contributors,
        )
        for spec in parameters.sums
        if spec.contributors != "selected"
    }
    rows: dict[str, dict[str, float]] = {client: {} for client in updates}
    weights: dict[str, dict[str, float]] = {client: {} for client in updates}
    personal: dict[str, ClearSum | None] = dict.fromkeys(updates)
    if parameters.distance_vector is not None:
        own = {client: vectors[client][parameters.distance_vector] for client in updates}
        rows = _distance_rows(own)
        for client in updates:
            chosen = _weights(rows[client], parameters)
            given = chosen if replayed is None else dict(replayed.get(client, {}))
            weights[client] = {j: u for j, u in given.items() if j in updates}
            if weights[client]:
                personal[client] = _personal(
                    weights[client], own, samples, summing, parameters.distance_vector
                )
    return {
        client: {
            "means": means,
            "personal": personal[client],
            "row": rows[client],
            "neighbours": tuple(sorted(weights[client])),
            "weights": {k: row[client] for k, row in weights.items() if client in row},
        }
        for client in updates
    }


class _Summing:
    """Weighted sums of vectors, in float64 or in the ring of the secure sums."""

    def __init__(self, parameters: AggregationParameters, *, rounded: bool) -> None:
        self.parameters, self._rounded = parameters, rounded

    def mean(self, vector: str, terms: Sequence[Term], minimum: int) -> bytes | None:
        """n_k-weighted mean (Eq. 10) of at least ``minimum`` terms."""
        if len(terms) < minimum:
            return None
        scale = np.float32(1 / int(sum(samples for _, samples in terms)))
        return vector_bytes(self.sum(vector, terms, len(terms)) * scale)

    def sum(self, vector: str, terms: Sequence[Term], contributors: int) -> np.ndarray:
        """Sum of weight times vector; ``contributors`` is what the secure sum makes room for."""
        if not self._rounded:
            total = sum(factor * array.astype(np.float64) for array, factor in terms)
            return np.asarray(total, dtype=np.float32)
        parameters = self.parameters
        clip = parameters.clip[vector]
        fixed = FixedPoint(parameters.ring_bits, contributors, clip, float(parameters.max_samples))
        words = np.zeros(len(terms[0][0]), np.uint32)
        floats, encoded = np.empty(len(words), np.float32), np.empty_like(words)
        for array, factor in terms:
            clipped = array.copy()
            clip_in_place(clipped, clip)
            fixed.encode(clipped, factor, floats, encoded)
            words += encoded
        fixed.decode(words, floats)
        return floats


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


def _weights(row: Mapping[str, float], parameters: AggregationParameters) -> dict[str, float]:
    chosen = select(row, parameters.num_neighbours, parameters.min_contributors - 1)
    return {j: weight(chosen.scale, row[j]) for j in chosen.neighbours}


def _personal(
    weights: Mapping[str, float],
    vectors: Mapping[str, np.ndarray],
    samples: Mapping[str, int],
    summing: _Summing,
    vector: str,
) -> ClearSum:
    """The sums of Eq. 12 over the neighbours that sent an update.

    Hidden neighbours make room for every other client in the ring, visible ones for themselves.
    """
    hidden = summing.parameters.neighbour_visibility == "hidden"
    contributors = len(vectors) - 1 if hidden else len(weights)
    terms = [(vectors[j], samples[j] * u) for j, u in sorted(weights.items())]
    return ClearSum(
        vector_sum=vector_bytes(summing.sum(vector, terms, contributors)),
        sum_nu=float(sum(samples[j] * u for j, u in weights.items())),
        sum_u=float(sum(weights.values())),
        sum_n=sum(samples[j] for j in weights),
        num_contributors=len(weights),
    )
