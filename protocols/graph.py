"""Who shares secrets and pairwise masks with whom: everybody, or a random regular graph.

Up to some dozens of clients the graph is complete. For large cohorts a k-regular graph makes a
client's cost grow with log n instead of n: a Harary graph (each vertex joined to the k/2 next ones
on either side of a circle) over a permutation drawn from the session id, so not by the server.
Such an attempt is SEMI-HONEST: a server that lies about survivors to different clients is noticed
by common neighbours only, and the last advertiser can grind the permutation.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova, "Secure Single-Server Aggregation with
(Poly)Logarithmic Overhead", CCS 2020, section 3: the graph (algorithm 1) and the conditions on
degree and threshold that :func:`smallest_graph` computes (definition 3.3 with the hypergeometric
tails of section 3.5).
"""

from __future__ import annotations

import math
from functools import lru_cache

from protocols.entropy import DeterministicEntropy
from protocols.errors import ParameterError
from protocols.parameters import AggregationParameters, SharingGraph


def sharing_threshold(parameters: AggregationParameters) -> int:
    """Return how many shares open a secret, and how many equal signatures confirm."""
    return parameters.threshold if parameters.graph is None else parameters.graph.threshold


def peers_of(
    parameters: AggregationParameters, session: bytes, members: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """Return, in order of name, the members that ``name`` shares secrets and masks with."""
    graph = parameters.graph
    if graph is None or graph.degree >= len(members) - 1:
        return tuple(member for member in members if member != name)
    circle, places = _circle(session, members)
    place, half = places[name], graph.degree // 2
    steps = [step for step in range(-half, half + 1) if step != 0]
    return tuple(sorted(circle[(place + step) % len(circle)] for step in steps))


@lru_cache(maxsize=8)
def _circle(session: bytes, members: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the members in an order drawn from the session id (Fisher-Yates), and its inverse."""
    entropy = DeterministicEntropy(b"sharing graph" + session)
    order = list(members)
    for last in range(len(order) - 1, 0, -1):
        chosen = _below(last + 1, entropy)
        order[last], order[chosen] = order[chosen], order[last]
    return tuple(order), {name: place for place, name in enumerate(order)}


def _below(bound: int, entropy: DeterministicEntropy) -> int:
    """Return a uniform integer below ``bound``: 64 bits, rejecting the uneven rest."""
    limit = (1 << 64) - (1 << 64) % bound
    while True:
        drawn = int.from_bytes(entropy.read(8), "big")
        if drawn < limit:
            return drawn % bound


def smallest_graph(
    num_clients: int,
    corrupt_fraction: float,
    dropout_fraction: float,
    *,
    security_bits: int = 40,
    correctness_bits: int = 20,
) -> SharingGraph:
    """Return the smallest even degree, with a threshold, that is safe and live for a cohort.

    Over all n clients, each at most: 2^-security_bits that some neighbourhood holds ``threshold``
    corrupt clients or more, or that the graph of honest survivors is not connected (bounded by
    some client having only corrupt or dropped-out neighbours); 2^-correctness_bits that some
    neighbourhood keeps fewer than ``threshold`` survivors.

    Raises:
        ParameterError: no degree below the cohort meets the bounds.
    """
    others = num_clients - 1
    corrupt = math.ceil(corrupt_fraction * num_clients)
    dropped = math.ceil(dropout_fraction * num_clients)
    secure = 2.0**-security_bits / num_clients
    live = 2.0**-correctness_bits / num_clients
    for degree in range(2, others, 2):
        isolated = _tail(others, corrupt + dropped, degree, degree)
        if isolated > secure:
            continue
        for threshold in range(2, degree + 1):
            if _tail(others, corrupt, degree, threshold) > secure:
                continue
            if _tail(others, dropped, degree, degree - threshold + 1) <= live:
                return SharingGraph(degree=degree, threshold=threshold)
            break
    raise ParameterError(f"no regular graph on {num_clients} clients is safe and live enough")


def _tail(population: int, marked: int, draws: int, at_least: int) -> float:
    """Return Pr[at least so many marked among ``draws`` without replacement] (hypergeometric)."""
    marked = min(marked, population)
    total = math.comb(population, draws)
    ways = sum(
        math.comb(marked, hit) * math.comb(population - marked, draws - hit)
        for hit in range(at_least, min(draws, marked) + 1)
    )
    return ways / total
