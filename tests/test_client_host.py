"""Clients spread over processes: the same run as in one, and what is left when one dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SIX, FinishedRun

from pilot_secure.client_host import Enrolment
from pilot_secure.config import SimulationConfig
from pilot_secure.engines import PhaseKey, ProcessesTransport
from pilot_secure.run_data import load_data
from pilot_secure.saved_run import read_tensors

PROCESSES = {"run": {"engine": "processes", "slots": 2}}
CLEAR = {"security": {"secure_agg": False}}


def saved_adapters(run: FinishedRun) -> dict[str, bytes]:
    """Every adapter file's bytes, by path."""
    folder = run.path / "adapters"
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def spread_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Six clients in two processes, under secure aggregation, two rounds."""
    from conftest import carry_out

    path = tmp_path_factory.mktemp("spread") / "secure"
    return carry_out(path, tiny_base, SIX, {"federation": {"rounds": 2}}, PROCESSES)


def test_a_run_in_processes_equals_one_in_this_process(
    spread_run: FinishedRun, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Masked and in two processes, clear and in one: equal to the last bit."""
    rounds = {"federation": {"rounds": 2, "replay_selection": spread_run.path}}
    repeated = run_tiny(SIX, rounds, CLEAR)
    ours, theirs = saved_adapters(spread_run), saved_adapters(repeated)
    assert len(ours) == 12
    assert ours == theirs
    start = repeated.simulation.host.worker.initial_text_adapter()
    trained = read_tensors(spread_run.path / "adapters/client-06/adapter_model.safetensors")
    assert not all(trained[name].equal(start[name]) for name in trained)


def test_every_client_s_notes_arrive(spread_run: FinishedRun) -> None:
    summary = spread_run.summary
    assert summary.status == "finished"
    assert summary.peak_memory_bytes > 200 << 20  # of this process and two that hold a model
    assert all(None not in (c.before, c.after_local, c.after_aggregation) for c in summary.clients)
    records = list(spread_run.simulation.folder.history())
    clients = {client.client for client in summary.clients}
    for kind, expected in (("training", 2), ("score", 3), ("selection", 2)):
        found = sorted(record.client for record in records if record.kind == kind)
        assert found == sorted([*clients] * expected), kind
    assert (summary.leakage.model_extra or {})["aggregations"]


def test_a_killed_process_is_a_drop_out(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of client-03 and client-06 is gone when shares are due; four clients go on."""
    carry = ProcessesTransport.exchange

    def kill_first(
        engine: ProcessesTransport, phase: PhaseKey, requests: dict[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        if phase.name == "share":
            os.kill(engine.pids[2], signal.SIGKILL)
        return carry(engine, phase, requests, timeout_s)

    monkeypatch.setattr(ProcessesTransport, "exchange", kill_first)
    run = run_tiny(SIX, {"run": {"engine": "processes", "slots": 3}})
    assert run.summary.status == "finished"
    lost = {(d.client, d.fault, d.round, d.phase) for d in run.summary.drop_outs}
    assert lost == {("client-03", "lost", 1, "share"), ("client-06", "lost", 1, "share")}
    saved = {path.name for path in (run.path / "adapters").iterdir()}
    assert saved == {"client-01", "client-02", "client-04", "client-05"}
    (report,) = run.simulation.server.events.reports
    assert report.aborted is None
    assert set(report.receipts) == saved


def test_an_enrolment_is_split_in_turn_and_shows_no_secret() -> None:
    config = SimulationConfig.model_validate(
        {"data": {"samples_per_client": 1, "test_samples": 1}, "run": {"engine": "processes"}}
    )
    server, enrolment = Enrolment.open(config, Path("run"), load_data(config)[0], 1)
    parts = enrolment.split(4)
    assert [len(part.secrets) for part in parts] == [3, 2, 2, 2]
    assert list(parts[1].secrets) == ["client-02", "client-06"]
    assert {n: s for part in parts for n, s in part.secrets.items()} == dict(enrolment.secrets)
    assert all(secret.hex() not in repr(enrolment) for secret in enrolment.secrets.values())
    assert str(next(iter(enrolment.secrets.values()))) not in repr(enrolment)
    assert len(enrolment.split(20)) == 9
