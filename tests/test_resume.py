"""Runs that are killed and go on: the same adapters, one transcript, nothing answered twice."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import NINE, SIX, FinishedRun, merged
from rich.console import Console

from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.verdicts import Verdict
from pilot_secure.audit.verify import verify
from pilot_secure.config import SimulationConfig
from pilot_secure.errors import RunFolderError
from pilot_secure.federation.kept_client import KeptClient
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main, simulate
from pilot_secure.simulation import prepare
from pilot_secure.transcript import chained, read_heads, read_transcript
from protocols.identity import KEY_HOLDER, SERVER
from protocols.parts import cut

CLEAR = {"security": {"secure_agg": False}}
TWO_ROUNDS = {"federation": {"rounds": 2}}


def adapters(path: Path) -> dict[str, bytes]:
    folder = path / "adapters"
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.safetensors")}


def quiet() -> Console:
    return Console(file=io.StringIO())


class Killer:
    """Kills the process at one client's phase: before it, before its reply is kept, or after."""

    def __init__(
        self, phase: str, client: str, when: str, round_number: int = 1, part: int = 0
    ) -> None:
        self._point = (phase, client, round_number, part)
        self._when = when

    def arm(self) -> None:
        handle, keep = KeptClient.handle, KeptClient._keep
        killer = self
        due = False

        def watched(client: KeptClient, phase: Any, request: bytes) -> bytes:
            nonlocal due
            due = (phase.name, client._client.name, phase.round, phase.part) == killer._point
            if due and killer._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            return handle(client, phase, request)

        def kept(client: KeptClient, *arguments: Any) -> None:
            if due and killer._when == "between":
                os.kill(os.getpid(), signal.SIGKILL)
            keep(client, *arguments)
            if due and killer._when == "after":
                os.kill(os.getpid(), signal.SIGKILL)

        KeptClient.handle, KeptClient._keep = watched, kept  # type: ignore[method-assign]


def _run_and_die(settings: dict[str, Any], path: Path, killer: Killer) -> None:
    killer.arm()
    config = SimulationConfig.model_validate(settings)
    simulate(config, RunFolder.create(path, "run"), quiet(), command="a test")


def killed(settings: dict[str, Any], path: Path, killer: Killer) -> None:
    """Run in another process until it is killed."""
    child = multiprocessing.get_context("forkserver").Process(
        target=_run_and_die, args=(settings, path, killer)
    )
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL


def go_on(path: Path) -> FinishedRun:
    from pilot_secure.progress import RunProgress
    from pilot_secure.saved_run import SavedRun

    saved = SavedRun.open(path)
    assert saved.summary.status == "running"
    progress = RunProgress(quiet())
    simulation = prepare(saved.config, saved.folder, progress, go_on=True)
    with saved.folder.recording(simulation.summary):
        simulation.run()
    simulation.forget()
    return FinishedRun(simulation, path, {}, {})


def settings_of(base: Path, *layers: Any) -> dict[str, Any]:
    return merged(NINE, SIX, *layers, {"model": {"base": str(base)}})


def check_record(path: Path) -> None:
    """The chain holds to its signed end, and history and state hold nothing twice or too long."""
    records = list(chained(read_transcript(path)))
    last = list(read_heads(path))[-1]
    assert (last.count, last.last, last.final) == (len(records), records[-1].digest(), True)
    seen = [(r.sender, r.phase, r.session, r.sha256) for r in records if r.phase == "unmask"]
    assert len(seen) == len(set(seen))
    history = [
        (r.kind, r.round, r.stage, r.client, getattr(r, "moment", None))
        for r in RunFolder.open(path).history()
    ]
    assert len(history) == len(set(history))
    assert not list((path / "state").glob("*/memory")) + list((path / "state").glob("server/*"))


@pytest.fixture(scope="module")
def uninterrupted(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clients, two rounds, in the clear, never killed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    config = SimulationConfig.model_validate(settings_of(tiny_base, TWO_ROUNDS, CLEAR))
    simulate(config, RunFolder.create(path, "run"), quiet(), command="a test")
    assert not (path / "state").exists()
    return path


@pytest.fixture(scope="module")
def killed_in_the_clear(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, killed in its second round."""
    path = tmp_path_factory.mktemp("killed") / "run"
    killed(
        settings_of(tiny_base, TWO_ROUNDS, CLEAR), path, Killer("train", "client-02", "after", 2)
    )
    return path


@pytest.mark.parametrize(
    ("phase", "client", "when", "round_number"),
    [
        ("evaluate", "client-02", "before", 0),
        ("train", "client-03", "between", 1),
        pytest.param("train", "client-06", "after", 2, marks=pytest.mark.slow),
        pytest.param("clear_update", "client-03", "after", 1, marks=pytest.mark.slow),
        pytest.param("clear_deliver", "client-02", "after", 1, marks=pytest.mark.slow),
        ("clear_deliver", "client-06", "between", 2),
    ],
)
def test_a_killed_run_ends_as_one_that_was_not(
    phase: str,
    client: str,
    when: str,
    round_number: int,
    uninterrupted: Path,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    killed(
        settings_of(tiny_base, TWO_ROUNDS, CLEAR), path, Killer(phase, client, when, round_number)
    )
    run = go_on(path)
    assert adapters(path) == adapters(uninterrupted)
    check_record(path)
    ours, theirs = run.summary, RunFolder.open(uninterrupted).read_summary()
    assert ours.clients == theirs.clients
    assert {p.phase: p.upload_bytes for p in ours.phases} == {
        p.phase: p.upload_bytes for p in theirs.phases
    }


def test_what_a_scoring_brought_is_kept(
    run_tiny: Callable[..., FinishedRun], tiny_base: Path, tmp_path: Path
) -> None:
    """Half of the clients are told the last means only when they are scored."""
    half = {"federation": {"method": "fedavg", "participation": 0.5, "rounds": 2}}
    whole = run_tiny(SIX, CLEAR, half)
    path = tmp_path / "run"
    killed(settings_of(tiny_base, CLEAR, half), path, Killer("evaluate", "client-06", "after", 2))
    run = go_on(path)
    assert adapters(path) == adapters(whole.path)
    check_record(path)
    assert run.summary.clients == whole.summary.clients


@pytest.mark.parametrize(
    ("phase", "client", "when", "attempts", "trust"),
    [
        pytest.param("select", "client-02", "before", 2, "peer", marks=pytest.mark.slow),
        ("select", "client-02", "before", 2, "key_holder"),
        pytest.param("consistency", "client-04", "after", 2, "peer", marks=pytest.mark.slow),
        pytest.param("unmask", "client-01", "before", 1, "peer", marks=pytest.mark.slow),
        ("unmask", "client-03", "between", 1, "peer"),
        pytest.param("unmask", "client-03", "between", 1, "key_holder", marks=pytest.mark.slow),
        pytest.param("unmask", "client-06", "after", 1, "peer", marks=pytest.mark.slow),
        pytest.param("deliver", "client-02", "after", 1, "peer", marks=pytest.mark.slow),
    ],
)
def test_a_killed_aggregation_starts_afresh_or_is_brought_to_its_end(
    phase: str,
    client: str,
    when: str,
    attempts: int,
    trust: str,
    tiny_base: Path,
    tmp_path: Path,
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """Before anybody is asked to open it, with new keys; after that, the same one.

    A key holder has released the distances of each attempt, and remembers it.
    """
    path, trusted = tmp_path / "run", {"security": {"distance_trust": trust}}
    killed(settings_of(tiny_base, trusted), path, Killer(phase, client, when))
    assert stat.S_IMODE((path / "state").stat().st_mode) == 0o700
    secret = path / "state" / "server" / "enrolment"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    run = go_on(path)
    check_record(path)
    records = list(read_transcript(path))
    sessions = {r.session for r in records if r.phase == "share"}  # long on disk at each kill
    assert len(sessions) == attempts
    (report,) = run.simulation.server.events.reports
    assert report.parameters.attempt == attempts - 1
    assert run.simulation.server.events.refusals == []
    assert len(report.receipts) == 6
    released = list((path / "state" / KEY_HOLDER).glob("claim-*"))
    assert len(released) == (attempts if trust == "key_holder" else 0)
    audited = verify(Bundle.open(path))
    assert [r.id for r in audited.results if r.verdict is Verdict.FAIL] == []
    assert audited.exit_code == 0
    replay = {"federation": {"replay_selection": path}}
    assert adapters(path) == adapters(run_tiny(SIX, CLEAR, replay).path)


@pytest.mark.parametrize(
    ("phase", "client", "part", "attempts"),
    [
        ("masked_input", "client-01", 1, 2),
        pytest.param("deliver", "client-04", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_what_is_killed_between_parts_begins_them_again(
    phase: str,
    client: str,
    part: int,
    attempts: int,
    tiny_base: Path,
    tmp_path: Path,
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """An upload with new keys, in a new attempt; a delivery from its first part on."""
    path = tmp_path / "run"
    in_parts = {"security": {"part_bytes": 2048}}
    killed(settings_of(tiny_base, in_parts), path, Killer(phase, client, "before", part=part))
    run = go_on(path)
    check_record(path)
    (report,) = run.simulation.server.events.reports
    assert report.parameters.attempt == attempts - 1 and report.aborted is None
    assert len(report.receipts) == 6 and run.simulation.server.events.refusals == []
    sent = [
        record.sha256
        for record in read_transcript(path)
        if (record.phase, record.sender) == (phase, client)
        and record.session == report.session.hex()
    ]
    parameters = report.parameters
    delivered = [spec for spec in parameters.sums if spec.recipient in (SERVER, client)]
    sums = delivered if phase == "deliver" else parameters.sums_of(client)
    parts = cut(parameters, [spec.id for spec in sums])
    assert len(sent) == len(set(sent)) == len(parts) > 2, "each part once, of what was opened"
    assert verify(Bundle.open(path)).exit_code == 0
    replay = {"federation": {"replay_selection": path}}
    assert adapters(path) == adapters(run_tiny(SIX, CLEAR, replay).path)


@pytest.mark.slow
def test_clients_in_processes_go_on_too(
    uninterrupted: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """The starter is killed while its processes train; they end with it."""
    path = tmp_path / "run"
    engine = {"run": {"engine": "processes", "slots": 2}}
    settings = settings_of(tiny_base, TWO_ROUNDS, CLEAR, engine)
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=_die_at_training, args=(settings, path))
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    go_on(path)
    assert adapters(path) == adapters(uninterrupted)
    check_record(path)


def _die_at_training(settings: dict[str, Any], path: Path) -> None:
    from pilot_secure.federation.journal import RunJournal

    def die(journal: RunJournal, client: str, round_number: int, *rest: Any) -> None:
        if round_number == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    RunJournal.losses = die  # type: ignore[method-assign]
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    _run_and_die(settings, path, Killer("none", "none", "before"))


def test_what_cannot_go_on_is_told_in_a_sentence(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sentence(*arguments: str) -> str:
        assert main(["--resume", *arguments]) == 2
        told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        (line,) = told
        return line

    assert "it is finished" in sentence(str(uninterrupted))
    assert "expected a run folder" in sentence(str(tmp_path))
    assert "expected no other option" in sentence(str(uninterrupted), "--rounds", "5")
    (tmp_path / "roster.json").touch()
    assert "killed before that; start it again" in sentence(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ([("lora_rank: 2", "lora_rank: 4")], ["model.lora_rank is 4: expected 2, as when"]),
        (
            [("rounds: 2", "rounds: 3"), ("secure_agg: false", "secure_agg: true")],
            ["federation.rounds is 3: expected 2", "security.secure_agg is true: expected false"],
        ),
        ([("seed: 0", "seed: 1")], ["run.seed is 1: expected 0"]),
        (
            [("samples_per_client: 6", "samples_per_client: 7")],
            ["data.samples_per_client is 7: expected 6"],
        ),
    ],
)
def test_a_configuration_that_was_changed_is_told_and_nothing_is_lost(
    changes: list[tuple[str, str]],
    sentences: list[str],
    killed_in_the_clear: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run"
    shutil.copytree(killed_in_the_clear, path)
    config = path / "config.yaml"
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f != config}
    for old, new in changes:
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, new))
    assert main(["--resume", str(path)]) == 2
    told = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(told) == len(sentences)
    for line, sentence in zip(told, sentences, strict=True):
        assert f"{config}: {sentence}" in line
    assert before == {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f != config}


def test_fewer_samples_than_the_run_began_with_are_told(
    killed_in_the_clear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pilot_secure import simulation

    path, load = tmp_path / "run", simulation.load_data
    shutil.copytree(killed_in_the_clear, path)

    def shorter(*arguments: Any) -> Any:
        clients, report = load(*arguments)
        cut = replace(clients[1], train=clients[1].train.select(range(5)))
        return [clients[0], cut, *clients[2:]], report

    monkeypatch.setattr(simulation, "load_data", shorter)
    with pytest.raises(RunFolderError, match=r"data of client-02 are 5 samples .* expected 6 and"):
        go_on(path)


def test_a_run_goes_on_with_other_workers(
    killed_in_the_clear: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(killed_in_the_clear, path)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("phase_timeout_s: 3600.0", "phase_timeout_s: 9.5"))
    assert "phase_timeout_s: 9.5" in config.read_text()
    go_on(path)
    assert adapters(path) == adapters(uninterrupted)


def test_a_run_that_is_still_running_is_left_alone(
    killed_in_the_clear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pilot_secure import run_state

    path = tmp_path / "run"
    shutil.copytree(killed_in_the_clear, path)
    monkeypatch.setattr(run_state, "LOCK_TIMEOUT_S", 0.2)
    holder = multiprocessing.get_context("forkserver").Process(target=_hold, args=(path,))
    holder.start()
    while not (path / "held").exists():
        holder.join(0.02)
    unfinished = [path / ".summary.json.x.unfinished", path / "state/client-01/.x.unfinished"]
    for file in unfinished:  # a process that writes, or was killed while it did
        file.touch()
    with pytest.raises(RunFolderError, match="it is still running"):
        run_state.RunState.take(path)
    assert all(file.exists() for file in unfinished)
    holder.kill()
    holder.join()
    run_state.RunState.take(path)
    assert not list(path.rglob(".*"))


def _hold(path: Path) -> None:
    from pilot_secure.run_state import share_run

    share_run(path)
    (path / "held").touch()
    signal.pause()
