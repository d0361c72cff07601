"""The run folder: made once, never overwritten, readable however the run ended."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from pilot_secure import command_line, files
from pilot_secure.config import RunConfig, SimulationConfig
from pilot_secure.errors import RunFolderError
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import (
    ClientSummary,
    DropOut,
    Leakage,
    PhaseSummary,
    ScoreRecord,
    SelectionRecord,
    Summary,
    TrainingRecord,
    installed_versions,
    json_schemas,
    peak_memory_bytes,
)

NOON = datetime(2026, 2, 3, 12, 0, 1, tzinfo=UTC)


def _summary(wall_seconds: float = 1.5) -> Summary:
    return Summary(
        status="running",
        name="test",
        method="pilot",
        scenario="general-vqa",
        seed=7,
        secure_agg=True,
        versions=installed_versions(["numpy", "no-such-package"]),
        started_utc=NOON.isoformat(),
        wall_seconds=wall_seconds,
        peak_memory_bytes=peak_memory_bytes(),
        clients=(
            ClientSummary(
                client="client-01",
                task="t",
                samples=64,
                test_samples=20,
                metric="cider",
                before=1.0,
                after_local=120.5,
            ),
        ),
        phases=(PhaseSummary(phase="share", seconds=0.1, upload_bytes=10, download_bytes=20),),
        drop_outs=(DropOut(client="client-02", round=1, stage=1, attempt=1, phase="share"),),
        leakage=Leakage.model_validate({"server": {"rank": 2}}),
    )


def test_default_names_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [str(RunFolder.create(None, "a b/../c", now=NOON).path) for _ in range(3)]
    stem = "runs/20260203-120001-a-b-..-c"
    assert paths == [stem, f"{stem}-2", f"{stem}-3"]


def test_existing_folder_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", "x").path == tmp_path / "empty"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "summary.json").write_text("kept")
    with pytest.raises(RunFolderError, match=r"--out is .*full: expected a new or empty folder"):
        RunFolder.create(tmp_path / "full", "x")
    assert (tmp_path / "full" / "summary.json").read_text() == "kept"
    with pytest.raises(RunFolderError, match="it is a file"):
        RunFolder.create(tmp_path / "full" / "summary.json", "x")
    with pytest.raises(RunFolderError, match="it is a file"):
        RunFolder.create(tmp_path / "full" / "summary.json" / "below", "x")


def test_resolved_configuration_reads_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "x")
    for name in ("no", "6e-3", "0x1F", "2026-02-03", "012", "plain é"):
        config = SimulationConfig(run=RunConfig(name=name, out=Path("a"), seed=3))
        folder.write_config(config, command="python -m pilot_secure.simulate")
        argv = ["--config", str(folder.config_path)]
        read = command_line.parse(SimulationConfig, argv, program="p", description="")
        assert read == config
    assert "# python -m pilot_secure.simulate\n" in folder.config_path.read_text()


def test_summary_and_history_round_trip_and_fit_their_schemas(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "x")
    folder.write_summary(_summary())
    assert RunFolder.open(folder.path).read_summary() == _summary().model_copy(
        update={"peak_memory_bytes": folder.read_summary().peak_memory_bytes}
    )
    records = [
        TrainingRecord(
            round=1, stage=1, client="client-01", epoch=1, steps=8, losses={"answer": None}
        ),
        SelectionRecord(
            round=1,
            stage=1,
            client="client-01",
            neighbours=("client-02",),
            weights=(1.0,),
            distances={"client-02": 0.5},
        ),
        ScoreRecord(
            round=0,
            stage=0,
            client="client-01",
            moment="before",
            metric="cider",
            value=120.0,
            count=5,
            unparsed=0,
        ),
    ]
    for record in records:
        folder.append_history(record)
    assert list(folder.history()) == records  # readable while the run goes on
    folder.close()
    schemas = json_schemas()
    summary = json.loads((folder.path / "summary.json").read_text())
    jsonschema.validate(summary, schemas["summary.json"])
    assert summary["leakage"] == {"server": {"rank": 2}}
    assert summary["versions"]["no-such-package"] == "absent"
    for line in (folder.path / "history.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), schemas["history.jsonl"])


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "finished", None),
        (KeyboardInterrupt(), "interrupted", "interrupted by the user"),
        (RuntimeError("a\nb"), "failed", "RuntimeError: a b"),
    ],
)
def test_summary_says_how_the_run_ended(
    tmp_path: Path, error: BaseException | None, status: str, reason: str | None
) -> None:
    folder = RunFolder.create(tmp_path / "run", "x")
    seconds = [0.0]

    def run() -> None:
        with folder.recording(lambda: _summary(seconds[0])):
            assert folder.read_summary().status == "running"
            seconds[0] = 2.0
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    summary = folder.read_summary()
    assert (summary.status, summary.reason, summary.wall_seconds) == (status, reason, 2.0)


def test_full_disk_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.create(tmp_path / "run", "x")

    def no_space(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    @command_line.main
    def command() -> None:
        with folder.recording(_summary):
            monkeypatch.setattr(files.os, "write", no_space)
            folder.append_history(
                TrainingRecord(round=1, stage=1, client="c", epoch=1, steps=1, losses={})
            )

    assert command() == 2
    assert capsys.readouterr().err == f"error: {folder.path / 'history.jsonl'}: the disk is full.\n"
    assert folder.read_summary().status == "running"


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"it has no summary\.json"):
        RunFolder.open(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": "running"')
    with pytest.raises(RunFolderError, match="no valid summary"):
        RunFolder.open(tmp_path).read_summary()
