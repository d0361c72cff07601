"""The benchmark of engines measures those that are there, and notices a lost frame."""

from __future__ import annotations

import sys

import pytest

from benchmarks import engines
from benchmarks.echo import Plan, measure


def test_engines_stand_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["engines", "--repeats", "2", "--clients", "3"])
    engines.main()
    told = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in told[2:]}
    assert list(rows) == ["in_process", "processes", "ray", "flower"]
    here, spread = ([float(x) for x in rows[name]] for name in ("in_process", "processes"))
    assert all(len(row) == 4 for row in (here, spread))
    assert here[1] < spread[1]  # a pipe takes longer than a call
    assert " ".join(rows["ray"]) == "ray is not installed"


def test_an_engine_that_loses_a_frame_has_no_figures() -> None:
    class Losing:
        def exchange(self, phase, requests, timeout_s):
            return {**requests, "client-02": None}

    with pytest.raises(RuntimeError, match="lost or changed a frame"):
        measure(Losing(), Plan(clients=3).names, Plan(clients=3, repeats=1))
