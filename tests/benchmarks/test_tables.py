"""The tables: their arithmetic by hand, the counts, and going on after a kill."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import cells
from benchmarks.tables.__main__ import main
from benchmarks.tables.cost import Cost, median_seconds, told
from benchmarks.tables.counts import count
from benchmarks.tables.figures import MEAN_OF_TASKS, Figure, columns, in_percent, paired
from benchmarks.tables.layouts import TABLES, VISUAL, Row
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.settings import shown_settings
from pilot_secure.errors import FederationError
from pilot_secure.federation.methods import METHODS
from pilot_secure.summary import ClientSummary


def client(name: str, task: str, score: float | None) -> ClientSummary:
    return ClientSummary(
        client=name, task=task, samples=1, test_samples=1, metric="cider", after_local=score
    )


def test_columns_are_clients_and_means_of_tasks() -> None:
    three = (client("a", "read", 10.0), client("b", "read", 30.0), client("c", "draw", 7.0))
    assert columns(three, "after_local") == {"a": 10, "b": 30, "c": 7, "read": 20, "draw": 7}
    with pytest.raises(ValueError, match="d has no score after_local"):
        columns((client("d", "read", None),), "after_local")


def test_percent_of_the_reference_is_the_mean_over_tasks() -> None:
    """30 of 20 and 7 of 14 are 150 % and 50 %; a task of which the reference has none is out."""
    own, reference = {"read": 30.0, "draw": 7.0}, {"read": 20.0, "draw": 14.0}
    rows = {"own": {0: own, 1: own, 9: own}, "reference": {0: reference, 1: reference}}
    assert percents(rows, ["read", "draw"]) == [100, 100]
    none = {"read": 20.0, "draw": 0.0}
    for_all = {**rows, "reference": {0: reference, 1: none}}
    assert percents(for_all, ["read", "draw"]) == [150, 150], "the same tasks with every seed"
    nothing = percents(for_all, ["draw"])
    assert all(map(math.isnan, nothing))
    figure = Figure.of([*nothing, 5.0])
    assert math.isnan(figure.mean) and math.isnan(figure.half_width) and figure.count == 3


def percents(rows: dict[str, dict[int, dict[str, float]]], tasks: list[str]) -> list[float]:
    return [
        scores[MEAN_OF_TASKS] for scores in in_percent(rows, "reference", tasks)["own"].values()
    ]


def test_differences_are_paired_by_seed() -> None:
    """Differences 1, 3 and 2: mean 2, standard deviation 1, t(2) 4.3027, half width 2.4841."""
    first = {0: {"x": 11.0}, 1: {"x": 23.0}, 2: {"x": 32.0}, 9: {"x": 0.0}}
    other = {0: {"x": 10.0}, 1: {"x": 20.0}, 2: {"x": 30.0}, 7: {"x": 99.0}}
    figure = paired(first, other)["x"]
    assert (figure.mean, figure.sd, figure.count) == (2, 1, 3)
    assert figure.half_width == pytest.approx(2.4841, abs=1e-4)
    assert paired({0: {"x": 1.0}}, {1: {"x": 1.0}}) == {}
    alone = Figure.of([5.0])
    assert alone.mean == 5 and math.isnan(alone.sd) and math.isnan(alone.half_width)


def test_a_table_costs_what_its_runs_computed() -> None:
    """30 + 90 + 60 s are 3 minutes of computing, half of that on two cores."""
    runs = {0: Cost(50.0, 30.0), 1: Cost(99.0, 90.0)}
    costs = {"Pilot": runs, "Local": {0: Cost(70.0, 60.0)}}
    assert told(costs) == "3 runs took 3.0 minutes of computing, 1.5 minutes on 2 free cores."
    assert median_seconds(runs) == (74.5, 60.0)
    unknown = {**costs, "FedAvg": {0: Cost(21.0, None)}}
    assert told(unknown).startswith("4 runs took 4.0 minutes by the clock; computing was not")
    assert median_seconds(unknown["FedAvg"]) == (21.0, None)


def test_a_row_shows_what_tuning_decided() -> None:
    preset = PRESETS["embedded"]
    settings = {"federation": {"num_neighbours": 2}, "training": {"learning_rate_stage2": 3e-3}}
    pilot = preset.cell("general-vqa", Row("Pilot", "pilot", settings), 0, secure=False)
    shown = shown_settings(pilot.config, tuned=True)
    assert shown["LoRA rate"].endswith("0.003") and shown["own"] == "M 2"
    assert shown["tuned"] == "yes"
    prox = {"methods": {"proximal_weight": 0.1}}
    rival = preset.cell("general-vqa", Row("FedProx", "fedprox", prox), 0, secure=False)
    assert shown_settings(rival.config, tuned=False)["own"] == "μ 0.1"
    local = preset.cell("general-vqa", Row("Local", "local"), 0, secure=False)
    assert shown_settings(local.config, tuned=False)["own"] == "–"


def test_every_method_has_its_row() -> None:
    for number in (1, 2, 7):
        assert {row.method for row in TABLES[number].rows} == set(METHODS)


@pytest.mark.parametrize("number", sorted(TABLES))
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_row_is_a_configuration_of_its_own(number: int, preset: str) -> None:
    table = TABLES[number]
    if table.scenario not in PRESETS[preset].files:
        with pytest.raises(SystemExit):
            main(["--tables", str(number), "--preset", preset])
        return
    made = [PRESETS[preset].cell(table.scenario, row, 3, secure=False) for row in table.rows]
    own = [cell for row, cell in zip(table.rows, made, strict=True) if row.label != "Pilot, M = 6"]
    assert len({cell.id for cell in own}) == len(own)
    assert {cell.config.run.seed for cell in made} == {3}
    assert {table.first, table.measure} <= {row.label for row in table.rows}


def test_protection_is_for_methods_that_exchange() -> None:
    preset = PRESETS["embedded"]
    for name in METHODS:
        cell = preset.cell("general-vqa", Row(name, name), 0, secure=True)
        assert cell.config.security.secure_agg is cell.config.exchanges
        assert cell.config.data.test_samples == 300


def test_a_second_stage_in_each_round_is_expected_to_take_its_time() -> None:
    """Nine clients with 64 samples in steps of 8: 72 steps an epoch, three rounds of them."""
    rows = {row.label: row for row in TABLES[5].rows}
    once, twice = (
        PRESETS["embedded"].cell(VISUAL, rows[label], 0, secure=False)
        for label in ("M = 6", "M = 6, both stages in each round")
    )
    assert once.expected_seconds is not None and twice.expected_seconds is not None
    steps = 3 * once.config.training.epochs * 72
    added = twice.expected_seconds - once.expected_seconds
    assert added == pytest.approx(steps * cells.STEP_SECONDS)


def test_counts_are_the_papers_where_it_states_them() -> None:
    """LLaVA-1.5-7B: LoRA of rank 64 on seven linears of 32 blocks, a connector 1024-4096-4096."""
    counts = count("llava-1.5-7b", ct_clip=False)
    blocks = 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    adapter = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert counts["text adapter"] == blocks == 159_907_840
    assert counts["one adapter"] == adapter == 20_979_712
    router = 3 * 1024 + 3
    assert counts["trained, stage 1"] == blocks + 2 * adapter
    assert counts["trained, stage 2"] == blocks + 3 * adapter + router
    assert counts["activated, stage 2"] == blocks + 6 * adapter + router
    assert (counts["sent up"], counts["sent down"]) == (blocks + adapter, blocks + 3 * adapter)
    mlp = 1024 * 4096 + 4096 + 4096 * 1024 + 1024
    with_tower = count("llava-1.5-7b", ct_clip=True)
    assert with_tower["one adapter"] == adapter + 23 * mlp  # layer -2: 23 of 24 blocks are used


def test_a_killed_table_goes_on_where_it_was(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    run: list[str] = []
    carry_out = cells.carry_out

    def noted(cell: cells.Cell, folder: Path, code: str) -> float:
        run.append(cell.label)
        if cell.label.startswith("random") and len(run) == 2:
            raise KeyboardInterrupt
        return carry_out(cell, folder, code)

    monkeypatch.setattr(cells, "carry_out", noted)
    out = tmp_path / "tables"
    arguments = ["--preset", "smoke", "--tables", "6", "--seeds", "1", "--base", str(tiny_base)]
    arguments += ["--out", str(out)]
    assert main(arguments) == 130
    assert len(list((out / "cells").iterdir())) == 1
    assert main(arguments) == 0
    assert [label.partition(",")[0] for label in run] == ["local task adapter", "random", "random"]
    assert main(arguments) == 0
    assert len(run) == 3
    told = capsys.readouterr()
    assert "what is finished is kept" in told.err
    assert "1 cells to run, 1 are there" in told.err
    assert "0 cells to run, 2 are there" in told.err
    assert "another version of the code" not in told.err
    monkeypatch.setattr(cells, "code_sha256", lambda: "changed")
    assert main(arguments) == 0
    told_again = capsys.readouterr().err
    assert "2 of those that are there were run by another version" in told_again
    assert "different checkpoints" not in told_again
    one = next((out / "cells").iterdir())
    one.write_text(json.dumps({**json.loads(one.read_text()), "base_sha256": "another"}))
    assert main(arguments) == 0
    assert f"model.base {tiny_base}: the runs that are there started from 2 different" in (
        capsys.readouterr().err
    )
    assert "## Table 6. Initialisation of the cross-task adapters" in told.out
    content = json.loads((out / "table-6.json").read_text())
    after = content["moments"]["after_aggregation"]
    assert set(after["figures"]) == {"local task adapter", "random"}
    assert after["figures"]["random"]["captioning"]["sd"] is None
    assert (out / "table-6.png").read_bytes().startswith(b"\x89PNG")
    (cost,) = content["costs"]["random"].values()
    assert min(cost["cpu_seconds"], cost["wall_seconds"]) > 0
    assert content["settings"]["random"]["own"] == "M 6"
    assert "2 runs took" in told.out and "| s, clock | s, computing |" in told.out
    lines = (out / "table-6.csv").read_text().splitlines()
    assert lines[0].startswith("table,kind,moment,row,column,mean")
    assert any(line.startswith("6,difference,after_local,random,grounding,") for line in lines)


def test_a_cell_that_fails_is_told_and_the_rest_is_kept(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    carry_out = cells.carry_out

    def failing(cell: cells.Cell, folder: Path, code: str) -> float:
        if cell.label.startswith("random"):
            raise FederationError("round 1: nobody is left.")
        return carry_out(cell, folder, code)

    monkeypatch.setattr(cells, "carry_out", failing)
    arguments = ["--preset", "smoke", "--tables", "6", "--seeds", "1", "--base", str(tiny_base)]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "random, visual-understanding, seed 0: round 1: nobody is left." in told.err
    assert "| local task adapter |" in told.out and "| random |" not in told.out


def test_a_mistake_that_ends_every_cell_leaves_the_tables_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    missing = str(tmp_path / "no-such-base")
    arguments = ["--preset", "smoke", "--tables", "6", "--seeds", "1", "--base", missing]
    table = tmp_path / "table-6.md"
    table.write_text("an earlier one")
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert table.read_text() == "an earlier one"
    *progress, problem = capsys.readouterr().err.splitlines()
    first = "error: local task adapter, visual-understanding, seed 0, and 1 more: model.base: "
    assert problem.startswith(first) and problem.endswith("there is no such folder.")
    assert len(progress) == 3
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "the file is wrong"),
        ('{"label": "x', "the file is wrong"),
        ("{}", "label is wrong"),
        (None, "wall_seconds is wrong"),
    ],
)
def test_a_cell_that_cannot_be_read_is_told_before_anything_runs(
    content: str | None,
    told: str,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    arguments = ["--preset", "smoke", "--tables", "6", "--seeds", "1", "--base", str(tiny_base)]
    arguments += ["--out", str(tmp_path)]
    assert main(arguments) == 0
    one, other = sorted((tmp_path / "cells").iterdir())
    other.unlink()
    whole = json.loads(one.read_text())
    one.write_text(json.dumps(whole | {"wall_seconds": "long"}) if content is None else content)
    capsys.readouterr()
    assert main(arguments) == 2
    *_, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"error: {one}: expected a finished cell, but {told}")
    assert not other.exists()


def test_an_out_that_is_no_folder_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "file"
    out.write_text("")
    assert main(["--preset", "smoke", "--tables", "6", "--seeds", "1", "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {out}: ")
