"""T02, T03, T06: every frame is signed by the pinned key, of a known form, in its one encoding."""

from __future__ import annotations

from collections.abc import Iterator

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.entries import Entry, Stage, open_entry
from pilot_secure.audit.rule import Rule
from pilot_secure.audit.verdicts import Evidence
from protocols.distance_messages import (
    BlindedCall,
    DistanceRelease,
    DistanceUploads,
    ReleaseRequest,
    RowDelivery,
)
from protocols.errors import PeerError
from protocols.frame import claimed_sender
from protocols.identity import KEY_HOLDER, sha256
from protocols.messages import Advertisements
from protocols.states import CLIENT, HOLDER


class _OfEveryFrame(Rule):
    """Fails for each defect of one stage."""

    evidence = (Evidence.PAYLOADS,)
    stage: Stage

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at one frame."""
        if entry.frame is None:
            return
        self.checked += 1
        for defect in entry.defects:
            if defect.stage is self.stage:
                self.fail_at(entry, attempt, defect.found, defect.expected)


class T02Signatures(_OfEveryFrame):
    """Every frame carries its sender's signature, relayed ones too."""

    id = "T02"
    title = "signatures against the pinned roster"
    stage = Stage.SIGNATURE

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at one frame and at those that it relays."""
        super().see(entry, attempt)
        if attempt is None:
            return
        for name, frame in relayed(entry):
            self.checked += 1
            if attempt.seen_frame(sha256(frame)):
                continue
            inner = entry.record.model_copy(update={"sender": name, "recipient": "server"})
            for defect in open_entry(inner, frame, None, self.bundle.roster).defects:
                if defect.stage is Stage.SIGNATURE:
                    found = f"a relayed message of {name}: {defect.found}"
                    self.fail_at(entry, attempt, found, defect.expected)


def relayed(entry: Entry) -> Iterator[tuple[str, bytes]]:
    """The signed frames of others inside a message, with the sender they claim."""
    frames: tuple[bytes, ...] = ()
    match entry.message:
        case Advertisements(advertisements=found):
            frames = found
        case DistanceUploads(uploads=found) | ReleaseRequest(uploads=found):
            frames = found
        case BlindedCall(keys=frame) | RowDelivery(table=frame) | DistanceRelease(table=frame):
            frames = (frame,)
    for frame in frames:
        try:
            yield claimed_sender(frame, entry.record.phase), frame
        except PeerError:
            yield "an unknown sender", frame


class T03Schema(_OfEveryFrame):
    """Every frame is a known message with exactly its fields, in the direction it is for."""

    id = "T03"
    title = "strict schema"
    stage = Stage.SCHEMA

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at one frame; a known message must also be one that its sender may send."""
        super().see(entry, attempt)
        message = entry.protocol_message
        if message is None:
            return
        table = HOLDER if entry.client == KEY_HOLDER else CLIENT
        allowed = {row.event if entry.from_server else row.reply for row in table}
        if message.kind not in allowed:
            sender = entry.record.sender
            self.fail_at(entry, attempt, f"{message.kind} of {sender}", "what it may send")


class T06Encoding(_OfEveryFrame):
    """Every frame is the one canonical encoding of what it says."""

    id = "T06"
    title = "canonical, injective encoding"
    stage = Stage.ENCODING

    def conclude(self, attempt: Attempt) -> None:
        """Look at the attempt's parameters, which are hashed in the same encoding."""
        if attempt.problems.malformed is not None:
            found = attempt.problems.malformed
            self.fail(attempt.label, attempt.first_seq, found, "the canonical encoding")
