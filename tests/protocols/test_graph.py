"""Large cohorts: the regular graph, its parameters, and sums over it with drop-outs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from in_process import Federation, names
from test_aggregation import assert_equals_reference

from protocols import ParameterError
from protocols.graph import peers_of, smallest_graph
from protocols.parameters import SharingGraph


def big(count: int, degree: int, threshold: int) -> Federation:
    graph = SharingGraph(degree=degree, threshold=threshold)
    return Federation(count=count, plain=True, options={"graph": graph})


@pytest.mark.parametrize(("count", "degree"), [(10, 4), (31, 12), (200, 60)])
def test_the_graph_is_regular_and_symmetric_and_moves_with_the_session(count, degree) -> None:
    parameters = big(count, degree, 2).parameters
    members = names(count)
    graphs = []
    for session in (bytes(32), b"\x01" * 32):
        graph = {name: peers_of(parameters, session, members, name) for name in members}
        assert all(len(set(own)) == degree and name not in own for name, own in graph.items())
        assert all(name in graph[peer] for name, own in graph.items() for peer in own)
        graphs.append(graph)
    assert graphs[0] != graphs[1]


def test_a_small_cohort_gets_the_complete_graph() -> None:
    parameters = big(10, 20, 5).parameters
    assert peers_of(parameters, bytes(32), names(10), "client-03") == tuple(
        name for name in names(10) if name != "client-03"
    )


@pytest.mark.parametrize("phase", [None, "masked_input", "unmask"])
def test_a_sum_over_the_graph_equals_the_reference(phase: str | None) -> None:
    federation = big(30, 12, 7)
    drops = {} if phase is None else {phase: {"client-04", "client-17", "client-30"}}
    federation.run(drop_before=drops)
    report = federation.server.report
    assert federation.errors == {} and report.faults == {}
    left = report.survivors["masked_input"]
    assert report.opened == {"all": left}
    assert len(left) == (27 if phase == "masked_input" else 30)
    if phase != "unmask":
        assert_equals_reference(federation)


def test_a_client_hears_of_its_peers_only() -> None:
    from cheating import read

    federation = big(30, 12, 7).run(until="share")
    request = read(federation, "server", federation.server.request("client-05"))
    assert len(request.advertisements) == 13
    assert len(request.others) == 17


def test_too_few_shares_in_one_neighbourhood_close_the_sum() -> None:
    """A drop-out's peers vanish before the unmasking: the sum stays closed, nothing is wrong."""
    federation = big(30, 6, 4)
    federation.run(until="masked_input", drop_before={})
    federation.gone.add("client-07")
    federation.run(until="unmask")
    session = federation.server.report.session
    peers = peers_of(federation.parameters, session, federation.cohort, "client-07")
    federation.run(drop_before={"unmask": set(peers[:3])})
    report = federation.server.report
    assert report.aborted is None
    assert report.opened == {} and "no shares" in report.skipped["all"]


def test_sealed_sums_need_the_complete_graph() -> None:
    graph = SharingGraph(degree=4, threshold=3)
    with pytest.raises(ParameterError, match="sealed sums need the complete graph"):
        Federation(count=9, options={"graph": graph})


def test_the_smallest_graph_meets_its_bounds_and_the_next_smaller_does_not() -> None:
    """Against tails summed independently, term by term in logarithms."""

    def tail(population: int, marked: int, draws: int, least: int) -> float:
        def log_comb(n: int, k: int) -> float:
            return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

        return sum(
            math.exp(
                log_comb(marked, hit)
                + log_comb(population - marked, draws - hit)
                - log_comb(population, draws)
            )
            for hit in range(least, min(draws, marked) + 1)
        )

    graph = smallest_graph(1000, 0.05, 0.05)
    k, t = graph.degree, graph.threshold
    assert tail(999, 50, k, t) <= 2**-40 / 1000
    assert tail(999, 50, k, k - t + 1) <= 2**-20 / 1000

    def possible(degree: int) -> bool:
        return any(
            tail(999, 50, degree, threshold) <= 2**-40 / 1000
            and tail(999, 50, degree, degree - threshold + 1) <= 2**-20 / 1000
            for threshold in range(2, degree + 1)
        )

    assert possible(k) and not possible(k - 2)


def test_no_graph_is_safe_where_most_are_corrupt() -> None:
    with pytest.raises(ParameterError, match="no regular graph"):
        smallest_graph(30, 0.7, 0.4)


def test_degrees_grow_slowly() -> None:
    degrees = [smallest_graph(n, 0.05, 0.05).degree for n in (200, 1000, 4000)]
    assert degrees == sorted(degrees)
    assert degrees[-1] < 2 * degrees[0]
    assert np.all(np.array(degrees) % 2 == 0)
