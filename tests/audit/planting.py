"""Runs with exactly one rule broken: ``make plant RULE=T01 OUT=folder``.

Each is a good run between real machines in which one party cheats. What it changes it signs with
the keys that such an attacker holds (its own, the server's, or those of clients that collude), its
receipts cover what was really sent, and the chain and its heads are made anew. Nothing in the
transcript says that it was spoilt: the auditor has the evidence only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
from good_runs import EscrowedFederation, take_home
from recorded import Cheat, RecordedRun, chain, records_of

from pilot_secure.audit.declared import DeclaredParameters
from pilot_secure.privacy import ClientLedger, LocalNoise, with_claims
from pilot_secure.privacy.ledger import Ledger
from pilot_secure.transcript import HEADS, PAYLOADS
from protocols import SERVER, Identity, SumSpec
from protocols.codec import encode
from protocols.distance_frames import DIGEST_BYTES, digest
from protocols.entropy import DeterministicEntropy, Entropy
from protocols.escrow import draw_secrets
from protocols.frame import LABEL, open_frame, seal
from protocols.identity import SIGNATURE_BYTES, sha256
from protocols.keys import self_mask_key
from protocols.masks import MaskKey, MaskStream
from protocols.messages import Message, PlannedSum
from protocols.ring import Packed
from protocols.transcript import RunningHash, TranscriptHead, TranscriptRecord

CHEAT, VICTIM = "client-02", "client-03"
SIX = {"sketch_size": 64, "max_colluders": 0, "min_contributors": 2, "num_neighbours": 3}


@dataclass
class Change(Cheat):
    """Change the message of one phase, to or from some clients, in the last round."""

    phase: str
    change: Callable[[EscrowedFederation, Message], Message | bytes]
    by: Iterable[str] = (CHEAT,)
    server: bool = False
    round: int = 2
    seen: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def request(self, federation: Any, phase: str, client: str, frame: bytes) -> bytes:
        return self._change(federation, phase, client, SERVER, frame) if self.server else frame

    def reply(self, federation: Any, phase: str, client: str, frame: bytes) -> bytes:
        return frame if self.server else self._change(federation, phase, client, client, frame)

    def _change(self, federation: Any, phase: str, client: str, sender: str, frame: bytes) -> bytes:
        if phase != self.phase or client not in self.by:
            return frame
        number = federation.parameters.round
        self.seen[number, client] = frame
        if number != self.round:
            return frame
        message = open_frame(frame, federation.roster, sender, phase)
        changed = self.change(federation, message)
        identity = federation.identity(sender)
        if isinstance(changed, bytes):
            return identity.sign(LABEL + sha256(changed)) + changed
        return seal(changed, identity)


def plain(count: int = 5, **options: object) -> EscrowedFederation:
    """One sum for all, no distances."""
    return EscrowedFederation(count=count, plain=True, options=options)


def pilot() -> EscrowedFederation:
    """Six clients with encrypted distances and sealed sums."""
    return EscrowedFederation(count=6, options=SIX)


def record(
    folder: Path,
    federation: EscrowedFederation,
    cheat: Cheat | None = None,
    rounds: int = 2,
    drop_in_last: dict[str, set[str]] | None = None,
) -> RecordedRun:
    """Record rounds with a cheat, and leave the escrow beside them."""
    run = RecordedRun(folder)
    for number in range(1, rounds + 1):
        if number > 1:
            take_home(federation)
            federation.start(round=number)
        run.aggregate(federation, cheat, drop_in_last if number == rounds else None)
    run.finish(federation)
    (folder / "escrow.json").write_text(federation.escrow().model_dump_json())
    return run


def cheating(
    federation: Callable[[], EscrowedFederation], cheat: Callable[[], Change], rounds: int = 2
) -> Callable[[Path], None]:
    """Cheat in the last round; in the only one where the cheat's own drop-out would be a find."""

    def plant(folder: Path) -> None:
        change = cheat()
        change.round = rounds
        record(folder, federation(), change, rounds)

    return plant


def zero_key(_federation: Any, message: Message) -> Message:
    return message.model_copy(update={"recipient_key": bytes(32)})


# --- the transcript -----------------------------------------------------------------------------


def rewrite_run(
    folder: Path, federation: EscrowedFederation, records: list[TranscriptRecord]
) -> None:
    """Chain records anew and sign heads where they stood, as only the server can."""
    old = [TranscriptHead.model_validate_json(x) for x in (folder / HEADS).open()]
    before = records_of(folder)
    kept = {record.seq for record in records}
    chain(folder, records)
    again, heads = records_of(folder), []
    for head in old:
        count = sum(record.seq in kept for record in before[: head.count])
        last = again[count - 1].digest()
        signed = TranscriptHead.sign(count, last, federation.server_identity, final=head.final)
        heads.append(signed.model_dump_json() + "\n")
    (folder / HEADS).write_text("".join(heads))


def replaced(folder: Path, record: TranscriptRecord, frame: bytes) -> TranscriptRecord:
    """A record of another frame, which is stored."""
    name = sha256(frame).hex()
    (folder / PAYLOADS / name).write_bytes(frame)
    changes = {"sha256": name, "length": len(frame), "payload": f"{PAYLOADS}/{name}"}
    return record.model_copy(update=changes)


def delete_an_exchange(folder: Path) -> None:
    """The server removes what it sent one client and got for it, and signs a new chain."""
    federation = plain()
    record(folder, federation)
    records = records_of(folder)
    last = max(i for i, r in enumerate(records) if r.phase == "consistency" and r.sender == CHEAT)
    first = max(i for i in range(last) if records[i].recipient == CHEAT)
    rest = [r for i, r in enumerate(records) if i not in (first, last)]
    rewrite_run(folder, federation, rest)


def swap_a_key(folder: Path) -> None:
    """A client's last message is signed by another key than the pinned one."""
    federation = plain()
    record(folder, federation)
    records = records_of(folder)
    place = max(i for i, r in enumerate(records) if r.sender == CHEAT)
    frame = (folder / str(records[place].payload)).read_bytes()
    message = open_frame(frame, federation.roster, CHEAT, "deliver")
    other = Identity.generate(CHEAT, DeterministicEntropy(b"another identity of the cheat"))
    records[place] = replaced(folder, records[place], seal(message, other))
    rewrite_run(folder, federation, records)


def upload_before_shares(folder: Path) -> None:
    """A client's upload stands before its shares; it signs for that order."""
    federation = plain()
    record(folder, federation, rounds=1)
    records = records_of(folder)
    own = {r.phase: i for i, r in enumerate(records) if r.sender == CHEAT}
    moved = records.pop(own["masked_input"])
    records.insert(own["share"], moved)
    running = RunningHash()
    for place, entry in enumerate(records):
        if CHEAT not in (entry.sender, entry.recipient):
            continue
        if entry.phase == "deliver" and entry.sender == CHEAT:
            frame = (folder / str(entry.payload)).read_bytes()
            receipt = open_frame(frame, federation.roster, CHEAT, "deliver")
            changed = receipt.model_copy(update={"transcript": running.value})
            frame = seal(changed, federation.identities[CHEAT])
            records[place] = replaced(folder, entry, frame)
        else:
            running.add("sent" if entry.sender == CHEAT else "rcvd", bytes.fromhex(entry.sha256))
    rewrite_run(folder, federation, records)


def replay_a_frame() -> Change:
    cheat = Change("consistency", lambda _f, _m: b"")

    def old_body(_federation: Any, _message: Message) -> bytes:
        return cheat.seen[1, CHEAT][SIGNATURE_BYTES:]

    cheat.change = old_body
    return cheat


def with_raw_update(_federation: Any, message: Message) -> bytes:
    return encode({**message.model_dump(), "raw_update": [0.5, -0.25]})


def not_canonical(_federation: Any, message: Message) -> bytes:
    items = sorted(message.model_dump().items(), reverse=True)
    return cbor2.dumps(dict(items))


# --- keys ---------------------------------------------------------------------------------------


class OneKeyTwice(Entropy):
    """Reads a fixed first key, then goes on with another source."""

    def __init__(self, first: bytes, rest: Entropy) -> None:
        self._first, self._rest = first, rest

    def read(self, num_bytes: int) -> bytes:
        fresh = self._rest.read(num_bytes)
        first, self._first = self._first, b""
        return first or fresh


class ReusingFederation(EscrowedFederation):
    """Its cheat draws the same share key in every attempt."""

    def escrowed(self, label: str) -> Entropy:
        source = super().escrowed(label)
        name = label.rpartition("/")[2]
        return OneKeyTwice(b"k" * 32, source) if name == CHEAT else source


def reuse_a_key(folder: Path) -> None:
    record(folder, ReusingFederation(count=5, plain=True))


def smaller_roster(_federation: Any, message: Any) -> Message:
    return message.model_copy(update={"advertisements": message.advertisements[:-1]})


# --- shares and survivors -----------------------------------------------------------------------


class UnsafeFederation(EscrowedFederation):
    """Parties that agreed on parameters which no honest one would accept."""

    def parameters_for(self, **changes: object) -> Any:
        safe = super().parameters_for(**changes)
        return DeclaredParameters.model_validate({**dict(safe), "threshold": 3})


def low_threshold(folder: Path) -> None:
    record(folder, UnsafeFederation(count=5, plain=True), rounds=1)


def both_lists(_federation: Any, message: Any) -> Message:
    return message.model_copy(update={"dropouts": (VICTIM,)})


def two_sets(_federation: Any, message: Any) -> Message:
    return message.model_copy(
        update={
            "survivors": message.survivors[:-1],
            "upload_hashes": message.upload_hashes[:-1],
        }
    )


def declared_dead(_federation: Any, message: Any) -> Message:
    left = tuple(name for name in message.survivors if name != message.recipient)
    return message.model_copy(update={"survivors": left, "dropouts": (message.recipient,)})


def three_and_three() -> EscrowedFederation:
    federation = EscrowedFederation(count=6, plain=True)
    cohort = federation.cohort
    sums = tuple(
        SumSpec(id=f"task-{i}", vector="task_adapter", recipient=SERVER, contributors=members)
        for i, members in enumerate((cohort[:3], cohort[3:]))
    )
    federation.options = {"sums": sums}
    federation.start()
    return federation


def plan_a_pair(folder: Path) -> None:
    """One of three is gone, and the server plans the sum of the other two."""

    def with_pair(federation: Any, message: Any) -> Message:
        pair = PlannedSum(id="task-0", recipient=SERVER, contributors=federation.cohort[1:3])
        return message.model_copy(update={"sums": (pair, *message.sums)})

    federation = three_and_three()
    cheat = Change("masked_input", with_pair, by=federation.cohort, server=True)
    gone = {"masked_input": {federation.cohort[0]}, "share": {federation.cohort[0]}}
    record(folder, federation, cheat, drop_in_last=gone)


def flip_a_share(_federation: Any, message: Any) -> Message:
    first, *rest = message.seed_shares
    flipped = bytes([first.share[0] ^ 1]) + first.share[1:]
    changed = first.model_copy(update={"share": flipped})
    return message.model_copy(update={"seed_shares": (changed, *rest)})


# --- masks --------------------------------------------------------------------------------------


def repacked(federation: Any, term: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A term with other words."""
    p = federation.parameters
    length = p.vector_lengths[p.sum(term.sum_id).vector]
    words = np.zeros(length, np.uint32)
    Packed(p.ring_bits, length, term.packed).add_to(0, words)
    packed = Packed(p.ring_bits, length)
    packed.write(0, change(words).astype(np.uint32))
    return term.model_copy(update={"packed": packed.to_bytes()})


def change_last_term(federation: Any, message: Any, change: Callable[..., Any]) -> Message:
    *rest, last = message.inputs
    return message.model_copy(update={"inputs": (*rest, change(last))})


def self_mask(federation: Any, sum_id: str, length: int) -> np.ndarray:
    entropy = federation.escrowed(f"x/{CHEAT}")
    seed = draw_secrets(entropy, federation.parameters, CHEAT)[1][sum_id]
    key = self_mask_key(seed, federation.server.report.session, sum_id, CHEAT)
    words = np.zeros(length, np.uint32)
    MaskStream([MaskKey(key, 1)]).mask_chunk(words)
    return words


def weak_mask(federation: Any, message: Any) -> Message:
    """The self mask of one sealed term comes from a generator with a seed of 32 bits."""

    def weak(term: Any) -> Any:
        generator = np.random.Generator(np.random.MT19937(12345))

        def change(words: np.ndarray) -> np.ndarray:
            drawn = generator.integers(0, 1 << 32, len(words), np.uint32)
            return words - self_mask(federation, term.sum_id, len(words)) + drawn

        return repacked(federation, term, change)

    return change_last_term(federation, message, weak)


def too_large_a_scale(federation: Any, message: Any) -> Message:
    """A client encodes its vector thirty-two times too large: the sum leaves the ring."""

    def louder(term: Any) -> Any:
        flat = federation.flat(CHEAT, "task_adapter").astype(np.float64)
        steps = 31 * (2**15 / 5) * flat / 0.1
        return repacked(federation, term, lambda w: w + np.rint(steps).astype(np.int64))

    return change_last_term(federation, message, louder)


def reuse_a_mask() -> Change:
    cheat = Change("masked_input", lambda _f, m: m)

    def reused(federation: Any, message: Any) -> Message:
        earlier = open_frame(cheat.seen[1, CHEAT], federation.roster, CHEAT, "x")
        old = {term.sum_id: term.packed for term in earlier.inputs}
        return change_last_term(
            federation,
            message,
            lambda term: term.model_copy(update={"packed": old[term.sum_id]}),
        )

    cheat.change = reused
    return cheat


def add_one(federation: Any, message: Any) -> Message:
    def change(words: np.ndarray) -> np.ndarray:
        words[7] += 1
        return words

    opened = tuple(repacked(federation, item, change) for item in message.opened)
    return message.model_copy(update={"opened": opened})


# --- leakage, distances, accounting -------------------------------------------------------------


def sums_for_the_server(folder: Path) -> None:
    """Everybody's sum but one, for each one, in the clear: solved for every vector."""
    federation = plain()
    cohort = federation.cohort
    sums = tuple(
        SumSpec(
            id=f"but-{one}",
            vector="task_adapter",
            recipient=SERVER,
            contributors=tuple(name for name in cohort if name != one),
        )
        for one in cohort
    )
    federation.options = {"sums": sums}
    federation.start()
    record(folder, federation, rounds=1)


def sets_one_apart(folder: Path) -> None:
    record(folder, plain(), drop_in_last={"masked_input": {"client-05"}, "share": {"client-05"}})


def with_secret_key(_federation: Any, message: Any) -> Message:
    """The upload carries a saved context with its secret key, in a frame of the public length."""
    import tenseal as ts

    context = ts.context(ts.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[40, 29, 40])
    saved = context.serialize(save_secret_key=True)
    stream = saved[saved.index(b"\x5e\xa1\x10\x04") :][:4096]
    body = bytearray(message.upload[:-DIGEST_BYTES])
    body[-6 * 4096 : -6 * 4096 + len(stream)] = stream
    return message.model_copy(update={"upload": bytes(body) + digest(bytes(body))})


def raw_ciphertext(_federation: Any, message: Any) -> Message:
    first, *rest = message.boxes
    raw = first.model_copy(update={"ciphertext": bytes(45_000)})
    return message.model_copy(update={"boxes": (raw, *rest)})


def stage_left_out(folder: Path) -> None:
    """The ledger knows the first round only, and claims the epsilon of that."""
    federation = plain()
    record(folder, federation)
    release = LocalNoise(round=1, stage=1, noise_multiplier=4.0, clipping_norm=1.0, uploads=1)
    clients = tuple(
        ClientLedger(client=name, task="t", num_examples=64, releases=(release,))
        for name in federation.cohort
    )
    ledger = Ledger(unit="client", adjacency="zero_out", delta=1e-5, clients=clients)
    (folder / "ledger.json").write_bytes(with_claims(ledger).to_json())


def side_message(_federation: Any, message: Any) -> Message:
    """Behind a client's shares for a peer stands its adapter in the clear."""
    first, *rest = message.boxes
    secret = np.linspace(0, 1, 64, dtype="<f4").tobytes()
    longer = first.model_copy(update={"ciphertext": first.ciphertext + secret})
    return message.model_copy(update={"boxes": (longer, *rest)})


def everybody(phase: str, change: Callable[[Any, Any], Message]) -> Callable[[], Change]:
    names = tuple(f"client-0{i}" for i in range(1, 10))
    return lambda: Change(phase, change, by=names, server=True)


PLANTS: dict[str, Callable[[Path], None]] = {
    "T01": delete_an_exchange,
    "T02": swap_a_key,
    "T03": cheating(plain, lambda: Change("masked_input", with_raw_update), rounds=1),
    "T04": upload_before_shares,
    "T05": cheating(plain, replay_a_frame),
    "T06": cheating(plain, lambda: Change("consistency", not_canonical)),
    "K01": reuse_a_key,
    "K02": cheating(plain, lambda: Change("advertise", zero_key), rounds=1),
    "K03": cheating(plain, lambda: Change("share", smaller_roster, server=True), rounds=1),
    "S01": low_threshold,
    "S02": cheating(plain, lambda: Change("unmask", both_lists, server=True)),
    "S03": cheating(plain, lambda: Change("consistency", two_sets, server=True)),
    "S04": cheating(plain, lambda: Change("unmask", declared_dead, server=True)),
    "S05": plan_a_pair,
    "S06": cheating(plain, lambda: Change("unmask", flip_a_share)),
    "M01": cheating(pilot, lambda: Change("masked_input", weak_mask)),
    "M02": cheating(lambda: plain(ring_bits=16), lambda: Change("masked_input", too_large_a_scale)),
    "M03": cheating(pilot, reuse_a_mask),
    "M04": cheating(plain, everybody("deliver", add_one)),
    "L01": sums_for_the_server,
    "L02": sets_one_apart,
    "H01": cheating(pilot, lambda: Change("distance_upload", with_secret_key)),
    "H02": cheating(pilot, lambda: Change("distance_reply", raw_ciphertext)),
    "D01": stage_left_out,
    "B01": cheating(plain, lambda: Change("share", side_message), rounds=1),
}
NEEDS_ESCROW = frozenset({"M01", "M04"})


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in PLANTS:
        print(f"usage: planting.py RULE OUT, with RULE one of {', '.join(PLANTS)}")
        return 2
    folder = Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=False)
    PLANTS[arguments[0]](folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
