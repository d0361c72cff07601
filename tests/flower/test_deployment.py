"""Flower itself: a deployment on this machine, and its simulation engine (`make test-flower`)."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import NINE, SIX, FinishedRun, merged
from rich.console import Console
from test_party import CLEAR, SAME, adapters_of
from test_verify import NEEDS_ESCROW, audit, failed, unchecked

pytest.importorskip("flwr")

from pilot_secure.config import SimulationConfig
from pilot_secure.flower import loopback
from pilot_secure.flower.loopback import Deployment, run_on_loopback
from pilot_secure.run_folder import RunFolder

FLOWER = {"run": {"engine": "flower", "phase_timeout_s": 900.0}}
THREE = {"data": {"clients_per_task": 1}, "federation": {"method": "fedavg"}}


def carry_out(out: Path, base: Path, *layers: Mapping[str, Any], simulated: bool = False) -> Path:
    settings = merged(NINE, SIX, SAME, FLOWER, {"model": {"base": str(base)}}, *layers)
    config = SimulationConfig.model_validate(settings)
    folder = RunFolder.create(out, config.run_name)
    run_on_loopback(config, folder, Console(file=io.StringIO()), simulated=simulated)
    return out


def processes_of(out: Path) -> list[str]:
    """The command lines of processes that were started for a deployment."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
        if str(out.resolve()) in words:
            lines.append(words)
    return lines


@pytest.fixture(scope="module")
def deployed_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clients with a SuperNode each, under secure aggregation."""
    return carry_out(tmp_path_factory.mktemp("deployed") / "run", tiny_base)


def test_a_deployment_equals_one_process(
    deployed_run: Path, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Masked, over TLS, from six nodes; in the clear, in one process: equal to the last bit."""
    repeated = run_tiny(SIX, CLEAR, SAME, {"federation": {"replay_selection": deployed_run}})
    ours, theirs = adapters_of(deployed_run), adapters_of(repeated.path)
    assert len(ours) == 12
    assert ours == theirs


def test_the_audit_passes_on_a_deployment(deployed_run: Path) -> None:
    report = audit(deployed_run)
    assert failed(report) == {}
    assert unchecked(report) == NEEDS_ESCROW


def test_nothing_is_left_running(deployed_run: Path) -> None:
    assert processes_of(deployed_run) == []


def test_the_connections_are_encrypted_and_nodes_known(deployed_run: Path) -> None:
    logs = deployed_run / "flower" / "logs"
    assert "Uvicorn running on https://127.0.0.1" in (logs / "superlink.log").read_text()
    assert all("insecure" not in log.read_text() for log in logs.glob("client-*.log"))
    assert oct(os.stat(deployed_run / "flower" / "credentials").st_mode & 0o777) == "0o700"


def test_a_supernode_that_is_killed_is_a_drop_out(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies when shares are asked for; the run goes on with the other two."""
    started: list[Deployment] = []
    start = Deployment.start_supernodes

    def noted(deployment: Deployment) -> None:
        started.append(deployment)
        start(deployment)

    monkeypatch.setattr(loopback.Deployment, "start_supernodes", noted)
    out = tmp_path / "run"

    def kill() -> None:
        transcript = out / "transcript.jsonl"
        while not (transcript.exists() and '"phase":"share"' in transcript.read_text()):
            time.sleep(0.1)
        started[0].kill_supernode("client-03")

    threading.Thread(target=kill, daemon=True).start()
    carry_out(out, tiny_base, THREE)
    summary = RunFolder.open(out).read_summary()
    assert summary.status == "finished"
    assert {(d.client, d.fault) for d in summary.drop_outs} == {("client-03", "lost")}
    assert summary.drop_outs[0].phase in ("share", "masked_input")
    after = {c.client: c.after_aggregation is not None for c in summary.clients}
    assert after == {"client-01": True, "client-02": True, "client-03": False}
    assert all(c.after_local is not None for c in summary.clients), "trained before it died"
    assert failed(audit(out)) == {}


def test_the_simulation_engine_gives_the_same(
    tiny_base: Path, tmp_path: Path, run_tiny: Callable[..., FinishedRun]
) -> None:
    out = carry_out(tmp_path / "run", tiny_base, THREE, simulated=True)
    repeated = run_tiny(SIX, SAME, THREE)  # nothing is selected, so there is nothing to replay
    assert adapters_of(out) == adapters_of(repeated.path)
    assert failed(audit(out)) == {}
    assert processes_of(out) == []
