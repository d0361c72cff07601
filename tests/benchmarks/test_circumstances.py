"""One circumstance changed at a time: what is run, and the differences by hand."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import cells, circumstances
from benchmarks.circumstances import FROZEN, METHODS
from benchmarks.tables.figures import MEAN_OF_TASKS


def scores(*values: float) -> dict[int, dict[str, float]]:
    return {seed: {MEAN_OF_TASKS: value} for seed, value in enumerate(values)}


def test_differences_are_paired_by_seed() -> None:
    """Pilot is 10 and 20 above local, 3 and 5 above task_fedavg; FedAvg 2 and 2 above Shepherd."""
    methods = {
        "local": scores(100, 100),
        "fedavg": scores(97, 95),
        "shepherd": scores(95, 93),
        "task_fedavg": scores(107, 115),
        "pilot": scores(110, 120),
    }
    found = circumstances.differences(methods)
    assert {pair: figure.mean for pair, figure in found.items()} == {
        "pilot − local": 15,
        "pilot − fedavg": 19,
        "pilot − task_fedavg": 4,
        "local − fedavg": 4,
        "fedavg − shepherd": 2,
    }
    assert found["pilot − task_fedavg"].half_width == pytest.approx(12.706, abs=1e-3)
    told = circumstances.markdown({"after_local": {"as tuned": methods}})
    assert "| as tuned | 100.0 ± 0.0 | 96.0 ± 1.4 |" in told
    assert "| 4.0 ± 12.7 | 4.0 ± 12.7 | 2.0 ± 0.0 |" in told


def test_every_circumstance_is_run_and_written(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    options = ["--preset", "smoke", "--seeds", "1", "--base", str(tiny_base), "--untuned"]
    options += ["--circumstances", "as tuned", "connector frozen"]
    options += ["--test-samples", "2", "--out", str(tmp_path)]
    assert circumstances.main(options) == 0
    made = [json.loads(path.read_text())["settings"] for path in (tmp_path / "cells").iterdir()]
    rates = {
        (run["federation"]["method"], run["training"]["connector_rate_factor"]) for run in made
    }
    assert rates == {(method, rate) for method in METHODS for rate in (0.3, FROZEN)}
    content = json.loads((tmp_path / "circumstances.json").read_text())
    assert list(content["after_aggregation"]) == ["as tuned", "connector frozen"]
    assert (tmp_path / "circumstances.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--circumstances", "rain"]])
def test_what_cannot_be_run_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        circumstances.main(wrong)
