"""Comparing runs: differences worked by hand, and a secure run beside its clear replay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pilot_secure import compare
from pilot_secure.comparison import compare_runs, compare_selections, compare_tensors
from pilot_secure.errors import RunFolderError
from pilot_secure.saved_run import SavedRun
from pilot_secure.summary import SelectionRecord


def _selection(weights: dict[str, float], distances: dict[str, float]) -> SelectionRecord:
    return SelectionRecord(
        round=1,
        stage=1,
        client="k",
        neighbours=tuple(weights),
        weights=tuple(weights.values()),
        distances=distances,
    )


@pytest.fixture
def copied(secure_run: Any, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("payloads", "transcript*")
    return Path(shutil.copytree(secure_run.path, tmp_path / "copied", ignore=ignored))


def test_tensors_by_hand() -> None:
    a = {"x": torch.tensor([3.0]), "y": torch.tensor([[4.0]])}
    b = {"x": torch.tensor([3.0]), "y": torch.tensor([[4.5]])}
    difference = compare_tensors("k", "connector", a, b)
    assert difference.max_absolute == 0.5
    assert difference.relative_norm == pytest.approx(0.1)  # 0.5 / 5
    nothing = {"x": torch.zeros(2)}
    assert compare_tensors("k", "p", nothing, nothing).relative_norm == 0.0
    assert compare_tensors("k", "p", nothing, {"x": torch.ones(2)}).relative_norm is None


def test_unlike_tensors_are_named_not_compared() -> None:
    a, b = {"x": torch.zeros(2)}, {"x": torch.zeros(3)}
    difference = compare_tensors("k", "connector", a, b)
    assert difference.max_absolute is None and difference.relative_norm is None
    assert difference.unlike == "x is (2,) in A and (3,) in B"
    other = compare_tensors("k", "connector", a, {"y": torch.zeros(2)})
    assert other.unlike == "2 tensors are in one run only, such as x"


def test_a_near_tie_by_hand() -> None:
    a = _selection({"p": 0.9, "q": 0.5}, {"p": 1.0, "q": 2.0, "r": 2.25, "s": 4.0})
    b = _selection({"p": 0.75, "r": 0.5}, {"p": 1.0, "q": 2.5, "r": 2.375, "s": 4.0})
    difference = compare_selections(a, b)
    assert (difference.only_a, difference.only_b) == (("q",), ("r",))
    assert difference.max_weight_difference == pytest.approx(0.15)  # of p alone
    assert difference.max_distance_difference == 0.5  # of q
    assert difference.near_tie == 0.25  # r - q in A; q - r in B is 0.125
    assert difference.margin == 0.25  # r is the nearest that A did not choose
    same = compare_selections(a, a)
    assert (same.only_a, same.only_b, same.near_tie) == ((), (), None)
    assert same.max_weight_difference == same.max_distance_difference == 0.0


def test_a_clear_replay_lies_beside_the_secure_run(
    secure_run: Any, clear_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = SavedRun.open(secure_run.path), SavedRun.open(clear_run.path)
    comparison = compare_runs(a, b)
    assert len(comparison.adapters) == 2 * 9
    assert max(part.max_absolute or 0.0 for part in comparison.adapters) < 1e-4
    assert len(comparison.selections) == 2 * 9  # both rounds
    assert not any(s.only_a or s.only_b for s in comparison.selections)
    assert all(s.max_weight_difference == 0.0 for s in comparison.selections)
    # The sketch of 64 coordinates estimates distances that the clear run computes.
    assert any(s.max_distance_difference > 0.0 for s in comparison.selections)
    assert comparison.settings["security.secure_agg"] == ("True", "False")
    assert not {"run.out", "run.name"} & comparison.settings.keys()
    assert compare.main([str(secure_run.path), str(clear_run.path)]) == 0
    shown = capsys.readouterr().out
    assert "neighbours: the same in 18 of 18 selections" in shown
    assert "security.secure_agg: True in A, False in B" in shown


def test_a_changed_adapter_score_and_neighbour_are_found(
    secure_run: Any, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied / "adapters" / "client-02" / "connector.safetensors"
    tensors = load_file(file)
    tensors["router.bias"][1] += 0.25
    save_file(tensors, file)
    summary = json.loads((copied / "summary.json").read_text())
    summary["clients"][3]["after_local"] += 5.0
    (copied / "summary.json").write_text(json.dumps(summary))
    dropped, taken = _swap_a_neighbour(copied / "history.jsonl", "client-05")

    comparison = compare_runs(SavedRun.open(secure_run.path), SavedRun.open(copied))
    changed = [part for part in comparison.adapters if part.max_absolute]
    assert [(part.client, part.part) for part in changed] == [("client-02", "connector")]
    assert changed[0].max_absolute == pytest.approx(0.25)
    scores = [s for s in comparison.scores if s.a != s.b]
    assert [(s.client, s.moment, s.b - s.a) for s in scores] == [
        ("client-04", "after_local", pytest.approx(5.0))
    ]
    apart = [s for s in comparison.selections if s.only_a or s.only_b]
    assert [(s.client, s.only_a, s.only_b) for s in apart] == [("client-05", (dropped,), (taken,))]
    assert compare.main([str(secure_run.path), str(copied)]) == 0
    shown = capsys.readouterr().out
    assert "the same in 17 of 18 selections" in shown
    assert "only in A" in shown and dropped in shown


def _swap_a_neighbour(history: Path, client: str) -> tuple[str, str]:
    """Give a client's first selection another neighbour; return the old and the new one."""
    lines = history.read_text().splitlines()
    for number, line in enumerate(lines):
        record = json.loads(line)
        if record["kind"] == "selection" and record["client"] == client:
            dropped = record["neighbours"][0]
            taken = next(n for n in record["distances"] if n not in record["neighbours"])
            record["neighbours"][0] = taken
            lines[number] = json.dumps(record)
            history.write_text("\n".join(lines) + "\n")
            return dropped, taken
    raise AssertionError(f"{client} selected nobody")


def test_another_base_model_is_told(
    secure_run: Any, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "B has another base model than A"
    assert compare.main([str(secure_run.path), str(copied)]) == 0
    assert sentence not in capsys.readouterr().out
    summary = json.loads((copied / "summary.json").read_text())
    for told, expected in (("0" * 64, True), (None, False)):
        text = json.dumps({**summary, "base_sha256": told})
        (copied / "summary.json").write_text(text)
        assert compare.main([str(secure_run.path), str(copied)]) == 0
        assert (sentence in capsys.readouterr().out) is expected


def test_json_holds_everything(secure_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(secure_run.path), str(secure_run.path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["adapters"]) == 18 and len(content["scores"]) == 27
    assert content["settings"] == {}
    assert {part["max_absolute"] for part in content["adapters"]} == {0.0}


def test_what_cannot_be_compared_is_told(
    secure_run: Any, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([str(secure_run.path)]) == 2
    assert "run_b is missing" in capsys.readouterr().err
    assert compare.main([str(secure_run.path), str(tmp_path)]) == 2
    assert "expected a run folder" in capsys.readouterr().err
    text = (copied / "summary.json").read_text().replace('"client-', '"other-')
    (copied / "summary.json").write_text(text)
    (copied / "adapters" / "client-01").rename(copied / "adapters" / "other-01")
    with pytest.raises(RunFolderError, match="expected a client in both"):
        compare_runs(SavedRun.open(secure_run.path), SavedRun.open(copied))
    shutil.rmtree(copied / "adapters")
    with pytest.raises(RunFolderError, match="has no saved adapters"):
        compare_runs(SavedRun.open(secure_run.path), SavedRun.open(copied))
