"""Runs whose distances a key holder opens: engines, drop-outs, what is told afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SIX, FinishedRun, carry_out

from pilot_secure.config import SimulationConfig
from pilot_secure.engines import PhaseKey
from pilot_secure.errors import FederationError
from pilot_secure.federation.key_holder import FederationKeyHolder
from pilot_secure.federation.messages import Convene, Refusal, open_frame, seal
from pilot_secure.reporting import leakage_lines
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main
from pilot_secure.transcript import chained, read_payload, read_transcript
from protocols import KEY_HOLDER, MemoryGuard, Roster
from protocols import frame as protocol_frame
from protocols.parameter_sets import distance_leakage

HELD = {"security": {"distance_trust": "key_holder"}}
SLOW = pytest.mark.slow
EXACT = {"security": {"sketch_size": None}}


@pytest.fixture(scope="module")
def held_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Six clients and a key holder, one round, exact distances, hidden lists."""
    return carry_out(tmp_path_factory.mktemp("held") / "run", tiny_base, SIX, HELD, EXACT)


def gone(phase: str, client: str = KEY_HOLDER, fault: str = "vanished") -> dict[str, object]:
    entry = {"client": client, "round": 1, "stage": 1, "phase": phase, "fault": fault}
    return {"security": {"dropouts": [entry]}}


def ends_with_the_selections_of_exact_distances(run: FinishedRun) -> bool:
    check = run.summary.selection_check
    rows = {client: run.result(client).row for client in run.simulation.host.clients}
    assert all(rows[peer][client] == d for client, row in rows.items() for peer, d in row.items())
    return (run.summary.status, check.selections, check.unchanged) == ("finished", 6, 6)


def test_a_run_ends_with_the_selections_of_exact_distances(held_run: FinishedRun) -> None:
    assert ends_with_the_selections_of_exact_distances(held_run)


@SLOW
def test_and_so_it_does_with_visible_lists(run_tiny: Callable[..., FinishedRun]) -> None:
    visible = {"security": {"neighbour_visibility": "visible"}}
    assert ends_with_the_selections_of_exact_distances(run_tiny(SIX, HELD, EXACT, visible))


def test_the_same_adapters_come_out_of_both_trust_models(
    held_run: FinishedRun, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Selection and weights depend on distances alone, whoever opens them."""
    peer = run_tiny(SIX, EXACT)
    for client in peer.simulation.host.clients:
        one, other = peer.result(client), held_run.result(client)
        assert one.neighbours == other.neighbours
        assert one.weights == pytest.approx(other.weights, abs=1e-3)
        assert one.row == pytest.approx(other.row, rel=1e-3)


def test_every_frame_is_recorded_and_the_holder_signed_its_own(held_run: FinishedRun) -> None:
    roster = Roster.model_validate_json((held_run.path / "roster.json").read_text())
    assert roster.key_holder.name == KEY_HOLDER
    records = list(chained(read_transcript(held_run.path)))
    kinds = []
    for record in records:
        if record.sender == KEY_HOLDER and record.phase != "convene":
            frame = read_payload(held_run.path, record)
            kinds.append(protocol_frame.open_frame(frame, roster, KEY_HOLDER, record.phase).kind)
    assert kinds == ["holder_keys", "distance_release"]
    asked = {record.phase for record in records if record.recipient == KEY_HOLDER}
    assert asked == {"convene", "share", "distance_release"}


def test_the_leakage_report_says_what_the_holder_learned(held_run: FinishedRun) -> None:
    summary = held_run.summary
    distances = summary.leakage.model_extra["distances"]
    assert distances["key_holder"]["distances"] == 15
    assert distances["key_holder"]["norms"] == 6
    one = distance_leakage("holder-8192", 6, 1, held_run.config.security.max_attempts)
    told = distances["malicious_bits_per_victim_and_aggregation"]
    assert told == one.malicious_bits_per_victim > 0, "one client may cheat though c_max is 0"
    assert any("the key holder learned 15 distances" in line for line in leakage_lines(summary))


@SLOW
def test_and_what_clients_that_cheat_can_learn(run_tiny: Callable[..., FinishedRun]) -> None:
    """Nine clients, of which one may be the attacker's."""
    nine = {
        "data": {"clients_per_task": 3},
        "security": {"max_colluders": 1, "min_contributors": 3},
    }
    distances = run_tiny(SIX, HELD, nine).summary.leakage.model_extra["distances"]
    assert distances["key_holder"]["distances"] == 36
    bits = distances["malicious_bits_per_victim_and_aggregation"]
    assert distances["malicious_bits_with_the_server"] == pytest.approx(8 * bits)


@pytest.mark.parametrize(
    "phase",
    [pytest.param("convene", marks=SLOW), pytest.param("share", marks=SLOW), "distance_release"],
)
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


@pytest.mark.parametrize("phase", ["distance_upload", pytest.param("select", marks=SLOW)])
def test_clients_drop_out_around_the_release(
    run_tiny: Callable[..., FinishedRun], phase: str
) -> None:
    run = run_tiny(SIX, HELD, gone(phase, "client-01"))
    assert run.summary.status == "finished"
    row = run.result("client-02").row
    assert ("client-01" in row) == (phase == "select")
    assert "client-01" not in run.result("client-02").survivors


@SLOW
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


def test_what_breaks_a_rule_is_refused_in_a_signed_sentence(held_run: FinishedRun) -> None:
    agreement = held_run.simulation.server._agreement
    server = held_run.simulation.server.identity
    identity = held_run.simulation.host._parties[KEY_HOLDER]._identity
    holder = FederationKeyHolder(identity, agreement, MemoryGuard())

    def convene(recipient: str) -> bytes:
        message = Convene(
            run_id=agreement.run_id,
            round=1,
            stage=1,
            sender="server",
            recipient=recipient,
            attempt=0,
            cohort=tuple(agreement.tasks),
        )
        return seal(message, server)

    def answer(phase: str, request: bytes) -> object:
        reply = holder.handle(PhaseKey(phase, 1, 1), request)
        return open_frame(reply, agreement.roster, KEY_HOLDER, agreement.run_id)

    assert "share without a call for distances" in answer("share", b"").reason
    assert "convene to client-01" in answer("convene", convene("client-01")).reason
    assert answer("convene", convene(KEY_HOLDER)).kind == "done"
    assert isinstance(answer("share", b""), Refusal)
