"""One number per view: what the server, the key holder and coalitions can tell of each client.

A view is linear in the clients' vectors (`protocols.leakage`): its leverage says how much of a
client's vector it determines, and with local noise its mu how well two inputs of the client can
be told apart (mu-GDP). Over a run the mus of the aggregations add up in squares; leverages do not,
since each aggregation sums new vectors, and the largest is given.

Distances are not linear: whoever sees one of a client's distances, or which neighbours clients
chose by them, is credited with all of a noised update, mu = 1/z. So is a server that aggregates in
the clear. Weights are taken as fixed,
though neighbours are chosen by distances of noised vectors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from protocols.leakage import View

Viewer = Literal["server", "key_holder", "coalition"]


class EffectivePrivacy(BaseModel):
    """What one viewer can tell of one client over a run.

    ``leverage`` holds the largest of the aggregations by vector, ``distances`` the distances of
    the client that the viewer sees. ``mu`` is null where no noise limits the view; ``epsilon``
    holds at the run's delta, null where it is infinite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    viewer: Viewer
    members: tuple[str, ...]
    client: str
    leverage: dict[str, float]
    distances: int = 0
    mu: float | None = None
    epsilon: float | None = None


class ViewsOfARun:
    """Collects the views of a run's aggregations.

    ``noise``: each client's local noise over its sensitivity, empty without client-level noise.
    ``concentrated``: some of the noise is discrete, shared in a sum, so that epsilon follows from
    mu squared over two as concentrated DP and not as that of a Gaussian.
    """

    def __init__(self, noise: Mapping[str, float], *, concentrated: bool = False) -> None:
        self._noise, self._concentrated = noise, concentrated
        self._leverage: dict[tuple[Viewer, tuple[str, ...], str], dict[str, float]] = {}
        self._distances: dict[tuple[Viewer, tuple[str, ...], str], int] = {}
        self._squares: dict[tuple[Viewer, tuple[str, ...], str], float] = {}

    def add(self, views: Sequence[View], cohort: Collection[str]) -> None:
        """Add one aggregation's views, of all its vectors; a joint clip covers them together."""
        viewers = {view.viewer for view in views}
        for members in viewers:
            kind = _kind(members)
            seen = [view for view in views if view.viewer == members]
            for client in sorted(set(cohort) - set(members)):
                self._add_client((kind, members, client), seen)

    def _add_client(self, key: tuple[Viewer, tuple[str, ...], str], seen: list[View]) -> None:
        client = key[2]
        leverage = self._leverage.setdefault(key, {})
        largest: float = 0.0
        for view in seen:
            leverage[view.vector] = max(
                leverage.get(view.vector, 0.0), view.leverage.get(client, 0.0)
            )
            mu = view.mu.get(client, 0.0)
            largest = max(largest, math.inf if mu is None else mu)
        distances = sum(_distances_of(view, client) for view in seen)
        if distances or any(view.sees_selections and client in view.leverage for view in seen):
            largest = max(largest, self._local_mu(client))
        self._distances[key] = self._distances.get(key, 0) + distances
        self._squares[key] = self._squares.get(key, 0.0) + largest**2

    def add_in_clear(self, vectors: Collection[str], cohort: Collection[str]) -> None:
        """Add an aggregation whose server sees every client's vectors."""
        views = [
            View(
                vector=vector,
                viewer=("server",),
                rank=len(cohort),
                num_sums=len(cohort),
                num_distances=0,
                leverage=dict.fromkeys(cohort, 1.0),
                mu={client: _finite(self._local_mu(client)) for client in cohort},
            )
            for vector in vectors
        ]
        self.add(views, cohort)

    def _local_mu(self, client: str) -> float:
        noise = self._noise.get(client, 0.0)
        return 1 / noise if noise else math.inf

    def result(
        self, *, delta: float | None = None, claimed: Mapping[str, float] | None = None
    ) -> list[EffectivePrivacy]:
        """One entry per viewer and client.

        At ``delta``, epsilon is that of mu or the ``claimed`` one, which holds for every view,
        whichever is smaller.
        """
        entries = []
        for key in sorted(self._leverage):
            kind, members, client = key
            mu = math.sqrt(self._squares[key]) if self._noise else math.inf
            bound = (claimed or {}).get(client, math.inf)
            if delta is not None and self._noise:
                bound = min(bound, self._epsilon(mu, delta))
            entries.append(
                EffectivePrivacy(
                    viewer=kind,
                    members=members if kind == "coalition" else (),
                    client=client,
                    leverage=self._leverage[key],
                    distances=self._distances[key],
                    mu=_finite(mu),
                    epsilon=_finite(bound),
                )
            )
        return entries

    def _epsilon(self, mu: float, delta: float) -> float:
        from pilot_secure.privacy.accountants import gaussian_epsilon
        from pilot_secure.privacy.concentrated import concentrated_epsilon

        if self._concentrated:
            return concentrated_epsilon(mu**2 / 2, delta)
        return gaussian_epsilon(mu, delta)


def _kind(members: tuple[str, ...]) -> Viewer:
    if members == ("server",):
        return "server"
    return "key_holder" if members == ("key-holder",) else "coalition"


def _distances_of(view: View, client: str) -> int:
    """Distances of a client in a view: one per member of a coalition, all for the key holder."""
    if not view.num_distances or client not in view.leverage:
        return 0
    if _kind(view.viewer) == "key_holder":
        return len(view.leverage) - 1
    return len(view.viewer)


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def most_exposed(entries: Sequence[EffectivePrivacy]) -> dict[tuple[str, int], EffectivePrivacy]:
    """The worst entry of each kind of viewer and size of coalition: by mu, then by leverage."""

    def exposure(entry: EffectivePrivacy) -> tuple[float, float, int]:
        leverage = max(entry.leverage.values(), default=0.0)
        return (math.inf if entry.mu is None else entry.mu, leverage, entry.distances)

    worst: dict[tuple[str, int], EffectivePrivacy] = {}
    for entry in entries:
        key = (entry.viewer, len(entry.members))
        if key not in worst or exposure(entry) > exposure(worst[key]):
            worst[key] = entry
    return worst
