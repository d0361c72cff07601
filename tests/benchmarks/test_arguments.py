"""What a benchmark cannot use is a sentence and code 2, before anything is measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

POSITIVE = (
    ("tables.__main__", "--seeds"),
    ("tune", "--jobs"),
    ("heterogeneity", "--test-samples"),
    ("circumstances", "--seeds"),
    ("privacy_accuracy.__main__", "--jobs"),
    ("step_cost", "--steps"),
    ("visual_shift", "--seeds"),
    ("feature_cache", "--repeats"),
    ("scenario_strengths", "--test-samples"),
    ("sharing_within_a_task", "--samples"),
)


@pytest.mark.parametrize(("name", "option"), POSITIVE)
@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_what_has_to_be_at_least_1(
    name: str,
    option: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, option, value])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"benchmarks.{name}").main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert f"{option}: expected an integer of at least 1, got '{value}'" in told


@pytest.mark.parametrize(
    "name",
    ["step_cost", "visual_shift", "feature_cache", "scenario_strengths", "sharing_within_a_task"],
)
def test_a_base_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--base", str(tmp_path / "none")])
    assert importlib.import_module(f"benchmarks.{name}").main() == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: model.base: ") and "no such folder" in sentence
