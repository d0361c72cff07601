"""Views over a run: mus add up in squares, distances and clear sums count as the whole update."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from pilot_secure.privacy.accountants import gaussian_epsilon
from pilot_secure.privacy.views import EffectivePrivacy, ViewsOfARun, most_exposed
from protocols.leakage import OpenedRow, view_of

NOISE = dict.fromkeys("abcd", 4.0)
DELTA = 1e-2


def entry(found: Sequence[EffectivePrivacy], viewer: str, client: str) -> EffectivePrivacy:
    return next(e for e in found if e.viewer == viewer and e.client == client)


def two_aggregations(noise: dict[str, float]) -> ViewsOfARun:
    """Task sums of a, b, c and of c, d; then of a, b alone."""
    views = ViewsOfARun(noise)
    for sums in (("abc", "cd"), ("ab",)):
        rows = [OpenedRow("task", "server", dict.fromkeys(names, 1.0)) for names in sums]
        taken = noise or None
        seen = [view_of("task", "abcd", v, rows, taken) for v in (("server",), ("b",))]
        text = view_of("text", "abcd", ("b",), [], taken)
        views.add([*seen, text.model_copy(update={"num_distances": 3})], "abcd")
    return views


def test_the_servers_mu_is_that_of_its_sums_in_squares() -> None:
    found = two_aggregations(NOISE).result(delta=DELTA)
    a = entry(found, "server", "a")
    first = view_of(
        "task",
        "abcd",
        ("server",),
        [OpenedRow("task", "server", dict.fromkeys(n, 1.0)) for n in ("abc", "cd")],
    ).leverage["a"]
    assert a.mu == pytest.approx(math.sqrt((first + 1 / 2) / 16))
    assert a.epsilon == pytest.approx(gaussian_epsilon(a.mu, DELTA))
    assert a.leverage == {"task": pytest.approx(max(first, 1 / 2))}
    d = entry(found, "server", "d")
    assert d.mu is not None and d.mu < a.mu  # in one sum only


def test_who_sees_a_distance_is_credited_with_the_whole_update() -> None:
    found = two_aggregations(NOISE).result(delta=DELTA)
    d = entry(found, "coalition", "d")
    assert (d.members, d.distances, d.mu) == (("b",), 2, pytest.approx(math.sqrt(2) / 4))
    assert most_exposed(found)[("coalition", 1)].mu == pytest.approx(math.sqrt(2) / 4)


def test_who_sees_which_neighbours_were_chosen_is_credited_with_it_too() -> None:
    """The choice follows from distances of noised updates; it is no sum."""
    views = ViewsOfARun(NOISE)
    rows = [OpenedRow("task", "server", dict.fromkeys("abcd", 1.0))]
    seen = view_of("task", "abcd", ("server",), rows, NOISE)
    chosen = view_of("text", "abcd", ("server",), [], NOISE)
    views.add([seen, chosen.model_copy(update={"sees_selections": True})], "abcd")
    a = entry(views.result(delta=DELTA), "server", "a")
    assert (a.mu, a.distances) == (1 / 4, 0)
    assert seen.mu["a"] == pytest.approx(1 / 8)


def test_in_the_clear_the_server_is_too() -> None:
    views = ViewsOfARun(NOISE)
    views.add_in_clear(["task", "text"], "abcd")
    a = entry(views.result(delta=DELTA), "server", "a")
    assert (a.mu, a.leverage) == (0.25, {"task": 1.0, "text": 1.0})


def test_without_noise_only_leverage_is_told_and_a_claim_still_bounds_every_view() -> None:
    found = two_aggregations({}).result()
    assert {(e.mu, e.epsilon) for e in found} == {(None, None)}
    bounded = two_aggregations({}).result(delta=DELTA, claimed=dict.fromkeys("abcd", 3.0))
    assert {e.epsilon for e in bounded} == {3.0}
    tighter = two_aggregations(NOISE).result(delta=DELTA, claimed=dict.fromkeys("abcd", 1e-3))
    assert {e.epsilon for e in tighter} == {1e-3}


def test_a_client_without_noise_in_a_view_is_unbounded() -> None:
    views = ViewsOfARun({"a": 4.0})
    views.add([view_of("t", "ab", ("b",), [OpenedRow("t", "server", {"a": 1, "b": 1})], {})], "ab")
    assert entry(views.result(delta=DELTA), "coalition", "a").mu is None
