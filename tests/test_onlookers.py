"""Trackers and structured logs: what they show is what the run noted, and off is off."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import NINE, SIX, FinishedRun, merged
from rich.console import Console

from pilot_secure.config import SimulationConfig
from pilot_secure.errors import FederationError, RunFolderError
from pilot_secure.federation.server import FederationServer
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main, simulate
from pilot_secure.summary import ScoreRecord, TrainingRecord


def run_watched(path: Path, base: Path, **run: Any) -> RunFolder:
    settings = merged(NINE, SIX, {"model": {"base": str(base)}, "run": run})
    folder = RunFolder.create(path, "run")
    console = Console(file=io.StringIO())
    simulate(SimulationConfig.model_validate(settings), folder, console, command="a test")
    return RunFolder.open(path)


@pytest.fixture(scope="module")
def watched(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """A run of six clients under secure aggregation with TensorBoard, and its event log."""
    place = tmp_path_factory.mktemp("watched")
    log = place / "logs" / "events.jsonl"
    folder = run_watched(place / "run", tiny_base, tracker="tensorboard", event_log=log)
    return folder, log


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_tracker_has_the_losses_and_scores_of_the_history(
    watched: tuple[RunFolder, Path],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = watched
    (written,) = (folder.path / "tracking").glob("*/events.*")
    accumulator = EventAccumulator(str(written))
    accumulator.Reload()
    tracked = {
        (tag, event.step): event.value
        for tag in accumulator.Tags()["scalars"]
        for event in accumulator.Scalars(tag)
    }
    noted: dict[tuple[str, int], float | None] = {}
    for record in folder.history():
        step = max(0, 2 * (record.round - 1) + record.stage)
        if isinstance(record, TrainingRecord):
            noted |= {(f"loss/{n}/{record.client}", step): v for n, v in record.losses.items()}
        if isinstance(record, ScoreRecord):
            noted[f"score/{record.moment}/{record.client}", step] = record.value
    assert tracked == pytest.approx(noted, rel=1e-6)
    assert len({tag for tag, _ in tracked}) >= 6 * 5  # two losses and a total, three scores


def test_the_log_has_every_phase_training_and_score(watched: tuple[RunFolder, Path]) -> None:
    folder, log = watched
    said = events(log)
    summary = folder.read_summary()
    assert {entry["run"] for entry in said} == {summary.name}
    assert [said[0]["event"], said[-1]["event"]] == ["start", "finished"]
    assert said[0]["folder"] == str(folder.path)
    assert said[-1]["reason"] is None
    for phase in summary.phases:
        exchanges = [e for e in said if e["event"] == "phase" and e["phase"] == phase.phase]
        assert sum(e["upload_bytes"] for e in exchanges) == phase.upload_bytes
        assert sum(e["download_bytes"] for e in exchanges) == phase.download_bytes
        assert sum(e["seconds"] for e in exchanges) <= phase.seconds + 1e-3
    told = [e for e in said if e["event"] in ("training", "score")]
    noted = [r for r in folder.history() if isinstance(r, TrainingRecord | ScoreRecord)]
    for entry, record in zip(told, noted, strict=True):
        fields = record.model_dump(mode="json")
        assert {"event": fields.pop("kind"), **fields}.items() <= entry.items()
    (attempt,) = [e for e in said if e["event"] == "attempt"]
    assert (attempt["aborted"], attempt["opened"], attempt["sums"]) == (None, 9, 9)


def test_a_run_that_fails_says_so(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(server: FederationServer) -> None:
        raise FederationError("too few clients are left.")

    monkeypatch.setattr(FederationServer, "run", fail)
    log = tmp_path / "events.jsonl"
    log.write_text('{"event": "of another run"}\n')
    with pytest.raises(FederationError):
        run_watched(tmp_path / "run", tiny_base, event_log=log)
    said = events(log)
    assert [e["event"] for e in said] == ["of another run", "start", "failed"]
    assert said[-1]["reason"] == "FederationError: too few clients are left."


def test_a_log_whose_reader_is_gone_ends_and_the_run_goes_on(
    tiny_base: Path, tmp_path: Path
) -> None:
    log = tmp_path / "pipe"
    os.mkfifo(log)
    lines: list[str] = []

    def read_two() -> None:
        with log.open() as reader:
            lines.extend(reader.readline() for _ in range(2))

    reader = threading.Thread(target=read_two)
    reader.start()
    folder = run_watched(tmp_path / "run", tiny_base, event_log=log)
    reader.join()
    assert [json.loads(line)["event"] for line in lines] == ["start", "score"]
    summary = folder.read_summary()
    assert summary.status == "finished"
    (note,) = [note for note in summary.notes if "event_log" in note]
    assert f"the run went on: {log}: Broken pipe." in note
    assert not list((tmp_path / "run" / "state").glob("*/memory"))


def test_a_full_disk_is_told_with_the_way_to_go_on(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise RunFolderError("payloads: the disk is full.")

    monkeypatch.setattr(FederationServer, "run", full)
    settings = merged(NINE, SIX, {"model": {"base": str(tiny_base)}})
    console = Console(file=io.StringIO(), width=200)
    folder = RunFolder.create(tmp_path / "run", "run")
    with pytest.raises(RunFolderError, match="the disk is full"):
        simulate(SimulationConfig.model_validate(settings), folder, console, command="a test")
    assert f"to go on: python -m pilot_secure.simulate --resume {folder.path}" in (
        console.file.getvalue()
    )
    assert folder.read_summary().status == "failed"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tracker", "ledger"], '--tracker is "ledger": expected one of aim, clearml, '),
        (["--tracker", "dvclive"], "run.tracker is dvclive: expected a tracker whose package is"),
        (["--event-log", "/dev"], "/dev: Is a directory."),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"error: {sentence}" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_without_being_asked_nobody_looks_on(clear_run: FinishedRun) -> None:
    assert not (clear_run.path / "tracking").exists()
    assert clear_run.config.run.tracker is clear_run.config.run.event_log is None
