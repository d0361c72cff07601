"""Runs of the whole simulator, with its other messages around the aggregations."""

from __future__ import annotations

import stat
from collections.abc import Callable

from conftest import SIX, FinishedRun
from test_verify import NEEDS_ESCROW, audit, failed, unchecked

from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.verify import replay


def test_a_secure_run_passes(secure_run: FinishedRun) -> None:
    report = audit(secure_run.path)
    assert failed(report) == {}
    assert unchecked(report) == NEEDS_ESCROW
    assert len(report.attempts) == 2
    assert {"train", "evaluate", "deliver"} <= {phase.phase for phase in report.phases}
    assert not (secure_run.path / "escrow.json").exists()


def test_a_run_with_a_key_holder_passes(run_tiny: Callable[..., FinishedRun]) -> None:
    """It is convened before each attempt, by a message around the aggregation."""
    trust = {"distance_trust": "key_holder", "neighbour_visibility": "visible"}
    run = run_tiny(SIX, {"security": {**trust, "insecure_escrow": True}})
    report = audit(run.path)
    assert failed(report) == {}
    assert unchecked(report) == NEEDS_ESCROW
    assert len(report.attempts) == 1
    again = replay(Bundle.open(run.path), read_escrow(run.path / "escrow.json"))
    assert (failed(again), unchecked(again)) == ({}, set())


def test_a_clear_run_does_not(clear_run: FinishedRun) -> None:
    report = audit(clear_run.path)
    assert "in the clear: leverage 1" in failed(report)["L01"][0]
    assert report.exit_code == 3


def test_an_escrowed_run_is_repeated(run_tiny: Callable[..., FinishedRun]) -> None:
    drops = [{"client": "client-02", "round": 1, "stage": 1, "phase": "unmask"}]
    run = run_tiny(SIX, {"security": {"insecure_escrow": True, "dropouts": drops}})
    escrow = run.path / "escrow.json"
    assert stat.S_IMODE(escrow.stat().st_mode) == 0o600
    report = replay(Bundle.open(run.path), read_escrow(escrow))
    assert failed(report) == {}
    assert unchecked(report) == set()
    checked = {rule: report.result(rule).checked for rule in ("M01", "M04", "L01", "H02")}
    assert checked["L01"] == 2  # the server's view of both vectors
    assert min(checked["M01"], checked["M04"], checked["H02"]) > 10
