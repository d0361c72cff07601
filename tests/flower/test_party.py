"""Clients that have a process for each message, without Flower: all they are lies in their folders.

The engine here hands every request to a party that is opened afresh, as Flower's client process
does; what Flower itself adds is tested by `make test-flower`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import NINE, SIX, FinishedRun, merged
from rich.console import Console
from test_verify import NEEDS_ESCROW, audit, failed, unchecked

from pilot_secure.client_host import Enrolment, HostReport
from pilot_secure.config import SimulationConfig
from pilot_secure.engines import PhaseKey
from pilot_secure.federation.messages import Enrol, Refusal, open_frame, seal
from pilot_secure.flower.gather import gather
from pilot_secure.flower.parties import make_parties
from pilot_secure.flower.party import Party
from pilot_secure.flower.party_folder import CONFIG, PartyFolder
from pilot_secure.flower.reported import enter_reported
from pilot_secure.flower.terms import agreed_digest, read_config, read_terms
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import simulate
from protocols.identity import SERVER

FLOWER = {"run": {"engine": "flower"}}
SAME = {"federation": {"score_base": False}}  # what else a replay must have alike
TWICE = {"federation": {"rounds": 2}}
CLEAR = {"security": {"secure_agg": False}}


class Folders:
    """A far end and an engine: every request opens the party's folder again."""

    def __init__(self, parties: Path) -> None:
        self.parties = parties
        self.server = PartyFolder(parties / SERVER)
        self.absent: Callable[[str, PhaseKey], bool] = lambda client, phase: False
        self.reports: list[Any] = []

    def enrolment(self, config: SimulationConfig, folder: Path) -> Any:
        terms = read_terms(self.server)
        return self.server.identity, Enrolment(
            config, "run-1", folder, self.server.roster, terms.tasks, terms.max_samples, {}
        )

    def start(self, server: Any, enrolment: Enrolment, journal: Any) -> Folders:
        terms = read_terms(self.server)
        self.reports = [HostReport(terms.vector_lengths, terms.base_sha256)]
        self._journal = journal
        call = called(self.server, enrolment.run_id)
        self.exchange(PhaseKey("enrol", 0, 0), dict.fromkeys(terms.tasks, call), 1.0)
        return self

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        for client, request in requests.items():
            if not self.absent(client, phase):
                party = Party(PartyFolder(self.parties / client))
                replies[client], lines = party.handle(phase, request)
                enter_reported(self._journal, client, lines)
        return replies

    def finish(self, timeout_s: float) -> int:
        return 0

    def close(self) -> None:
        pass


def called(server: PartyFolder, run_id: str) -> bytes:
    call = Enrol(
        run_id=run_id,
        round=0,
        stage=0,
        sender=SERVER,
        recipient="everybody",
        agreed=agreed_digest(server),
    )
    return seal(call, server.identity)


def carry_out(
    folder: Path,
    base: Path,
    *layers: Mapping[str, Any],
    absent: Callable[[str, PhaseKey], bool] = lambda client, phase: False,
) -> Path:
    """A run of such clients; return its folder, with what they hold gathered in it."""
    settings = merged(NINE, SIX, SAME, FLOWER, {"model": {"base": str(base)}}, *layers)
    make_parties(SimulationConfig.model_validate(settings), folder / "parties")
    far_end = Folders(folder / "parties")
    far_end.absent = absent
    out = RunFolder(folder / "run")
    out.path.mkdir()
    config = read_config(far_end.server)
    console = Console(file=io.StringIO())
    simulate(config, out, console, command="a test", far_end=far_end)
    gather(out, folder / "parties")
    return out.path


def adapters_of(run: Path) -> dict[str, bytes]:
    files = (run / "adapters").rglob("*.safetensors")
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clients, two rounds, under secure aggregation."""
    return carry_out(tmp_path_factory.mktemp("flower"), tiny_base, TWICE)


def test_the_run_equals_one_in_this_process(
    run: Path, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Masked, with a process for each message; in the clear, in one: equal to the last bit."""
    repeated = run_tiny(SIX, TWICE, CLEAR, SAME, {"federation": {"replay_selection": run}})
    ours, theirs = adapters_of(run), adapters_of(repeated.path)
    assert len(ours) == 12
    assert ours == theirs


def test_the_audit_passes(run: Path) -> None:
    report = audit(run)
    assert failed(report) == {}
    assert unchecked(report) == NEEDS_ESCROW
    assert len(report.attempts) == 2


def test_what_clients_hold_is_in_their_folders_alone(run: Path) -> None:
    for client in sorted((run.parent / "parties").glob("client-*")):
        state = client / "runs" / "run-1" / "state" / client.name
        assert oct(os.stat(state).st_mode & 0o777) == "0o700"
        assert oct(os.stat(client / "identity.json").st_mode & 0o777) == "0o600"
        history = RunFolder(client / "runs" / "run-1").history()
        assert {record.client for record in history} == {client.name}
    assert not (run / "state").exists()


def test_a_server_that_is_stopped_while_it_opens_goes_on(
    tiny_base: Path, tmp_path: Path, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Clients that have answered give the same answers again, and the run ends as it would have."""
    stops = [PhaseKey("unmask", 1, 1), PhaseKey("deliver", 1, 1)]

    def stopped(client: str, phase: PhaseKey) -> bool:
        if client == "client-04" and stops and phase.name == stops[0].name:
            stops.pop(0)
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path, tiny_base, absent=stopped)
    out, far_end = RunFolder(tmp_path / "run"), Folders(tmp_path / "parties")
    far_end.absent = stopped
    config, console = read_config(far_end.server), Console(file=io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        simulate(config, out, console, command=None, far_end=far_end)
    simulate(config, out, console, command=None, far_end=Folders(tmp_path / "parties"))
    gather(out, tmp_path / "parties")
    repeated = run_tiny(SIX, CLEAR, SAME, {"federation": {"replay_selection": out.path}})
    assert adapters_of(out.path) == adapters_of(repeated.path)
    assert failed(audit(out.path)) == {}


def test_metrics_stay_with_the_clients_unless_they_report_them(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_party.gather", lambda out, parties: None)
    small = {"data": {"clients_per_task": 1}, "federation": {"method": "fedavg"}}
    silent = carry_out(tmp_path / "silent", tiny_base, small)
    told = carry_out(tmp_path / "told", tiny_base, small, {"run": {"report_metrics": True}})
    kinds = [{r.kind for r in RunFolder(run).history()} for run in (silent, told)]
    assert kinds == [{"release"}, {"release", "training", "score"}]
    silent_summary, told_summary = (RunFolder.open(r).read_summary() for r in (silent, told))
    assert all(client.after_local is None for client in silent_summary.clients)
    assert all(client.after_local is not None for client in told_summary.clients)


def test_a_party_that_did_not_agree_refuses(tiny_base: Path, tmp_path: Path) -> None:
    settings = merged(NINE, SIX, FLOWER, {"model": {"base": str(tiny_base)}})
    make_parties(SimulationConfig.model_validate(settings), tmp_path)
    own, server = PartyFolder(tmp_path / "client-02"), PartyFolder(tmp_path / SERVER)
    text = (own.path / CONFIG).read_text()
    changed = text.replace("sketch_size: 64", "sketch_size: 128")
    assert changed != text
    (own.path / CONFIG).write_text(changed)
    reply, _ = Party(own).handle(PhaseKey("enrol", 0, 0), called(server, "run-7"))
    refusal = open_frame(reply, server.roster, "client-02", "run-7")
    assert isinstance(refusal, Refusal)
    assert "another configuration, roster or terms" in refusal.reason
    assert own.run_id is None


def test_a_client_that_vanishes_in_an_aggregation_comes_back(
    tiny_base: Path, tmp_path: Path
) -> None:
    """It misses an aggregation from its shares on, is told the means, and joins the next."""

    def absent(client: str, phase: PhaseKey) -> bool:
        asked = phase.name not in ("train", "evaluate", "enrol", "advertise")
        return client == "client-03" and phase.round == 1 and asked

    out = carry_out(tmp_path, tiny_base, TWICE, absent=absent)
    summary = RunFolder.open(out).read_summary()
    assert summary.status == "finished"
    assert {(d.client, d.round, d.phase) for d in summary.drop_outs} == {("client-03", 1, "share")}
    selections = [r for r in RunFolder(out).history() if r.kind == "selection"]
    assert {r.client for r in selections if r.round == 2} >= {"client-03"}
