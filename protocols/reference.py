"""The whole aggregation on one page of plain numpy: what the machines must compute.

No party, no message, no mask: each step is what its phase stands for. The machines equal it within
``FixedPoint.error_bound`` (and, where distances decide, within the error of encrypted distances,
which is why a run's own selection can be handed in and replayed).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.parameters import AggregationParameters, SumSpec
from protocols.selection import Chosen, select, weight

Vectors = Mapping[str, Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class ClearSum:
    """One sum in the clear: sum of v x [D] float64, its denominators, and who is in it."""

    vector_sum: NDArray[np.float64]
    sum_nu: float
    sum_u: float
    sum_n: int
    contributors: tuple[str, ...]

    @property
    def mean(self) -> NDArray[np.float64]:
        """The weighted mean, [D]."""
        return self.vector_sum / self.sum_nu


def aggregate(
    parameters: AggregationParameters,
    vectors: Vectors,
    num_samples: Mapping[str, int],
    *,
    participants: Collection[str] | None = None,
    survivors: Collection[str] | None = None,
    selections: Mapping[str, Chosen] | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
    noise: Mapping[str, Mapping[str, NDArray[np.float64]]] | None = None,
) -> dict[str, ClearSum | None]:
    """Return {sum id: the sum over the survivors, or None below the minimum}.

    Args:
        vectors: {client: {vector: [D] float32}}, flat.
        num_samples: {client: n_k}.
        participants: who is there when distances are compared; default the cohort.
        survivors: who is there when sums are opened (a subset); default the participants.
        selections: a secure run's selections to replay; default from exact distances.
        weights: {recipient: {contributor: u}} to replay; default from the selections.
        noise: {sum id: {contributor: [D]}}, a secure run's noise on the terms v x to replay.
    """
    present = sorted(parameters.cohort if participants is None else participants)
    left = set(present if survivors is None else survivors)
    clipped = {
        name: {v: np.clip(x, -parameters.clip[v], parameters.clip[v]) for v, x in own.items()}
        for name, own in vectors.items()
    }
    rows = distance_rows(parameters, vectors, present)
    if selections is None:
        few = parameters.min_contributors - 1
        selections = {k: select(row, parameters.num_neighbours, few) for k, row in rows.items()}
    results: dict[str, ClearSum | None] = {}
    for spec in parameters.sums:
        applied = _weights(parameters, spec, left, selections, rows, weights)
        enough = len(applied) + spec.sealed >= parameters.min_contributors
        if not enough or (spec.sealed and spec.recipient not in left):
            results[spec.id] = None
            continue
        terms = [num_samples[j] * u * clipped[j][spec.vector].astype(float) for j, u in applied]
        terms += [noise[spec.id][j] for j, _u in applied if noise and spec.id in noise]
        results[spec.id] = ClearSum(
            vector_sum=np.sum(terms, axis=0),
            sum_nu=sum(num_samples[j] * u for j, u in applied),
            sum_u=sum(u for _j, u in applied),
            sum_n=sum(num_samples[j] for j, _u in applied),
            contributors=tuple(j for j, _u in applied),
        )
    return results


def distance_rows(
    parameters: AggregationParameters, vectors: Vectors, present: Collection[str]
) -> dict[str, dict[str, float]]:
    """Return {client: {peer: distance}}, Eq. 11; empty without selected sums."""
    name = parameters.distance_vector
    if name is None:
        return {}
    flat = {client: vectors[client][name].astype(float) for client in present}
    return {
        k: {j: float(np.linalg.norm(flat[k] - flat[j])) for j in present if j != k} for k in present
    }


def _weights(
    parameters: AggregationParameters,
    spec: SumSpec,
    left: Collection[str],
    selections: Mapping[str, Chosen],
    rows: Mapping[str, Mapping[str, float]],
    given: Mapping[str, Mapping[str, float]] | None,
) -> list[tuple[str, float]]:
    """Return [(contributor, u)] over the survivors; one for all in sums with named members."""
    if spec.contributors != "selected":
        return [(name, 1.0) for name in parameters.potential_contributors(spec) if name in left]
    k = spec.recipient
    if k not in selections:
        return []
    chosen = selections[k]
    return [
        (j, given[k][j] if given is not None else weight(chosen.scale, rows[k][j]))
        for j in chosen.neighbours
        if j in left
    ]
