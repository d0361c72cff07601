"""Runs for the auditor: aggregations between real machines, recorded as a run folder is.

A `Cheat` sees every frame on its way and may change it; what a cheating party signs anew is what
goes into the transcript, and its receipt covers what was really sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from in_process import Federation

from pilot_secure.privacy import ClientLedger, Ledger
from pilot_secure.transcript import PAYLOADS, TRANSCRIPT, Passage, TranscriptWriter
from protocols import KEY_HOLDER, SERVER, ProtocolError
from protocols.codec import decode, encode
from protocols.frame import open_frame, seal
from protocols.identity import SIGNATURE_BYTES
from protocols.messages import Receipt
from protocols.transcript import GENESIS, RunningHash, TranscriptRecord


class Cheat:
    """An honest run; subclasses change what they are asked about."""

    def before(self, run: RecordedRun, federation: Federation) -> None:
        """An attempt is about to begin."""

    def request(self, federation: Federation, phase: str, client: str, frame: bytes) -> bytes:
        """Return what the server sends instead of ``frame``."""
        return frame

    def reply(self, federation: Federation, phase: str, client: str, frame: bytes) -> bytes:
        """Return what the client sends instead of ``frame``."""
        return frame


class RecordedRun:
    """A run folder in the making."""

    def __init__(self, folder: Path, *, keep_payloads: bool = True) -> None:
        self.folder = folder
        self.writer = TranscriptWriter(folder, keep_payloads=keep_payloads)

    def aggregate(
        self,
        federation: Federation,
        cheat: Cheat | None = None,
        drop_before: Mapping[str, set[str]] | None = None,
        late_in: Mapping[str, set[str]] | None = None,
    ) -> None:
        """Carry out one attempt and record it."""
        cheat = cheat or Cheat()
        cheat.before(self, federation)
        self.writer.keep_parameters(federation.parameters)
        running = {name: RunningHash() for name in (*federation.cohort, KEY_HOLDER)}
        gone: set[str] = set()
        while not federation.server.done:
            phase, session = federation.server.phase, federation.server.report.session.hex()
            gone |= (drop_before or {}).get(phase, set())
            requests = {
                name: cheat.request(federation, phase, name, frame)
                for name, frame in federation.server.requests().items()
            }
            for name, frame in requests.items():
                self._record(frame, SERVER, name, phase, session)
            replies: dict[str, bytes | None] = {}
            for name, frame in requests.items():
                replies[name] = None
                if name in gone:
                    continue
                try:
                    reply = federation.party(name).handle(frame)
                except ProtocolError as error:
                    federation.errors[name] = error
                    continue
                running[name].received(frame)
                reply = cheat.reply(federation, phase, name, reply)
                reply = self._receipt(federation, phase, name, reply, running[name])
                running[name].sent(reply)
                if name in (late_in or {}).get(phase, set()):
                    gone.add(name)
                else:
                    replies[name] = reply
            for name, reply in replies.items():
                if reply is not None:
                    self._record(reply, name, SERVER, phase, session)
            federation.server.receive(replies)
        self.writer.sign_head(federation.server_identity)

    def _receipt(
        self, federation: Federation, phase: str, name: str, frame: bytes, running: RunningHash
    ) -> bytes:
        """A receipt over what was really sent, which differs from the machine's where it cheats."""
        if phase != "deliver":
            return frame
        message = open_frame(frame, federation.roster, name, phase)
        assert isinstance(message, Receipt)
        if message.transcript == running.value:
            return frame
        changed = message.model_copy(update={"transcript": running.value})
        return seal(changed, federation.identities[name])

    def _record(self, frame: bytes, sender: str, recipient: str, phase: str, session: str) -> None:
        receipt = phase == "deliver" and sender != SERVER
        self.writer.append(Passage(frame, sender, recipient, phase, session, keep=receipt))

    def finish(self, federation: Federation) -> Path:
        """Sign the final head and pin the roster."""
        self.writer.sign_head(federation.server_identity, final=True)
        self.writer.close()
        (self.folder / "roster.json").write_text(federation.roster.model_dump_json(indent=2))
        (self.folder / "ledger.json").write_bytes(no_noise(federation.cohort).to_json())
        return self.folder


def no_noise(cohort: Iterable[str]) -> Ledger:
    """The ledger of a run that claims no privacy."""
    clients = [ClientLedger(client=name, task="t", num_examples=64) for name in cohort]
    return Ledger(unit="client", adjacency="zero_out", delta=1e-5, clients=tuple(clients))


def rewrite(folder: Path, place: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change one message of a finished run, without anybody's key, and chain the rest anew."""
    lines = (folder / TRANSCRIPT).read_bytes().splitlines()
    records = [TranscriptRecord.model_validate_json(line) for line in lines]
    old = records[place]
    frame = (folder / str(old.payload)).read_bytes()
    body = decode(frame[SIGNATURE_BYTES:])
    assert isinstance(body, dict)
    frame = frame[:SIGNATURE_BYTES] + encode(change(body))
    digest = hashlib.sha256(frame).hexdigest()
    (folder / PAYLOADS / digest).write_bytes(frame)
    new = {"sha256": digest, "length": len(frame), "payload": f"{PAYLOADS}/{digest}"}
    records[place] = old.model_copy(update=new)
    chain(folder, records)


def chain(folder: Path, records: list[TranscriptRecord]) -> str:
    """Write records numbered and chained anew; return the last one's hash."""
    last, lines = GENESIS, []
    for seq, record in enumerate(records):
        chained = record.model_copy(update={"seq": seq, "prev": last})
        last = chained.digest()
        lines.append(chained.model_dump_json() + "\n")
    (folder / TRANSCRIPT).write_text("".join(lines))
    return last


def records_of(folder: Path) -> list[TranscriptRecord]:
    """All records of a folder."""
    lines = (folder / TRANSCRIPT).read_bytes().splitlines()
    return [TranscriptRecord.model_validate_json(line) for line in lines]
