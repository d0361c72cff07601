"""What a run keeps to on every engine with workers: a suite that each engine's tests inherit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import SIX, FinishedRun, carry_out

from pilot_secure.audit.__main__ import main as audit
from pilot_secure.engines.workers import WorkersTransport
from pilot_secure.saved_run import read_tensors

CLEAR = {"security": {"secure_agg": False}}
TWO_ROUNDS = {"federation": {"rounds": 2}}


def saved_adapters(run: FinishedRun) -> dict[str, bytes]:
    """Every adapter file's bytes, by path."""
    folder = run.path / "adapters"
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.safetensors")}


class EngineRuns:
    """Tests of runs on ``engine``."""

    engine: ClassVar[str]

    def settings(self, slots: int) -> dict[str, Any]:
        return {"run": {"engine": type(self).engine, "slots": slots}}

    @pytest.fixture(scope="class")
    def spread_run(
        self, request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: Any
    ) -> FinishedRun:
        """Six clients at two workers, under secure aggregation, two rounds."""
        path = tmp_path_factory.mktemp("spread") / "secure"
        settings = {"run": {"engine": request.cls.engine, "slots": 2}}
        return carry_out(path, tiny_base, SIX, TWO_ROUNDS, settings)

    def test_a_run_at_workers_equals_one_in_this_process(
        self, spread_run: FinishedRun, run_tiny: Callable[..., FinishedRun]
    ) -> None:
        """Masked and at two workers, clear and here: equal to the last bit."""
        replayed = {"federation": {"replay_selection": spread_run.path}}
        repeated = run_tiny(SIX, TWO_ROUNDS, replayed, CLEAR)
        ours, theirs = saved_adapters(spread_run), saved_adapters(repeated)
        assert len(ours) == 12
        assert ours == theirs
        start = repeated.simulation.host.worker.initial_text_adapter()
        trained = read_tensors(spread_run.path / "adapters/client-06/adapter_model.safetensors")
        assert not all(trained[name].equal(start[name]) for name in trained)

    def test_its_audit_passes(self, spread_run: FinishedRun, capsys: Any) -> None:
        assert audit(["verify", str(spread_run.path)]) == 0, capsys.readouterr().out

    def test_every_client_s_notes_arrive(self, spread_run: FinishedRun) -> None:
        summary = spread_run.summary
        assert summary.status == "finished"
        assert summary.peak_memory_bytes > 200 << 20  # of this process and two that hold a model
        moments = [(c.before, c.after_local, c.after_aggregation) for c in summary.clients]
        assert all(None not in scores for scores in moments)
        records = list(spread_run.simulation.folder.history())
        clients = {client.client for client in summary.clients}
        for kind, expected in (("training", 2), ("score", 3), ("selection", 2)):
            found = sorted(record.client for record in records if record.kind == kind)
            assert found == sorted([*clients] * expected), kind
        assert (summary.leakage.model_extra or {})["aggregations"]

    def test_a_killed_worker_is_a_drop_out(
        self, run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of client-03 and client-06 is gone when shares are due; four clients go on."""
        carry = WorkersTransport.exchange

        def kill_first(
            engine: WorkersTransport, phase: Any, requests: Any, timeout_s: float
        ) -> dict[str, bytes | None]:
            if phase.name == "share":
                os.kill(engine.pids[2], signal.SIGKILL)
            return carry(engine, phase, requests, timeout_s)

        monkeypatch.setattr(WorkersTransport, "exchange", kill_first)
        run = run_tiny(SIX, self.settings(slots=3))
        assert run.summary.status == "finished"
        lost = {(d.client, d.fault, d.round, d.phase) for d in run.summary.drop_outs}
        assert lost == {("client-03", "lost", 1, "share"), ("client-06", "lost", 1, "share")}
        saved = {path.name for path in (run.path / "adapters").iterdir()}
        assert saved == {"client-01", "client-02", "client-04", "client-05"}
        (report,) = run.simulation.server.events.reports
        assert report.aborted is None
        assert set(report.receipts) == saved
