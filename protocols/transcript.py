"""The transcript's records, their hash chain and its signed head. Files are the caller's business.

A record's ``prev`` is the hash of the record before it (64 zeros at the start). The server signs
the head. Each client signs, in its receipt, the running hash of all frames it sent and received,
so that a server that deletes a record and signs a new chain is found out.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from protocols.codec import encode
from protocols.identity import Identity, Name, Roster, sha256

HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
GENESIS = "0" * 64
MAX_COUNT = 1 << 53  # what every reader of JSON can hold


class RunningHash:
    """SHA-256 chained over the frames of one party, in the order it saw them."""

    def __init__(self) -> None:
        self.value = sha256(b"pilot-secure running hash")

    def sent(self, frame: bytes) -> None:
        """Add a frame that the party sent."""
        self.add("sent", sha256(frame))

    def received(self, frame: bytes) -> None:
        """Add a frame that the party received and took."""
        self.add("rcvd", sha256(frame))

    def add(self, direction: Literal["sent", "rcvd"], frame_hash: bytes) -> None:
        """Add a frame by its hash: an auditor needs no more than the record."""
        self.value = sha256(self.value, direction.encode(), frame_hash)


class TranscriptRecord(BaseModel):
    """One frame of the run, by its hash; ``payload`` names the file that keeps it, if any.

    ``at_ms``: for how many milliseconds the run had gone on, breaks left out, when the record was
    written. The server's word: nobody else signs a time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=0, le=MAX_COUNT)
    prev: HexDigest
    sender: Name
    recipient: Name
    phase: Name
    session: HexDigest
    sha256: HexDigest
    length: int = Field(ge=0, le=MAX_COUNT)
    at_ms: int = Field(ge=0, le=MAX_COUNT)
    payload: str | None = None

    def digest(self) -> str:
        """Return the hash that the next record carries as ``prev``."""
        return sha256(encode(["pilot-secure record", self.model_dump()])).hex()


class TranscriptHead(BaseModel):
    """The number of records and the hash of the last one, signed by the server.

    One is signed after each attempt; that of the run's end is ``final``, so that a transcript that
    was cut after an aggregation is not taken for a whole one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=0, le=MAX_COUNT)
    last: HexDigest
    final: bool
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @classmethod
    def sign(cls, count: int, last: str, identity: Identity, *, final: bool) -> Self:
        """Return the signed head."""
        signature = identity.sign(_head(count, last, final)).hex()
        return cls(count=count, last=last, final=final, signature=signature)

    def verify(self, roster: Roster) -> None:
        """Raise BadSignature unless the pinned server signed this head."""
        message = _head(self.count, self.last, self.final)
        roster.verify(roster.server.name, bytes.fromhex(self.signature), message, "transcript")


def _head(count: int, last: str, final: bool) -> bytes:
    return encode(["pilot-secure transcript head", count, last, final])
