"""The transcript on disk: one line a message in `transcript.jsonl`, frames in `payloads/`.

The records and their hash chain are `protocols.transcript`'s; this file appends them as messages
are sent, and reads them back. A killed run leaves a valid prefix: a frame is stored before the
record that names it, and a line that was cut is left out by the reader.

Secrecy: whoever reads payloads sees what the server sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from pilot_secure.errors import TranscriptError
from pilot_secure.files import LineReader, LineWriter, told_in_a_sentence, write_atomically
from protocols.identity import Identity
from protocols.transcript import GENESIS, TranscriptHead, TranscriptRecord

TRANSCRIPT = "transcript.jsonl"
HEAD = "transcript_head.json"
PAYLOADS = "payloads"


class TranscriptWriter:
    """Appends the record of each frame to a new `transcript.jsonl` in `folder`.

    With `keep_payloads`, the frame itself is kept as `payloads/<sha256>`; a frame that was sent
    to several parties is kept once.
    """

    def __init__(self, folder: Path, *, keep_payloads: bool) -> None:
        self._folder = folder
        self._keep_payloads = keep_payloads
        self._lines = LineWriter(folder / TRANSCRIPT)
        self._kept: set[str] = set()
        self.count = 0
        self.last = GENESIS

    def append(
        self, frame: bytes, *, sender: str, recipient: str, phase: str, session: str
    ) -> TranscriptRecord:
        """Record one frame; when this returns, a kill of the process no longer loses it.

        `session` is the session id in hexadecimal. Raises: RunFolderError if the disk refuses.
        """
        digest = hashlib.sha256(frame).hexdigest()
        if self._keep_payloads and digest not in self._kept:
            write_atomically(self._folder / PAYLOADS / digest, frame, durable=False)
            self._kept.add(digest)
        record = TranscriptRecord(
            seq=self.count,
            prev=self.last,
            sender=sender,
            recipient=recipient,
            phase=phase,
            session=session,
            sha256=digest,
            length=len(frame),
            payload=f"{PAYLOADS}/{digest}" if self._keep_payloads else None,
        )
        self._lines.append(record.model_dump_json())
        self.count += 1
        self.last = record.digest()
        return record

    def sign_head(self, identity: Identity) -> TranscriptHead:
        """Write the head, signed by the server, to `transcript_head.json`, replacing an older."""
        self._lines.sync()
        head = TranscriptHead.sign(self.count, self.last, identity)
        write_atomically(self._folder / HEAD, head.model_dump_json().encode() + b"\n")
        return head

    def close(self) -> None:
        """Wait until all records are on the disk, and close."""
        self._lines.close()


def read_transcript(folder: Path) -> LineReader[TranscriptRecord]:
    """The records of a run folder, streamed; their chain is `chained`'s to check.

    `.note` says afterwards whether a last line was cut.
    Raises: RunFolderError if the file is missing or a line is no record.
    """
    return LineReader(folder / TRANSCRIPT, TranscriptRecord.model_validate_json)


def chained(records: Iterable[TranscriptRecord]) -> Iterator[TranscriptRecord]:
    """Pass records on while each carries the number and the hash that are due.

    Raises: TranscriptError at the first that does not.
    """
    last = GENESIS
    for due, record in enumerate(records):
        if record.seq != due or record.prev != last:
            raise TranscriptError(
                f"transcript record {record.seq} follows {last[:12]}… with number {due} due, but "
                f"says it follows {record.prev[:12]}…: a record was removed, changed or moved."
            )
        last = record.digest()
        yield record


def read_head(folder: Path) -> TranscriptHead | None:
    """The signed head, None where the run ended before it was signed.

    Raises: TranscriptError if it is malformed.
    """
    path = folder / HEAD
    if not path.exists():
        return None
    with told_in_a_sentence(path):
        content = path.read_bytes()
    try:
        return TranscriptHead.model_validate_json(content)
    except ValidationError as error:
        raise TranscriptError(
            f"{path}: no transcript head ({' '.join(str(error).split())})."
        ) from None


def read_payload(folder: Path, record: TranscriptRecord) -> bytes | None:
    """The frame of a record, None where only its hash was kept.

    Raises: TranscriptError if the file is not the frame that was recorded.
    """
    if record.payload is None:
        return None
    if record.payload != f"{PAYLOADS}/{record.sha256}":
        raise TranscriptError(
            f"transcript record {record.seq} names {record.payload}, expected its own hash."
        )
    path = folder / record.payload
    with told_in_a_sentence(path):
        frame = path.read_bytes()
    if len(frame) != record.length or hashlib.sha256(frame).hexdigest() != record.sha256:
        raise TranscriptError(f"{path}: not the frame of transcript record {record.seq}.")
    return frame
