"""What the linear views of an aggregation determine about one client: rank and leverage.

All that is opened is linear in the clients' vectors, coordinate by coordinate: a view is a matrix
A with one row per sum that the viewer sees and one column per client it does not know. Its rank
says how many independent combinations are known. The leverage of a victim v is the squared length
of e_v projected on the row space, e_v' A^+ A e_v: 0 when the view says nothing of v beyond what
others cover, 1 when v's vector is determined. Weights and sample counts are taken as known to the
viewer, which makes this an upper bound.

With local Gaussian noise of covariance Σ (diagonal, in units of each client's sensitivity) on the
vectors, the same view tells of client k as much as one number with
mu_k = sqrt(a_k' (A Σ A')^+ a_k), a_k the client's column: the mu of Gaussian differential privacy
(Dong et al. 2022). Leverage is mu_k² at Σ = 1: how much of what k's own noisy vector would tell
is left in the sums.

Distances are not linear per coordinate: a client's own row gives it one number per peer and
aggregation, which is counted beside the matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, islice
from math import comb

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from protocols.client_states import Contribution
from protocols.identity import SERVER
from protocols.messages import PlannedSum
from protocols.parameters import AggregationParameters
from protocols.selection import MIN_WEIGHT

MAX_COALITIONS = 2000


class View(BaseModel):
    """One viewer's knowledge of one vector over all other clients.

    ``leverage`` maps each client outside the coalition to 0..1; ``mu`` to its effective privacy
    where clients add noise (None: nothing limits it); ``num_distances`` counts the distances that
    the viewer knows (its members' rows and the scales they are told), which the matrix leaves out;
    ``sees_selections`` says whether it knows which neighbours each client chose by them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector: str
    viewer: tuple[str, ...]
    rank: int
    num_sums: int
    num_distances: int
    leverage: dict[str, float]
    mu: dict[str, float | None] = {}
    sees_selections: bool = False

    @property
    def most_exposed(self) -> tuple[str, float]:
        """The client with the highest leverage, and that leverage."""
        name = max(self.leverage, key=lambda client: (self.leverage[client], client))
        return name, self.leverage[name]


class LeakageReport(BaseModel):
    """The server's view and that of every coalition up to the bound, for every vector.

    ``coalitions_left_out`` counts those, of the largest sizes, for which there are too many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: tuple[View, ...]
    coalitions_left_out: int = 0

    def worst(self, size: int) -> dict[str, View]:
        """Return {vector: view of the coalition of ``size`` that has the highest leverage}.

        Size 0 is the server alone, who sees what no coalition of clients is needed for.
        """
        result: dict[str, View] = {}
        for view in self.views:
            members = () if view.viewer == (SERVER,) else view.viewer
            if len(members) != size or not view.leverage:
                continue
            known = result.get(view.vector)
            if known is None or view.most_exposed[1] > known.most_exposed[1]:
                result[view.vector] = view
        return result


@dataclass(frozen=True)
class OpenedRow:
    """One opened sum as a row: who can read it, and the coefficient of each contributor."""

    vector: str
    recipient: str
    coefficients: Mapping[str, float]


def opened_rows(
    parameters: AggregationParameters,
    plan: Iterable[PlannedSum],
    opened: Mapping[str, Collection[str]],
    contributions: Mapping[str, Contribution],
    num_samples: Mapping[str, int],
) -> list[OpenedRow]:
    """Return the opened sums of a run as rows; only a simulator, who holds all weights, can.

    ``opened`` maps the id of each opened sum to its contributors, as the server reports them;
    whether anybody took it home does not matter. Who has no entry in ``contributions`` counts with
    the smallest weight that a neighbour may apply.
    """
    rows = []
    for planned in plan:
        if planned.id not in opened:
            continue
        spec = parameters.sum(planned.id)
        coefficients = {}
        for name in opened[planned.id]:
            applied = 1.0
            if spec.contributors == "selected":
                known = contributions.get(name)
                applied = known.weights[planned.recipient] if known else MIN_WEIGHT
            coefficients[name] = num_samples[name] * applied
        rows.append(OpenedRow(spec.vector, planned.recipient, coefficients))
    return rows


def view_of(
    vector: str,
    clients: Collection[str],
    viewer: tuple[str, ...],
    rows: Iterable[OpenedRow],
    noise: Mapping[str, float] | None = None,
) -> View:
    """Return what ``viewer`` (the server, or a coalition of clients) knows of ``vector``.

    A coalition reads the sums for all and those sealed for its members, and knows its members'
    own vectors and noise; the server reads the sums for all only. ``noise`` is each client's
    standard deviation of local noise divided by its sensitivity.
    """
    coalition = set(viewer) - {SERVER}
    others = sorted(set(clients) - coalition)
    seen = [
        row
        for row in rows
        if row.vector == vector and (row.recipient == SERVER or row.recipient in coalition)
    ]
    matrix = np.array([[row.coefficients.get(name, 0.0) for name in others] for row in seen])
    matrix = matrix.reshape(len(seen), len(others))
    rank, leverages = rank_and_leverage(matrix)
    mu: dict[str, float | None] = {}
    if noise is not None:
        found = effective_mu(matrix, np.array([noise.get(name, 0.0) for name in others]))
        mu = {
            name: None if np.isinf(value) else float(value)
            for name, value in zip(others, found, strict=True)
        }
    return View(
        vector=vector,
        viewer=viewer,
        rank=rank,
        num_sums=len(seen),
        num_distances=0,
        leverage=dict(zip(others, map(float, leverages), strict=True)),
        mu=mu,
    )


def rank_and_leverage(matrix: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    """Return the rank of A [rows, clients] and the diagonal of A^+ A [clients]."""
    rank, squares = _squared_mu(matrix, np.ones(matrix.shape[1]))
    return rank, np.clip(squares, 0.0, 1.0)


def effective_mu(matrix: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mu of every client [clients]; infinite where noise does not cover its column.

    ``noise`` holds standard deviations relative to the sensitivity, 0 for a client without any.
    """
    return np.sqrt(_squared_mu(matrix, noise)[1])


def _squared_mu(
    matrix: NDArray[np.float64], deviations: NDArray[np.float64]
) -> tuple[int, NDArray[np.float64]]:
    """Return the rank of A Σ^(1/2) and a_k' (A Σ A')^+ a_k of every column."""
    if matrix.size == 0 or not matrix.any():
        return 0, np.zeros(matrix.shape[1])
    left, singular, _right = np.linalg.svd(matrix * deviations, full_matrices=False)
    kept = singular > singular.max() * 1e-10
    inside = left[:, kept].T @ matrix
    squares = ((inside / singular[kept, None]) ** 2).sum(axis=0)
    outside = np.linalg.norm(matrix - left[:, kept] @ inside, axis=0)
    uncovered = outside > np.abs(matrix).max() * 1e-9
    return int(kept.sum()), np.where(uncovered, np.inf, squares)


def coalitions_of(parameters: AggregationParameters) -> tuple[list[tuple[str, ...]], int]:
    """Return the coalitions of up to c_max clients, small ones first, and how many are left out.

    At most ``MAX_COALITIONS``: 40 clients have 10^11 coalitions of up to 19.
    """
    cohort = parameters.cohort
    sizes = range(1, min(parameters.max_colluders, len(cohort)) + 1)
    every = chain.from_iterable(combinations(cohort, size) for size in sizes)
    total = sum(comb(len(cohort), size) for size in sizes)
    return list(islice(every, MAX_COALITIONS)), max(0, total - MAX_COALITIONS)


def leakage_report(
    parameters: AggregationParameters,
    plan: Iterable[PlannedSum],
    opened: Mapping[str, Collection[str]],
    contributions: Mapping[str, Contribution],
    num_samples: Mapping[str, int],
    noise: Mapping[str, float] | None = None,
    noise_of_sums: Mapping[str, Mapping[str, float]] | None = None,
) -> LeakageReport:
    """Return rank and leverage for the server and every coalition of up to c_max clients.

    With ``noise`` (see :func:`view_of`) the effective privacy of every client, too;
    ``noise_of_sums`` takes its place for the vectors that it names. See
    :func:`opened_rows` for the other arguments.
    """
    rows = opened_rows(parameters, plan, opened, contributions, num_samples)
    coalitions, left_out = coalitions_of(parameters)
    views = []
    for vector in sorted(parameters.vector_lengths):
        own = (noise_of_sums or {}).get(vector, noise)
        clients = sorted({name for row in rows if row.vector == vector for name in _members(row)})
        server = view_of(vector, clients, (SERVER,), rows, own)
        ranks = vector == parameters.distance_vector and parameters.shows_selections
        views.append(server.model_copy(update={"sees_selections": ranks}))
        for members in coalitions:
            view = view_of(vector, clients, members, rows, own)
            distances = 0
            if vector == parameters.distance_vector:
                distances = sum(
                    contributions[n].num_distances for n in members if n in contributions
                )
            views.append(view.model_copy(update={"num_distances": distances}))
    return LeakageReport(views=tuple(views), coalitions_left_out=left_out)


def _members(row: OpenedRow) -> set[str]:
    return set(row.coefficients) | ({row.recipient} - {SERVER})


def close_survivor_sets(
    rounds: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return (sum id, round, later round, clients) where consecutive sums differ by one client.

    Two means of slowly changing vectors over sets that are one client apart are nearly that
    client's vector. ``rounds`` maps a label to {sum id: contributors}, in order.
    """
    found = []
    labels = list(rounds)
    for earlier, later in zip(labels, labels[1:], strict=False):
        for sum_id in sorted(set(rounds[earlier]) & set(rounds[later])):
            difference = set(rounds[earlier][sum_id]) ^ set(rounds[later][sum_id])
            if len(difference) == 1:
                found.append((sum_id, earlier, later, tuple(difference)))
    return found
