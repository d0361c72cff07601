"""Clients that vanish: the run goes on, tells it, and whoever comes back catches up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import NINE, SIX, FinishedRun, merged

from pilot_secure.errors import FederationError
from pilot_secure.federation import messages as federation
from pilot_secure.federation.faults import FaultyTransport
from pilot_secure.federation.methods.pilot import Pilot
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main
from pilot_secure.transcript import read_heads, read_payload, read_transcript
from protocols import Roster

THREE_ROUNDS = {"federation": {"rounds": 3}}


def gone(client: int, phase: str, round_number: int = 1, stage: int = 1) -> dict[str, Any]:
    return {"client": f"client-0{client}", "round": round_number, "stage": stage, "phase": phase}


def dropouts(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"security": {"dropouts": list(entries)}}


def frames(run: FinishedRun, phase: str, round_number: int) -> dict[str, Any]:
    """The requests of a phase of the federation in a round, by client."""
    roster = Roster.model_validate_json((run.path / "roster.json").read_text())
    run_id = run.simulation.server._agreement.run_id
    found = {}
    for record in read_transcript(run.path):
        if record.phase == phase and record.sender == "server":
            frame = read_payload(run.path, record)
            message = federation.open_frame(frame, roster, "server", run_id)
            if message.round == round_number:
                found[record.recipient] = message
    return found


def test_a_schedule_in_yaml_runs_to_the_end(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One client gone before each of four phases, of nine that need six in each."""
    schedule = [
        gone(1, "masked_input"),
        gone(5, "unmask"),
        gone(9, "deliver"),
        gone(2, "train", 2, 2),
        gone(6, "advertise", 2, 2),
    ]
    settings = merged(NINE, dropouts(*schedule), {"model": {"base": str(tiny_base)}})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]) == 0
    summary = RunFolder.open(tmp_path / "run").read_summary()
    assert summary.status == "finished"
    told = [d.model_dump(exclude={"attempt", "fault"}) for d in summary.drop_outs]
    assert told == schedule
    assert {d.attempt for d in summary.drop_outs} == {0}
    assert all(c.after_aggregation is not None for c in summary.clients)
    assert "dropped out: client-05 before unmask in round 1" in capsys.readouterr().out


def test_whoever_missed_the_delivery_catches_up(run_tiny: Callable[..., FinishedRun]) -> None:
    """client-01 is not told round 1's means; with the next training it is, and then takes part."""
    run = run_tiny(SIX, THREE_ROUNDS, dropouts(gone(1, "deliver")))
    told, first = frames(run, "train", 2), run.result("client-02")
    assert [client for client, message in told.items() if message.catch_up] == ["client-01"]
    (missed,) = told["client-01"].catch_up
    means = federation.means_from_wire(missed.means)
    assert means.keys() == first.means.keys()
    for sum_id, mean in first.means.items():
        np.testing.assert_array_equal(means[sum_id], mean)
    assert not any(message.catch_up for message in frames(run, "train", 3).values())
    assert (1, 1, "client-01") not in run.results
    assert run.simulation.server.events.refusals == []
    # all compare, in round 2, what they were told in round 1: client-01 was told the same
    assert {client for r, _s, client in run.results if r == 2} == set(run.simulation.host.clients)
    other_tasks = run.simulation.host.clients["client-01"].state.connector.other_task_adapters
    same_task = run.simulation.host.clients["client-02"].state.connector.other_task_adapters
    for name, tensor in other_tasks.state_dict().items():
        assert torch.equal(tensor, same_task.state_dict()[name])
    # told again, as by a server that did not hear it, it still compares what came last
    client = run.simulation.host.clients["client-01"]
    last, adapters = client._previous_results, client.state.text_adapter
    client._catch_up(told["client-01"].catch_up)
    assert client._previous_results == last and client.state.text_adapter is adapters


def test_other_means_than_the_others_heard_are_found_out(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pilot_secure.federation.server import FederationServer

    remember = FederationServer._remember

    def forge(server, means, told):
        changed = {k: v and bytes(4) + v[4:] for k, v in means.means.items()}
        remember(server, means.model_copy(update={"means": changed}), told)

    monkeypatch.setattr(FederationServer, "_remember", forge)
    with pytest.raises(FederationError, match="client-01.* accepted other results the last time"):
        run_tiny(SIX, {"federation": {"rounds": 2}}, dropouts(gone(1, "deliver")))


def test_a_client_without_its_upload_is_in_no_sum(run_tiny: Callable[..., FinishedRun]) -> None:
    """What is left of its task is one client: below the minimum, so its mean stays closed."""
    run = run_tiny(SIX, dropouts(gone(1, "masked_input")))
    report = run.simulation.server.events.reports[0]
    task = run.simulation.host.clients["client-01"].data.task
    assert f"task.{task}" not in report.opened
    for client in ("client-02", "client-03"):
        assert run.result(client).means[f"task.{task}"] is None
    closed = f"not opened, so the previous values stay: task.{task}, text.client-01 "
    assert any(closed in note for note in run.summary.notes)
    opened = [mean for mean in run.result("client-02").means.values() if mean is not None]
    assert len(opened) == 2
    for contributors in report.opened.values():
        assert "client-01" not in contributors
    assert run.result("client-02").survivors == tuple(f"client-0{n}" for n in range(2, 7))


def test_below_the_threshold_the_run_fails_in_a_sentence(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = dropouts(*(gone(number, "masked_input") for number in (1, 2, 3)))
    settings = merged(NINE, SIX, schedule, {"model": {"base": str(tiny_base)}})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    assert main(["--config", str(tmp_path / "run.yaml"), "--out", str(run)]) == 3
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "round 1, stage 1" in error[0]
    assert "3 clients left, 4 needed" in error[0]
    summary = RunFolder.open(run).read_summary()
    assert summary.status == "failed"
    assert "3 clients left, 4 needed" in summary.reason
    assert [d.attempt for d in summary.drop_outs] == [0, 0, 0, 1, 1, 1]
    assert list(read_heads(run))[-1].count == sum(1 for _ in read_transcript(run))


def test_a_second_attempt_succeeds_where_the_first_was_aborted(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(self: FaultyTransport, phase: Any, client: str) -> str | None:
        gone = phase.attempt == 0 and phase.name == "select" and client < "client-04"
        return "vanished" if gone else None

    monkeypatch.setattr(FaultyTransport, "_fault", fault)
    run = run_tiny(SIX)
    first, second = run.simulation.server.events.reports
    assert (first.parameters.attempt, second.parameters.attempt) == (0, 1)
    assert "3 clients left, 4 needed" in first.aborted
    assert first.opened == {}
    assert second.aborted is None
    assert set(second.receipts) == set(run.simulation.host.clients)
    assert first.session != second.session
    assert "attempt 0 aborted" in " ".join(run.summary.notes)
    # one local training, two attempts: the updates that were aggregated are the trained ones
    assert len(run.uploads) == 6
    assert run.summary.status == "finished"


def test_after_shares_were_revealed_no_second_attempt_is_answered(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two openings over the same updates would show the difference, a single client's."""
    from pilot_secure.federation.server import FederationServer

    attempt = FederationServer._attempt

    def as_if_aborted(server, round_number, stage, cohort):
        report = attempt(server, round_number, stage, cohort)
        if report.parameters.attempt == 0:
            assert report.aborted is None
            report.aborted = "the server says so"
        return report

    monkeypatch.setattr(FederationServer, "_attempt", as_if_aborted)
    with pytest.raises(FederationError, match="an unmasking of run-.* was answered before"):
        run_tiny(SIX)


def test_a_straggler_is_heard_no_more_and_takes_home_once_what_came_too_late(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """client-01 uploads too late, client-04 confirms its delivery too late: it has the result.

    What of the schedule could not happen is told.
    """
    late = [{**gone(1, "masked_input"), "fault": "late"}, {**gone(4, "deliver"), "fault": "late"}]
    never = [gone(1, "deliver"), gone(2, "distance_release"), {**gone(3, "deliver"), "part": 7}]
    absorbed, absorb = [], Pilot.absorb_means

    def noted(self: Pilot, state: Any, *others: Any) -> None:
        absorbed.append(id(state))
        absorb(self, state, *others)

    monkeypatch.setattr(Pilot, "absorb_means", noted)
    run = run_tiny(SIX, {"federation": {"rounds": 2}}, dropouts(*late, *never))
    told = [(d.client, d.fault, d.phase) for d in run.summary.drop_outs]
    assert told == [("client-01", "late", "masked_input"), ("client-04", "late", "deliver")]
    first, second = run.simulation.server.events.reports
    assert all("client-01" not in contributors for contributors in first.opened.values())
    assert "client-04" not in first.receipts and first.opened["text.client-04"]
    assert run.result("client-04").sealed is not None
    told_again = {c: m.catch_up for c, m in frames(run, "train", 2).items() if m.catch_up}
    assert set(told_again) == {"client-01", "client-04"}
    states = {name: c.state for name, c in run.simulation.host.clients.items()}
    assert {name: absorbed.count(id(state)) for name, state in states.items()} == dict.fromkeys(
        states, 2
    )
    assert run.simulation.server.events.refusals == [] and second.aborted is None
    missed = [note for note in run.summary.notes if "never took place" in note]
    assert len(missed) == 3 and any("client-03 in phase deliver, part 7, of" in n for n in missed)


def test_everybody_is_scored_on_what_was_averaged_last(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """FedAvg over one client of each task in a round: after the last, all six have its mean."""
    settings = {
        "security": {"secure_agg": False},
        "federation": {"method": "fedavg", "participation": 0.5, "rounds": 2},
    }
    run = run_tiny(SIX, settings)
    told = frames(run, "evaluate", 2)  # the last request of each client is of the last scoring
    missed = {client: [m.round for m in told[client].catch_up] for client in told}
    states = {name: client.state for name, client in run.simulation.host.clients.items()}
    cohort = frames(run, "train", 2).keys()
    assert len(cohort) == 3 and len(states) == 6
    assert missed == {client: [] if client in cohort else [2] for client in states}
    first = next(iter(states.values()))
    for state in states.values():
        for name, tensor in first.text_adapter.items():
            assert torch.equal(tensor, state.text_adapter[name])
        for name, tensor in first.connector.state_dict().items():
            assert torch.equal(tensor, state.connector.state_dict()[name])
    assert run.simulation.server.events.refusals == []


def test_clear_runs_lose_clients_too(run_tiny: Callable[..., FinishedRun]) -> None:
    clear = {"security": {"secure_agg": False}, "federation": {"rounds": 2}}
    run = run_tiny(SIX, clear, dropouts(gone(1, "clear_update"), gone(4, "clear_deliver")))
    # a mean in the clear opens with whoever is left
    assert all(mean is not None for mean in run.result("client-02").means.values())
    assert "client-01" not in run.result("client-02").row
    told = frames(run, "train", 2)
    assert {c for c, m in told.items() if m.catch_up} == {"client-01", "client-04"}
    assert len([place for place in run.results if place[0] == 2]) == 6


def test_chance_loses_some_and_the_run_still_ends(run_tiny: Callable[..., FinishedRun]) -> None:
    settings = {"security": {"dropout_probability": 0.02}, "run": {"seed": 3}}
    run = run_tiny(SIX, {"federation": {"rounds": 2}}, settings)
    assert run.summary.status == "finished"
    assert run.summary.drop_outs
    assert all(client.before is not None for client in run.summary.clients)
