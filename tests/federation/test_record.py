"""The record of a run: every message valid, the chain whole, the costs what was sent."""

from __future__ import annotations

from collections import defaultdict

import pytest
from conftest import FinishedRun

from pilot_secure.federation import messages as federation
from pilot_secure.federation.client import FEDERATION_PHASES
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import SelectionRecord, TrainingRecord
from pilot_secure.transcript import chained, read_heads, read_payload, read_transcript
from protocols import Roster
from protocols.frame import open_frame
from protocols.states import SERVER_PHASES, applies

ROWS = [row for row in SERVER_PHASES if applies(row, "peer")]
EXPECTED = {row.state: row.event for row in ROWS if row.state != "deliver"}


@pytest.fixture(params=["secure", "clear"])
def run(request: pytest.FixtureRequest) -> FinishedRun:
    return request.getfixturevalue(f"{request.param}_run")


def test_every_message_is_signed_and_fits_its_schema(run: FinishedRun) -> None:
    roster = Roster.model_validate_json((run.path / "roster.json").read_text())
    run_id = run.simulation.server._agreement.run_id
    phases = set()
    for record in read_transcript(run.path):
        frame = read_payload(run.path, record)
        phases.add(record.phase)
        if record.phase in FEDERATION_PHASES:
            message = federation.open_frame(frame, roster, record.sender, run_id)
            assert message.recipient == record.recipient
            assert record.session == "00" * 32
        else:
            message = open_frame(frame, roster, record.sender, record.phase)
            assert message.recipient == record.recipient
            if record.recipient == "server" and record.phase in EXPECTED:
                assert message.kind == EXPECTED[record.phase]
            if record.phase not in ("advertise", "share"):
                assert message.session.hex() == record.session
    around = {"train", "evaluate"}
    if run.config.security.secure_agg:
        assert phases == around | {row.state for row in ROWS}
    else:
        assert phases == around | {"clear_update", "clear_deliver"}


def test_the_chain_and_its_head_verify(run: FinishedRun) -> None:
    roster = Roster.model_validate_json((run.path / "roster.json").read_text())
    records = list(chained(read_transcript(run.path)))
    heads = list(read_heads(run.path))
    for head in heads:
        head.verify(roster)
        assert head.last == records[head.count - 1].digest()
    assert [head.final for head in heads] == [False] * (len(heads) - 1) + [True]
    assert heads[-1].count == len(records)
    named = {record.sha256 for record in records}
    assert {file.name for file in (run.path / "payloads").iterdir()} == named


def test_costs_are_the_bytes_that_were_recorded(run: FinishedRun) -> None:
    up, down = defaultdict(int), defaultdict(int)
    for record in read_transcript(run.path):
        (up if record.recipient == "server" else down)[record.phase] += record.length
    phases = {phase.phase: phase for phase in run.summary.phases}
    assert phases.keys() == up.keys() == down.keys()
    for name, phase in phases.items():
        assert (phase.upload_bytes, phase.download_bytes) == (up[name], down[name])
        assert phase.seconds > 0


def test_history_has_every_stage_and_selection(run: FinishedRun) -> None:
    records = list(RunFolder.open(run.path).history())
    trained = [r for r in records if isinstance(r, TrainingRecord)]
    clients = sorted(run.simulation.host.clients)
    assert [(r.round, r.stage, r.client) for r in trained] == [
        (number, stage, client) for number, stage in ((1, 1), (2, 2)) for client in clients
    ]
    assert all(r.steps == 3 and r.losses["answer"] > 0 for r in trained)
    assert {name for r in trained[:9] for name in r.losses} == {"total", "answer", "difference"}
    for record in (r for r in records if isinstance(r, SelectionRecord)):
        assert set(record.distances) == set(clients) - {record.client}
        nearest = sorted(record.distances, key=lambda peer: (record.distances[peer], peer))[:6]
        if run.config.security.secure_agg:
            assert set(record.neighbours) == set(nearest)
            scale = min(record.distances.values())
            for peer, weight in zip(record.neighbours, record.weights, strict=True):
                expected = max(0.25, scale / record.distances[peer])
                assert weight == pytest.approx(expected, rel=0.05)  # its own, rounded distance


def test_summary_tells_each_client(run: FinishedRun) -> None:
    summary = run.summary
    assert summary.status == "finished"
    assert [client.client for client in summary.clients] == sorted(run.simulation.host.clients)
    for client in summary.clients:
        assert (client.samples, client.test_samples) == (6, 1)
        assert None not in (client.before, client.after_local, client.after_aggregation)
    assert summary.drop_outs == ()


def test_no_vector_is_kept_longer_than_it_is_needed(secure_run: FinishedRun) -> None:
    """Over a run of LLaVA-1.5 the results of nine clients would be tens of gigabytes."""
    server = secure_run.simulation.server
    assert all(not report.results for report in server.events.reports)
    for results in secure_run.simulation.journal.results.values():
        for result in results.values():
            assert set(result.means.values()) == {None}
            assert result.sealed.vector_sum.size == 0
            assert result.weights
            assert result.row
