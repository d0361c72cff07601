"""The sweep: its places, who is first by hand, and files that hold what was run."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import cells, heterogeneity
from benchmarks.heterogeneity import contest
from benchmarks.tables.figures import MEAN_OF_TASKS


def scores(*values: float) -> dict[int, dict[str, float]]:
    return {seed: {MEAN_OF_TASKS: value} for seed, value in enumerate(values)}


def test_the_lead_is_paired_by_seed() -> None:
    """110 and 120 against 107 and 115: ahead by 3 and 5, so 4 ± 12.7 and not a clear lead."""
    methods = {"local": scores(100, 100), "fedavg": scores(107, 115), "pilot": scores(110, 120)}
    best = contest(methods)
    assert (best.first, best.second, best.lead.mean, best.lead.count) == ("pilot", "fedavg", 4, 2)
    assert best.lead.half_width == pytest.approx(12.706, abs=1e-3) and not best.is_clear
    assert contest({"local": scores(100, 100, 100), "pilot": scores(110, 111, 112)}).is_clear
    assert not contest({"local": scores(100), "pilot": scores(110)}).is_clear
    pooled = {"local": scores(100, 100), "pilot": scores(110, 120), "centralized": scores(130, 140)}
    assert contest(pooled).first == "pilot", "all data in one place is no federation"


def test_pilot_is_set_against_each_of_the_others() -> None:
    methods = {"local": scores(100, 100), "fedavg": scores(107, 115), "pilot": scores(110, 120)}
    told = heterogeneity.markdown({"after_local": {(1.0, 0.5): methods}})
    assert "| across | within | local | fedavg | pilot | first | its lead |" in told
    lead = "pilot | 4.0 ± 12.7 to fedavg |"
    assert f"| 1 | 0.5 | 100.0 ± 0.0 | 111.0 ± 5.7 | 115.0 ± 7.1 | {lead}" in told
    assert "| across | within | pilot − local | pilot − fedavg |" in told
    assert "| 1 | 0.5 | 15.0 ± 63.5 | 4.0 ± 12.7 |" in told


def test_every_place_is_run_and_written(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    options = ["--preset", "smoke", "--seeds", "1", "--base", str(tiny_base), "--untuned"]
    options += ["--methods", "local", "fedavg", "--across", "0", "1", "--within", "0.5"]
    options += ["--test-samples", "2", "--out", str(tmp_path)]
    assert heterogeneity.main(options) == 0
    made = [json.loads(path.read_text())["settings"] for path in (tmp_path / "cells").iterdir()]
    names = ("look_strength", "convention_strength", "domain_strength", "test_samples")
    strengths = sorted(tuple(settings["data"][name] for name in names) for settings in made)
    assert strengths == [(0, 0, 0.5, 2)] * 2 + [(1, 1, 0.5, 2)] * 2
    assert heterogeneity.main(options) == 0
    told = capsys.readouterr()
    assert "0 cells to run, 4 are there" in told.err
    lines = list(csv.DictReader((tmp_path / "heterogeneity.csv").open()))
    assert {(line["across"], line["method"]) for line in lines} == {
        (across, method) for across in ("0.0", "1.0") for method in ("local", "fedavg")
    }
    content = json.loads((tmp_path / "heterogeneity.json").read_text())
    assert [place["across"] for place in content["after_local"]] == [0, 1]
    assert (tmp_path / "heterogeneity.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "heterogeneity.md").read_text() in told.out


@pytest.mark.parametrize(
    "wrong", [["--methods", "pilot"], ["--methods", "local", "centralized"], ["--seeds", "0"]]
)
def test_what_cannot_be_compared_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        heterogeneity.main(wrong)


def test_a_strength_outside_its_range_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert heterogeneity.main(["--within", "1.5"]) == 2
    assert "domain_strength" in capsys.readouterr().err
