"""Runs whose distances a key holder opens: engines, drop-outs, what is told afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SIX, FinishedRun

from pilot_secure.config import SimulationConfig
from pilot_secure.engines import PhaseKey
from pilot_secure.errors import FederationError
from pilot_secure.federation.key_holder import FederationKeyHolder
from pilot_secure.federation.messages import Convene, Refusal, open_frame, seal
from pilot_secure.reporting import leakage_lines
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main
from pilot_secure.transcript import chained, read_payload, read_transcript
from protocols import KEY_HOLDER, Entropy, Identity, Roster
from protocols import frame as protocol_frame

HELD = {"security": {"distance_trust": "key_holder"}}


def gone(phase: str, client: str = KEY_HOLDER, fault: str = "vanished") -> dict[str, object]:
    entry = {"client": client, "round": 1, "stage": 1, "phase": phase, "fault": fault}
    return {"security": {"dropouts": [entry]}}


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_a_run_ends_with_the_selections_of_exact_distances(
    run_tiny: Callable[..., FinishedRun], visibility: str
) -> None:
    exact = {"security": {"neighbour_visibility": visibility, "sketch_size": None}}
    run = run_tiny(SIX, HELD, exact)
    assert run.summary.status == "finished"
    check = run.summary.selection_check
    assert (check.selections, check.unchanged, check.changed) == (6, 6, ())
    for client in run.simulation.host.clients:
        for peer, distance in run.result(client).row.items():
            assert run.result(peer).row[client] == distance


def test_the_same_adapters_come_out_of_both_trust_models(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """Selection and weights depend on distances alone, whoever opens them."""
    exact = {"security": {"sketch_size": None}}
    peer, held = run_tiny(SIX, exact), run_tiny(SIX, exact, HELD)
    for client in peer.simulation.host.clients:
        one, other = peer.result(client), held.result(client)
        assert one.neighbours == other.neighbours
        assert one.weights == pytest.approx(other.weights, abs=1e-3)
        assert one.row == pytest.approx(other.row, rel=1e-3)


def test_every_frame_is_recorded_and_the_holder_signed_its_own(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    run = run_tiny(SIX, HELD)
    roster = Roster.model_validate_json((run.path / "roster.json").read_text())
    assert roster.key_holder.name == KEY_HOLDER
    records = list(chained(read_transcript(run.path)))
    kinds = []
    for record in records:
        if record.sender == KEY_HOLDER and record.phase != "convene":
            frame = read_payload(run.path, record)
            kinds.append(protocol_frame.open_frame(frame, roster, KEY_HOLDER, record.phase).kind)
    assert kinds == ["holder_keys", "distance_release"]
    asked = {record.phase for record in records if record.recipient == KEY_HOLDER}
    assert asked == {"convene", "share", "distance_release"}


def test_the_leakage_report_says_what_the_holder_learned(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    summary = run_tiny(
        SIX,
        HELD,
        {"security": {"max_colluders": 1, "min_contributors": 3}},
        {"data": {"clients_per_task": 3}},
    ).summary
    distances = summary.leakage.model_extra["distances"]
    assert distances["key_holder"]["distances"] == 36
    assert distances["key_holder"]["norms"] == 9
    bits = distances["malicious_bits_per_victim_and_aggregation"]
    assert distances["malicious_bits_with_the_server"] == pytest.approx(8 * bits)
    assert any("the key holder learned 36 distances" in line for line in leakage_lines(summary))


@pytest.mark.parametrize("phase", ["convene", "share", "distance_release"])
def test_a_missing_holder_costs_an_attempt(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """The first attempt ends with the reason; in the second it is back."""
    from pilot_secure.federation.faults import FaultyTransport

    monkeypatch.setattr(
        FaultyTransport,
        "_fault",
        lambda self, key, party: (
            "vanished" if (key.attempt, key.name, party) == (0, phase, KEY_HOLDER) else None
        ),
    )
    run = run_tiny(SIX, HELD)
    first, second = run.simulation.server.events.reports
    assert "the key holder" in first.aborted
    assert second.aborted is None
    assert any("attempt 0 aborted" in note and "key holder" in note for note in run.summary.notes)


def test_a_holder_that_stays_away_fails_the_run_in_a_sentence(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    with pytest.raises(FederationError, match="round 1, stage 1.*the key holder is missing"):
        run_tiny(SIX, HELD, gone("share"))


@pytest.mark.parametrize("phase", ["distance_upload", "select"])
def test_clients_drop_out_around_the_release(
    run_tiny: Callable[..., FinishedRun], phase: str
) -> None:
    run = run_tiny(SIX, HELD, gone(phase, "client-01"))
    assert run.summary.status == "finished"
    row = run.result("client-02").row
    assert ("client-01" in row) == (phase == "select")
    assert "client-01" not in run.result("client-02").survivors


def test_clients_in_other_processes_and_the_holder_in_one(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    run = run_tiny(SIX, HELD, {"run": {"engine": "processes", "slots": 2}})
    assert run.summary.status == "finished"
    assert run.summary.selection_check.selections == 6


def test_from_the_command_line(tiny_base: Path, tmp_path: Path, capsys) -> None:
    options = "--secure-agg --distance-trust key_holder --rounds 1 --samples-per-client 4"
    options += " --test-samples 1 --lora-rank 2 --max-new-tokens 1 --sketch-size 64"
    options += " --dropout-probability 0.01 --seed 1"
    out = tmp_path / "run"
    assert main([*options.split(), "--base", str(tiny_base), "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the key holder learned" in printed
    assert "selections are those of exact distances" in printed
    summary = RunFolder.open(out).read_summary()
    assert len(summary.selection_check.changed) == sum(
        line.count("near-tie: round") for line in [printed]
    )


def test_a_set_for_the_other_trust_model_is_refused() -> None:
    for trust, name in (("key_holder", "peer-4096"), ("peer", "holder-8192")):
        security = {"secure_agg": True, "distance_trust": trust, "ckks_parameters": name}
        with pytest.raises(ValueError, match=f"ckks_parameters is {name}: expected auto"):
            SimulationConfig.model_validate({"security": security})
    assert SimulationConfig().security.ckks_set == "peer-4096"
    held = SimulationConfig.model_validate({"security": {"distance_trust": "key_holder"}})
    assert held.security.ckks_set == "holder-8192"


def test_an_attempt_is_held_once_and_only_as_many_as_agreed(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """A server that asks again and again would average the flooding away."""
    run = run_tiny(SIX, HELD)
    agreement = run.simulation.server._agreement
    server = run.simulation.server.identity
    identity = Identity.generate(KEY_HOLDER, Entropy())
    people = [Identity.generate(name, Entropy()) for name in agreement.tasks]
    from dataclasses import replace

    agreement = replace(agreement, roster=Roster.of(server, people, identity))
    holder = FederationKeyHolder(identity, agreement)

    def convene(attempt: int, recipient: str = KEY_HOLDER) -> object:
        message = Convene(
            run_id=agreement.run_id,
            round=1,
            stage=1,
            sender="server",
            recipient=recipient,
            attempt=attempt,
            cohort=tuple(agreement.tasks),
        )
        reply = holder.handle(PhaseKey("convene", 1, 1, attempt), seal(message, server))
        return open_frame(reply, agreement.roster, KEY_HOLDER, agreement.run_id)

    assert convene(0).kind == "done"
    for again in (convene(0), convene(1, "client-01")):
        assert isinstance(again, Refusal)
    assert convene(5).kind == "done"
    assert isinstance(convene(1), Refusal)
    assert "each once" in convene(0).reason
    reply = holder.handle(PhaseKey("share", 1, 1), b"")
    assert open_frame(reply, agreement.roster, KEY_HOLDER, agreement.run_id).kind == "refusal"
