"""Cheats that differ from the planted ones, by whoever holds the server's keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from good_runs import make_good_run
from planting import (
    CHEAT,
    VICTIM,
    Change,
    cheating,
    everybody,
    pilot,
    plain,
    record,
    repacked,
    rewrite_run,
    take_home,
)
from recorded import RecordedRun, records_of

from pilot_secure.audit.__main__ import main
from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.verdicts import Verdict
from pilot_secure.audit.verify import replay, verify
from pilot_secure.federation.messages import TrainRequest, seal
from pilot_secure.privacy import ClientLedger, Ledger, LocalNoise, with_claims
from pilot_secure.transcript import HEADS, Passage
from protocols.entropy import DeterministicEntropy
from protocols.identity import SERVER
from protocols.transcript import TranscriptHead


def leave_out(*rounds: int) -> Callable[[Path], None]:
    """The server removes whole aggregations, receipts included, and signs what is left."""

    def plant(folder: Path) -> None:
        federation = plain()
        run = RecordedRun(folder)
        gone: set[int] = set()
        for number in (1, 2, 3):
            if number > 1:
                take_home(federation)
                federation.start(round=number)
            first = run.writer.count
            run.aggregate(federation)
            gone |= set(range(first, run.writer.count)) if number in rounds else set()
        run.finish(federation)
        rewrite_run(folder, federation, [r for r in records_of(folder) if r.seq not in gone])

    return plant


def other_plan(_federation: Any, message: Any) -> Any:
    """One client is told that another one does not contribute."""
    sums = tuple(
        item.model_copy(update={"contributors": item.contributors[:-1]}) for item in message.sums
    )
    return message.model_copy(update={"sums": sums})


def others_hash(_federation: Any, message: Any) -> Any:
    """A client is told another hash of its neighbour's upload than was sent."""
    hashes = (bytes(32), *message.upload_hashes[1:])
    return message.model_copy(update={"upload_hashes": hashes})


def ask_for_the_key_of_a_survivor(_federation: Any, message: Any) -> Any:
    left = tuple(name for name in message.survivors if name != VICTIM)
    return message.model_copy(update={"survivors": left, "dropouts": (VICTIM,)})


def no_mask_at_all(federation: Any, message: Any) -> Any:
    small = np.random.default_rng(1).integers(-900, 900, 4096)
    terms = tuple(
        repacked(federation, term, lambda words: small[: len(words)] & 0xFFFFF)
        for term in message.inputs
    )
    return message.model_copy(update={"inputs": terms})


def identity_as_ephemeral(federation: Any, message: Any) -> Any:
    key = federation.identities[VICTIM].public_key()
    return message.model_copy(update={"recipient_key": key})


def one_key_for_all(_federation: Any, message: Any) -> Any:
    return message.model_copy(update={"mask_key": message.share_key})


def longer_share(_federation: Any, message: Any) -> Any:
    first, *rest = message.seed_shares
    changed = first.model_copy(update={"share": bytes(len(first.share))})
    return message.model_copy(update={"seed_shares": (changed, *rest)})


def half_a_sum(federation: Any, message: Any) -> Any:
    """Everybody is delivered half of the sum."""
    opened = tuple(repacked(federation, item, lambda words: words // 2) for item in message.opened)
    return message.model_copy(update={"opened": opened})


def without_a_client(folder: Path) -> None:
    """The ledger claims a finite epsilon, and does not know one client that uploads."""
    federation = plain()
    record(folder, federation, rounds=1)
    release = LocalNoise(round=1, stage=1, noise_multiplier=4.0, clipping_norm=1.0, uploads=1)
    clients = tuple(
        ClientLedger(client=name, task="t", num_examples=64, releases=(release,))
        for name in federation.cohort
        if name != VICTIM
    )
    ledger = Ledger(unit="client", adjacency="zero_out", delta=1e-5, clients=clients)
    (folder / "ledger.json").write_bytes(with_claims(ledger).to_json())


def open_twice(folder: Path) -> None:
    """Once more with fresh keys, as an attempt of a run that was killed goes on."""
    first, again = plain(), plain()
    again.entropy = lambda label: DeterministicEntropy(b"again " + label.encode())
    again.start()
    assert first.parameters == again.parameters
    run = RecordedRun(folder)
    run.aggregate(first)
    begun = run.writer.count
    run.aggregate(again)
    run.finish(first)
    calls = [r.seq for r in records_of(folder)[begun:] if (r.phase, r.sender) == CALL]
    rewrite_run(folder, first, [r for r in records_of(folder) if r.seq not in calls])


CALL = ("advertise", "server")


def same_head_another_tail(federation: Any, message: Any) -> Any:
    """One client is delivered a sum that begins as that of all others and leaves the ring."""

    def change(words: np.ndarray) -> np.ndarray:
        words[250] = (1 << 19) - 1
        return words

    opened = tuple(repacked(federation, item, change) for item in message.opened)
    return message.model_copy(update={"opened": opened})


def train_of_another_run(folder: Path) -> None:
    """A call of another run between the same parties stands before the aggregation."""
    federation = plain()
    run = RecordedRun(folder)
    for name in (federation.parameters.run_id, "another-run"):
        call = TrainRequest(
            run_id=name,
            round=1,
            stage=1,
            sender=SERVER,
            recipient=CHEAT,
            cohort=federation.cohort,
        )
        frame = seal(call, federation.server_identity)
        run.writer.append(Passage(frame, SERVER, CHEAT, "train", "00" * 32))
    run.aggregate(federation)
    run.finish(federation)


def two_heads(folder: Path) -> None:
    """The server signs another chain of as many records, and then the one that is shown."""
    federation = plain()
    record(folder, federation, rounds=1)
    lines = (folder / HEADS).read_text()
    shown = TranscriptHead.model_validate_json(lines.splitlines()[0])
    other = TranscriptHead.sign(shown.count, "ab" * 32, federation.server_identity, final=False)
    (folder / HEADS).write_text(other.model_dump_json() + "\n" + lines)


CHEATS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "the first aggregation left out": ("T05", leave_out(1)),
    "an aggregation left out": ("T05", leave_out(2)),
    "another plan for one": (
        "S03",
        cheating(plain, lambda: Change("masked_input", other_plan, server=True)),
    ),
    "another upload's hash": (
        "S03",
        cheating(plain, lambda: Change("consistency", others_hash, server=True)),
    ),
    "the key of a survivor": (
        "S03",
        cheating(plain, everybody("unmask", ask_for_the_key_of_a_survivor)),
    ),
    "no mask": ("M03", cheating(pilot, lambda: Change("masked_input", no_mask_at_all))),
    "an identity key": (
        "K02",
        cheating(plain, lambda: Change("advertise", identity_as_ephemeral), rounds=1),
    ),
    "one key for two uses": (
        "K02",
        cheating(plain, lambda: Change("advertise", one_key_for_all), rounds=1),
    ),
    "a share of zeros": ("S06", cheating(plain, lambda: Change("unmask", longer_share))),
    "an uploader without an entry": ("D01", without_a_client),
    "opened twice": ("S02", open_twice),
    "another sum for one, with the same head": (
        "M02",
        cheating(plain, lambda: Change("deliver", same_head_another_tail, server=True)),
    ),
    "another sum for one": (
        "M04",
        cheating(plain, lambda: Change("deliver", half_a_sum, server=True)),
    ),
    "a message of another run": ("T05", train_of_another_run),
    "two heads": ("T01", two_heads),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_another_cheat_is_found_by_its_rule(cheat: str, tmp_path: Path) -> None:
    rule, plant = CHEATS[cheat]
    plant(tmp_path / "run")
    report = verify(Bundle.open(tmp_path / "run"))
    found = {r.id for r in report.results if r.verdict is Verdict.FAIL}
    assert rule in found
    assert report.exit_code == 3


def test_half_a_sum_is_found_by_replay(tmp_path: Path) -> None:
    run = tmp_path / "run"
    cheating(plain, everybody("deliver", half_a_sum))(run)
    report = replay(Bundle.open(run), read_escrow(run / "escrow.json"))
    assert report.result("M04").verdict is Verdict.FAIL


def test_an_aggregation_without_receipts_does_not_pass(tmp_path: Path) -> None:
    """The server deletes them all, and signs the rest: nobody confirms what was delivered."""
    federation = plain()
    record(tmp_path / "run", federation)
    rest = [r for r in records_of(tmp_path / "run") if r.sender == SERVER or r.phase != "deliver"]
    rewrite_run(tmp_path / "run", federation, rest)
    report = verify(Bundle.open(tmp_path / "run"))
    assert report.result("T01").verdict is Verdict.NOT_CHECKABLE
    assert "receipts of more than 1 clients" in report.result("T01").missing[0]
    assert report.exit_code == 4


def test_a_sum_that_was_opened_and_not_delivered_counts(tmp_path: Path) -> None:
    """The server has the shares for a sum over one client fewer, and says it gave up."""
    federation, gone = plain(), {"client-05"}
    record(tmp_path / "run", federation, drop_in_last={"masked_input": gone, "share": gone})
    records = records_of(tmp_path / "run")
    last = records[-1].session
    rest = [r for r in records if (r.phase, r.session) != ("deliver", last)]
    assert len(records) - len(rest) == 8
    rewrite_run(tmp_path / "run", federation, rest)
    report = verify(Bundle.open(tmp_path / "run"))
    assert "differ by client-05" in report.result("L02").findings[0].found
    assert report.attempts[-1].opened == ("all",)


def test_the_escrow_of_another_run_accuses_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_good_run(tmp_path / "run", plain=True, count=5, rounds=1)
    escrow = run / "escrow.json"
    escrow.write_text(escrow.read_text().replace('"run-1"', '"run-2"'))
    assert main(["replay", str(run), "--escrow", str(escrow)]) == 2
    assert "The escrow is of run run-2" in capsys.readouterr().err


def test_the_last_aggregation_left_out_is_nobodys_to_see(tmp_path: Path) -> None:
    """What the guide says a participant must be asked."""
    leave_out(3)(tmp_path / "run")
    assert verify(Bundle.open(tmp_path / "run")).exit_code == 0


def test_the_bundle_of_one_run_with_the_roster_of_another(tmp_path: Path) -> None:
    run = make_good_run(tmp_path / "run", plain=True, count=5, rounds=1)
    other = make_good_run(tmp_path / "other", plain=True, count=4, rounds=1, max_colluders=0)
    report = verify(Bundle.open(run, other / "roster.json"))
    assert {"T02", "K03"} <= {r.id for r in report.results if r.verdict is Verdict.FAIL}
    assert CHEAT in {entry.name for entry in Bundle.open(other).roster.entries()}
