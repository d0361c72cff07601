"""Drop-outs: any clients, before any phase, equal the reference sum or abort cleanly."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import clear_distances
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import KEY_HOLDER_TRUST, Federation
from test_aggregation import assert_equals_reference

from protocols import smallest_threshold
from protocols.errors import AttemptRefused
from protocols.identity import Roster
from protocols.keys import KeyPair
from protocols.states import SERVER_PHASES, applies


def phases_of(distances: str) -> list[str]:
    rows = [row for row in SERVER_PHASES if applies(row, distances)]
    return list(dict.fromkeys(row.state for row in rows))


PLAIN_PHASES, ALL_PHASES = phases_of("none"), phases_of("peer")
NEVER = "never"


def schedule(cohort: Sequence[str], pattern: Sequence[str]) -> dict[str, set[str]]:
    drops: dict[str, set[str]] = {}
    for name, phase in zip(cohort, pattern, strict=True):
        drops.setdefault(phase, set()).add(name)
    return drops


def expected_abort(federation: Federation, drops: Mapping[str, set[str]]) -> str | None:
    """The phase at whose end fewer than the threshold are left, by counting alone."""
    present = set(federation.cohort)
    for phase in PLAIN_PHASES if not federation.parameters.selects else ALL_PHASES:
        present -= drops.get(phase, set())
        if phase != "deliver" and len(present) < federation.parameters.threshold:
            return phase
    return None


def check(federation: Federation, drops: Mapping[str, set[str]]) -> None:
    federation.run(drop_before=drops)
    report, aborted = federation.server.report, expected_abort(federation, drops)
    assert federation.errors == {}
    if aborted is not None:
        assert report.aborted is not None and report.aborted.startswith(aborted)
        assert report.opened == {} and not report.means
        assert all(client.result is None for client in federation.clients.values())
        return
    assert report.aborted is None
    left = report.survivors["masked_input"]
    for sum_id, contributors in report.opened.items():
        assert set(contributors) <= set(left), sum_id
    for spec in federation.parameters.sums:
        if spec.recipient == "server":
            alive = [n for n in spec.contributors if n in left]
            enough = len(alive) >= federation.parameters.min_contributors
            assert (spec.id in report.opened) == enough
    for name in federation.cohort:
        delivered = name in report.survivors["deliver"]
        assert (federation.clients[name].result is not None) == delivered
    if len(report.survivors["deliver"]) == len(left):
        assert_equals_reference(federation)
    elif "all" in report.opened:
        total = sum(federation.inputs[n].num_samples for n in left)
        terms = [
            federation.inputs[n].num_samples
            * np.clip(federation.flat(n, "task_adapter"), -0.1, 0.1).astype(float)
            for n in left
        ]
        assert np.abs(report.means["all"] - np.sum(terms, axis=0) / total).max() < 1e-5


SMALL = {"task_adapter": 5, "text_adapter": 4}


def check_all(federation: Federation, patterns: Iterable[Sequence[str]]) -> int:
    """Check every pattern, once for all that cannot differ; return how many were run.

    After an attempt aborts nothing is asked of anybody, so patterns that agree up to the abort
    are one and the same run.
    """
    phases = ALL_PHASES if federation.parameters.selects else PLAIN_PHASES
    seen = set()
    for pattern in patterns:
        drops = schedule(federation.cohort, pattern)
        aborted = expected_abort(federation, drops)
        last = len(phases) if aborted is None else phases.index(aborted)
        played = tuple(p if p in phases[: last + 1] else NEVER for p in pattern)
        if played not in seen:
            seen.add(played)
            federation.restart()
            check(federation, schedule(federation.cohort, played))
    return len(seen)


@pytest.fixture(autouse=True)
def remembered_signatures(monkeypatch) -> None:
    """Patterns repeat each other's messages: verify the same signature once."""
    verify = Roster.verify
    monkeypatch.setattr(Roster, "verify", functools.cache(verify))
    monkeypatch.setattr(Roster, "__hash__", lambda self: hash(self.clients), raising=False)
    monkeypatch.setattr(KeyPair, "exchange", functools.cache(KeyPair.exchange))


@pytest.mark.parametrize(("count", "runs"), [(2, 19), (3, 178), (4, 511)])
def test_every_pattern_of_a_plain_sum(count: int, runs: int) -> None:
    options = {"max_colluders": 0, "min_contributors": 2}
    federation = Federation(count=count, plain=True, lengths=SMALL, options=options)
    patterns = itertools.product([*PLAIN_PHASES, NEVER], repeat=count)
    assert check_all(federation, patterns) == runs


def pilot(count: int, visibility: str) -> Federation:
    options = {
        "max_colluders": 0,
        "min_contributors": 2,
        "num_neighbours": count - 1,
        "neighbour_visibility": visibility,
    }
    return Federation(count=count, num_tasks=1, lengths=SMALL, options=options)


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_every_pattern_of_three_clients_with_selection(visibility: str, monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    federation = pilot(3, visibility)
    check_all(federation, itertools.product([*ALL_PHASES, NEVER], repeat=3))


def test_every_set_of_phases_of_four_clients_with_selection(monkeypatch) -> None:
    """All multisets of phases; who takes which place rotates from one to the next."""
    clear_distances.install(monkeypatch)
    federation = pilot(4, "hidden")
    options = [*ALL_PHASES, NEVER]
    patterns = itertools.combinations_with_replacement(options, 4)
    check_all(federation, (p[turn % 4 :] + p[: turn % 4] for turn, p in enumerate(patterns)))


@pytest.mark.slow
@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_every_pattern_of_four_clients_with_selection(visibility: str, monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    federation = pilot(4, visibility)
    check_all(federation, itertools.product([*ALL_PHASES, NEVER], repeat=4))


@pytest.mark.slow
def test_every_pattern_of_five_clients() -> None:
    options = {"max_colluders": 0, "min_contributors": 2}
    federation = Federation(count=5, plain=True, lengths=SMALL, options=options)
    check_all(federation, itertools.product([*PLAIN_PHASES, NEVER], repeat=5))


@pytest.mark.parametrize("phase", ALL_PHASES)
def test_nine_clients_lose_two_before_each_phase(phase: str, monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    federation = Federation()
    check(federation, {phase: {"client-02", "client-07"}})
    assert federation.server.report.aborted is None


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_parameters_and_any_dropouts(data: st.DataObject) -> None:
    """Random cohorts, colluders, rings, thresholds and schedules, up to eight clients."""
    count = data.draw(st.integers(3, 8))
    colluders = data.draw(st.integers(0, min(2, count - 2)))
    lowest = smallest_threshold(count, colluders)
    options = {
        "max_colluders": colluders,
        "min_contributors": data.draw(st.integers(colluders + 2, count)),
        "threshold": data.draw(st.integers(lowest, count)),
        "ring_bits": data.draw(st.sampled_from([20, 24, 32])),
    }
    federation = Federation(count=count, plain=True, lengths=SMALL, options=options)
    pattern = data.draw(
        st.lists(
            st.sampled_from([NEVER, NEVER, NEVER, *PLAIN_PHASES]), min_size=count, max_size=count
        )
    )
    check(federation, schedule(federation.cohort, pattern))


def test_a_reply_that_is_lost_counts_as_a_dropout() -> None:
    def lose(phase: str, name: str, frame: bytes) -> bytes | None:
        return None if (phase, name) == ("masked_input", "client-03") else frame

    federation = Federation(count=5, plain=True).run(on_reply=lose)
    report = federation.server.report
    assert report.opened == {"all": ("client-01", "client-02", "client-04", "client-05")}
    # It uploaded, so being left out is a lie to it: it refuses to confirm, and learns nothing.
    assert federation.clients["client-03"].result is None


def test_the_next_attempt_uses_fresh_keys_and_succeeds() -> None:
    frames: list[dict[str, bytes]] = []

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "advertise":
            frames[-1][name] = frame
        return frame

    frames.append({})
    federation = Federation(count=5, plain=True)
    federation.run(drop_before={"consistency": {"client-01", "client-02"}}, on_reply=keep)
    assert federation.server.report.aborted.startswith("consistency: 3 clients left, 4 needed")
    frames.append({})
    federation.start(attempt=1)
    federation.run(on_reply=keep)
    assert federation.server.report.aborted is None
    assert_equals_reference(federation)
    from protocols.frame import open_frame

    for name in federation.cohort:
        first, second = (open_frame(f[name], federation.roster, name, "test") for f in frames)
        assert first.mask_key != second.mask_key
        assert first.share_key != second.share_key
        assert first.recipient_key != second.recipient_key


def test_who_answered_an_unmasking_joins_no_further_attempt() -> None:
    federation = Federation(count=5, plain=True)
    federation.run(drop_before={"unmask": {"client-01", "client-02"}})
    assert federation.server.report.aborted.startswith("unmask: 3 clients left")
    federation.start(attempt=1)
    federation.run()
    refused = {n for n, e in federation.errors.items() if isinstance(e, AttemptRefused)}
    assert refused == {"client-03", "client-04", "client-05"}
    assert federation.server.report.aborted.startswith("advertise: 2 clients left")


def test_a_task_below_its_minimum_stays_closed_and_the_others_go_on() -> None:
    federation = Federation()
    federation.run(drop_before={"masked_input": {"client-03"}})
    report = federation.server.report
    assert report.aborted is None
    assert "released no shares" in report.skipped["task-2"]
    assert {"task-0", "task-1"} <= set(report.opened)
    assert federation.clients["client-01"].result.means["task-2"] is None
    assert "text-client-03" in report.skipped


def test_a_task_below_its_minimum_before_the_plan_is_not_planned() -> None:
    federation = Federation()
    federation.run(drop_before={"select": {"client-03"}})
    report = federation.server.report
    assert "at the plan" in report.skipped["task-2"]
    assert all(planned.id != "task-2" for planned in report.plan)
    assert report.aborted is None


@pytest.mark.parametrize(
    ("early", "options"),
    [("distance_upload", {}), ("distance_reply", {}), ("distance_upload", KEY_HOLDER_TRUST)],
    ids=["peer, before its upload", "peer, before its replies", "key holder, before its upload"],
)
def test_real_distances_name_who_was_there(early: str, options: Mapping[str, object]) -> None:
    """Gone before its upload, or between upload and reply, a client is in nobody's row."""
    federation = Federation(count=6, num_tasks=1, options={"num_neighbours": 3, **options})
    federation.run(drop_before={early: {"client-02"}, "masked_input": {"client-05"}})
    report = federation.server.report
    assert (report.aborted, federation.errors) == (None, {})
    for name in report.survivors["deliver"]:
        result = federation.clients[name].result
        assert set(result.row) == set(federation.cohort) - {name, "client-02"}
        nearest = sorted(result.row, key=lambda peer: (result.row[peer], peer))[:3]
        assert set(result.neighbours) == set(nearest)
    for sum_id, contributors in report.opened.items():
        assert not {"client-02", "client-05"} & set(contributors), sum_id
