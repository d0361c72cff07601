"""Tuning: the same budget for all, never a table's data, and what is written can be run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cells, tune
from benchmarks.cells import ROOT, Cell, merged
from benchmarks.tables.layouts import GENERAL, TABLES, VISUAL, Row
from benchmarks.tables.presets import PRESETS, TUNED, Preset
from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.data.client_sources import ClientFiles, SplitSettings, read_sides
from pilot_secure.federation.methods import METHODS
from pilot_secure.run_data import load_data


@pytest.mark.parametrize("name", ["embedded", "paper"])
def test_every_method_has_the_same_number_of_trials(name: str) -> None:
    found = tune.trials(PRESETS[name], name, VISUAL, sorted(tune.FORMS))
    assert set(found) == {*METHODS, "feddpa-f", "pilot-m6", "pilot-ct-clip"}
    of_pilot = {cell.id for _, cell in found["pilot"]}
    assert {cell.id for _, cell in found.pop("pilot-m6")} < of_pilot
    assert {len(many) for many in found.values()} == {10}
    every = [cell for many in found.values() for _, cell in many]
    assert len({cell.id for cell in every}) == len(every)
    for cell in every:
        assert cell.config.run.seed == tune.VALIDATION_SEED
        assert all(entry.test is None for entry in cell.config.data.clients)


def test_what_no_table_of_a_scenario_has_is_not_searched_there() -> None:
    found = tune.trials(PRESETS["embedded"], "embedded", GENERAL, sorted(tune.FORMS))
    assert set(found) == {*METHODS, "feddpa-f", "pilot-m6"}  # CT-CLIP is a row of Table 4 alone


@pytest.mark.parametrize("scenario", [VISUAL, GENERAL])
def test_no_test_split_of_the_official_files_is_validated_on(
    scenario: str, public_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(public_data)
    (_, cell), *_ = tune.trials(PRESETS["paper"], "paper", scenario, ["local"])["local"]
    shared = {"data": {"drop_shared_images": False}}  # of six images, they would be all
    assert_held_out(Cell(cell.label, merged(cell.settings, shared)).config)


def test_no_test_split_of_a_hub_layout_is_validated_on(
    public_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(public_data)
    folders = {"gqa": "gqa", "coco_captions": "coco", "scienceqa": "scienceqa", "ocrvqa": "ocrvqa"}
    clients = [{"task": f, "format": f, "hub": f"hub/{folder}"} for f, folder in folders.items()]
    boxes = {"format": "refcoco", "hub": "hub/refcoco"}
    clients.append({"task": "refcoco", **boxes, "test_splits": ["testA"]})
    settings = {
        "data": {"scenario": "files", "clients": clients},
        "federation": {"num_neighbours": 2},
    }
    tried = tune._validated_on_training_files(settings)
    assert_held_out(validate(SimulationConfig, tried))


def assert_held_out(config: SimulationConfig) -> None:
    """No sample that a client is validated on is one of its dataset's official test."""
    validated: dict[str, set[str]] = {}
    for client in load_data(config)[0]:
        validated.setdefault(client.task, set()).update(client.test["id"])
    assert all(validated.values())
    for entry in config.data.clients:
        files = ClientFiles(**entry.model_copy(update={"test_splits": None}).model_dump())
        if files.format == "gqa" and files.hub is None:
            files = replace(files, test=Path("data/gqa/testdev_balanced_questions.json"))
        _, official = read_sides(files, SplitSettings(max_broken_share=1.0))
        assert official is not None
        assert validated[entry.task].isdisjoint(sample.id for sample in official.samples)


def test_a_mark_is_in_percent_of_the_best_of_all_methods() -> None:
    """Best 40 and 8: (20/40 + 8/8)/2 = 75 %, (40/40 + 2/8)/2 = 62.5 %."""
    scores = {"one": [{"read": 20.0, "draw": 8.0}], "other": [{"read": 40.0, "draw": 2.0}]}
    assert tune.marks(scores) == {"one": [75.0], "other": [62.5]}


def test_a_best_rate_on_the_edge_of_the_grid_is_told() -> None:
    trials = [{"settings": {"training": {"learning_rate_stage1": rate}}} for rate in (1, 2, 4)]
    assert tune._edge(trials, trials[1]) == ""
    assert "edge" in tune._edge(trials, trials[0])
    assert "edge" in tune._edge(trials, trials[2])
    assert tune._edge(trials[:1], trials[0]) == ""


def test_a_form_is_tuned_apart_and_marked_against_the_others_evidence(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    monkeypatch.setitem(tune.RATES, "embedded", (1e-3,))
    monkeypatch.setitem(tune.KNOBS, "feddpa-f", tune.KNOBS["feddpa-f"][1:])
    tiny = {"data": {"samples_per_client": 4, "test_samples": 2}, "model": {"max_new_tokens": 2}}
    base = {"model": {"base": str(tiny_base), "lora_rank": 2}}
    monkeypatch.setitem(tune.SIZES, "embedded", cells.merged(tiny, base))
    folder = tmp_path / "embedded" / VISUAL
    folder.mkdir(parents=True)
    tasks = ("question-answering", "captioning", "grounding")
    rate = {"training": {"learning_rate_stage1": 2e-3}}
    best = {"settings": rate, "code_sha256": "0", "scores": dict.fromkeys(tasks, 1e6)}
    known = {"pilot": {"moment": "after_aggregation", "trials": [{**best, "mark": 7.0}]}}
    (folder / "evidence.json").write_text(json.dumps(known))
    arguments = ["--scenarios", VISUAL, "--methods", "feddpa-f", "--out", str(tmp_path / "cells")]
    assert tune.main([*arguments, "--tuned", str(tmp_path)]) == 0
    evidence = json.loads((folder / "evidence.json").read_text())
    assert evidence["pilot"]["trials"] == [{**best, "mark": 100.0}], "marked anew"
    assert "100.0 % of the best" in (folder / "pilot.yaml").read_text()
    assert all(trial["mark"] < 1 for trial in evidence["feddpa-f"]["trials"])
    chosen = validate(SimulationConfig, read_config_file(folder / "feddpa-f.yaml"))
    assert chosen.federation.method == "feddpa"
    assert chosen.methods.feddpa_variant == "fine_tuning"
    assert chosen.methods.feddpa_max_weight == 1.0
    monkeypatch.setattr("benchmarks.tables.presets.TUNED", tmp_path)
    labels = {row.label: row for row in TABLES[1].rows}
    rates = {
        label: PRESETS["embedded"].cell(VISUAL, labels[label], 0, secure=False).config.training
        for label in ("FedDPA-F", "FedDPA-T")
    }
    assert rates["FedDPA-F"].learning_rate_stage1 == 1e-3
    assert rates["FedDPA-T"].learning_rate_stage1 == 6e-3


def test_what_is_chosen_is_what_the_tables_take(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    monkeypatch.setitem(tune.KNOBS, "fedprox", tune.KNOBS["fedprox"][:1])
    tiny = {"data": {"samples_per_client": 4, "test_samples": 2}, "model": {"max_new_tokens": 2}}
    base = {"model": {"base": str(tiny_base), "lora_rank": 2}}
    monkeypatch.setitem(tune.SIZES, "embedded", cells.merged(tiny, base))
    arguments = ["--scenarios", VISUAL, "--methods", "fedprox", "--out", str(tmp_path / "cells")]
    arguments += ["--rates", "0.001", "0.01"]
    assert tune.main([*arguments, "--tuned", str(tmp_path / "tuned")]) == 0
    folder = tmp_path / "tuned" / "embedded" / VISUAL
    evidence = json.loads((folder / "evidence.json").read_text())["fedprox"]["trials"]
    tried = [trial["settings"]["training"]["learning_rate_stage1"] for trial in evidence]
    assert tried == [1e-3, 1e-2]
    best = max(evidence, key=lambda trial: trial["mark"])
    content = read_config_file(folder / "fedprox.yaml")
    assert content["training"].items() >= best["settings"]["training"].items()
    assert content["data"]["scenario"] == VISUAL, "it runs by itself"
    assert validate(SimulationConfig, content).federation.method == "fedprox"
    assert (folder / "fedprox.yaml").read_text().startswith("# fedprox on visual-understanding")
    monkeypatch.setattr("benchmarks.tables.presets.TUNED", tmp_path / "tuned")
    preset: Preset = PRESETS["embedded"]
    cell = preset.cell(VISUAL, Row("FedProx", "fedprox"), 0, secure=False)
    assert (
        cell.config.training.learning_rate_stage1
        == best["settings"]["training"]["learning_rate_stage1"]
    )
    untuned = preset.cell(VISUAL, Row("FedProx", "fedprox"), 0, secure=False, tuned=False)
    assert untuned.config.training.learning_rate_stage1 == 6e-3
    assert "fedprox" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["0", "-0.001", "1", "nan"])
def test_a_rate_that_none_can_be_is_told(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tune.main(["--rates", "0.001", rate])
    assert stopped.value.code == 2
    assert "--rates: expected numbers between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "file", sorted(TUNED.glob("embedded/*/*.yaml")), ids=lambda f: f"{f.parent.name}-{f.stem}"
)
def test_a_tuned_file_is_the_configuration_of_its_scenario(file: Path) -> None:
    content = read_config_file(file)
    scenarios_own = read_config_file(ROOT / "configs" / f"{file.parent.name}.yaml")
    assert content["data"] == scenarios_own["data"]
    assert content.get("model", {}).items() >= scenarios_own.get("model", {}).items()
    assert content["federation"]["rounds"] == scenarios_own["federation"]["rounds"]
    assert validate(SimulationConfig, content)
