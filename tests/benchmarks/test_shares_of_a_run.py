"""The benchmark of a run's shares times a run, and its shares are parts of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import NINE

from benchmarks import shares_of_a_run


def test_a_tiny_run_is_taken_apart(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**NINE["data"], **NINE["model"], **NINE["training"], "rounds": 1}
    options |= {"sketch_size": 64, "distance_norm_bound": 1.0, "base": tiny_base}
    words = [word for name, value in options.items() for word in (_option(name), str(value))]
    monkeypatch.setattr(sys, "argv", ["shares_of_a_run", "--", *words])
    shares_of_a_run.main()
    told = capsys.readouterr().out
    lines = [line for line in told.splitlines() if line.rstrip().endswith(("%", "MB"))]
    shares = [float(next(w for w in line.split() if w.endswith("%"))[:-1]) for line in lines]
    assert len(lines) == 5
    assert sum(shares[:3]) == pytest.approx(100, abs=0.3)
    assert all(share > 0 for share in shares)
    assert all(float(line.split()[-2]) > 0.1 for line in lines[3:])  # megabytes were written


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
