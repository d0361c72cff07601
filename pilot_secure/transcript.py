"""The transcript on disk: what an auditor is given of a run.

    transcript.jsonl    one line a message: who, to whom, hash, length, and the hash before it
    heads.jsonl         the server's signature of the chain after each attempt and at the run's end
    payloads/<sha256>   the messages themselves, if they are kept; clients' receipts always
    parameters/<digest> what each attempt of an aggregation agreed on, as canonical CBOR

The records and their hash chain are `protocols.transcript`'s; this file appends them as messages
are sent, and reads them back. A killed run leaves a valid prefix: a frame is stored before the
record that names it, and a line that was cut is left out by the reader.

Hashing a large frame takes as long as a tenth of making it, so frames can be recorded beside the
protocol, in a thread of their own: in order, and all before a head is signed or a state is kept.

Secrecy: whoever reads payloads sees what the server sees.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pilot_secure.errors import RunFolderError, TranscriptError
from pilot_secure.files import LineReader, LineWriter, told_in_a_sentence, write_atomically
from protocols.identity import Identity
from protocols.parameters import AggregationParameters
from protocols.transcript import GENESIS, TranscriptHead, TranscriptRecord

TRANSCRIPT = "transcript.jsonl"
HEADS = "heads.jsonl"
PAYLOADS = "payloads"
PARAMETERS = "parameters"


@dataclass(frozen=True)
class Passage:
    """A frame on its way. ``session`` is the session id in hexadecimal.

    ``keep`` keeps the frame even where payloads are not kept.
    """

    frame: bytes
    sender: str
    recipient: str
    phase: str
    session: str
    keep: bool = False


class TranscriptWriter:
    """Appends the record of each frame to a new `transcript.jsonl` in `folder`.

    With `keep_payloads`, the frame itself is kept as `payloads/<sha256>`; a frame that was sent
    to several parties is kept once. With `go_on_from`, the transcript of a process that was killed
    is continued: the messages from that record on are sent again, and those among them that are
    sent as they were are not recorded twice.

    Raises: RunFolderError; TranscriptError if what is there is no chain, or ends too early.
    """

    def __init__(self, folder: Path, *, keep_payloads: bool, go_on_from: int | None = None) -> None:
        self._folder = folder
        self._keep_payloads = keep_payloads
        self._kept: set[str] = set()
        self._count = 0
        self._last = GENESIS
        self._sent: Counter[tuple[str, ...]] = Counter()
        self._signed: tuple[int, bool] | None = None
        self._began = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transcript")
        self._queued: list[Future[None]] = []
        self._refused: RunFolderError | None = None
        if go_on_from is not None:
            self._read(go_on_from)
        self._lines = LineWriter(folder / TRANSCRIPT, go_on=go_on_from is not None)
        self._heads = LineWriter(folder / HEADS, go_on=go_on_from is not None)

    def _read(self, go_on_from: int) -> None:
        gone_ms = 0
        for record in chained(read_transcript(self._folder)):
            self._count, self._last, gone_ms = record.seq + 1, record.digest(), record.at_ms
            if record.seq >= go_on_from:
                self._sent[_frame_of(record)] += 1
        if self._count < go_on_from:
            raise TranscriptError(
                f"{self._folder / TRANSCRIPT}: expected at least {go_on_from} records, as many as "
                f"when the run was last kept, there are {self._count}: its end is lost."
            )
        for head in read_heads(self._folder):
            self._signed = (head.count, head.final)
        self._began -= gone_ms / 1000

    @property
    def count(self) -> int:
        """How many records there are. Raises: RunFolderError if one could not be written."""
        self.flush()
        return self._count

    @property
    def last(self) -> str:
        """The hash of the last record. Raises: RunFolderError if one could not be written."""
        self.flush()
        return self._last

    def append(self, passage: Passage) -> TranscriptRecord | None:
        """Record one frame; when this returns, a kill of the process no longer loses it.

        Returns None for a frame that the process that was killed has recorded.
        Raises: RunFolderError if the disk refuses.
        """
        self.flush()
        return self._append(passage, self._now_ms())

    def append_beside(self, passages: Sequence[Passage]) -> None:
        """Have frames recorded in the order of the calls, while the caller goes on.

        What the disk refuses is raised by the next call that waits: :meth:`flush`, and all others.
        """
        self._queued.append(self._thread.submit(self._append_all, passages, self._now_ms()))

    def flush(self) -> None:
        """Wait until all frames are recorded. Raises: RunFolderError if the disk refuses."""
        while self._queued:
            wait(self._queued[:1])
            self._queued.pop(0).result()
        if self._refused is not None:
            raise self._refused

    def sync(self) -> int:
        """Wait until all records are on the disk; return how many there are.

        Raises: RunFolderError.
        """
        self.flush()
        self._lines.sync()
        return self._count

    def _now_ms(self) -> int:
        return round(1000 * (time.monotonic() - self._began))

    def _append_all(self, passages: Sequence[Passage], at_ms: int) -> None:
        if self._refused is not None:
            raise self._refused  # a record may have been written in part: nothing may follow it
        try:
            for passage in passages:
                self._append(passage, at_ms)
        except RunFolderError as error:
            self._refused = error
            raise

    def _append(self, passage: Passage, at_ms: int) -> TranscriptRecord | None:
        frame = passage.frame
        digest = hashlib.sha256(frame).hexdigest()
        ends = (passage.sender, passage.recipient, passage.phase, passage.session)
        if self._sent[*ends, digest] > 0:
            self._sent[*ends, digest] -= 1
            return None
        kept = passage.keep or self._keep_payloads
        if kept and digest not in self._kept:
            write_atomically(self._folder / PAYLOADS / digest, frame, durable=False)
            self._kept.add(digest)
        record = TranscriptRecord(
            seq=self._count,
            prev=self._last,
            sender=passage.sender,
            recipient=passage.recipient,
            phase=passage.phase,
            session=passage.session,
            sha256=digest,
            length=len(frame),
            at_ms=at_ms,
            payload=f"{PAYLOADS}/{digest}" if kept else None,
        )
        self._lines.append(record.model_dump_json())
        self._count += 1
        self._last = record.digest()
        return record

    def keep_parameters(self, parameters: AggregationParameters) -> None:
        """Write down what an attempt agreed on, under the session of its first messages."""
        path = self._folder / PARAMETERS / parameters.digest().hex()
        write_atomically(path, parameters.encoded(), durable=False)

    def sign_head(self, identity: Identity, *, final: bool = False) -> TranscriptHead:
        """Have the server sign the chain so far; `final` says that the run is over."""
        self.flush()
        self._lines.sync()
        head = TranscriptHead.sign(self._count, self._last, identity, final=final)
        if self._signed != (head.count, head.final):
            self._heads.append(head.model_dump_json())
            self._signed = (head.count, head.final)
        return head

    def close(self) -> None:
        """Wait until all records and heads are on the disk, and close."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self._lines.close()
            self._heads.close()


def _frame_of(record: TranscriptRecord) -> tuple[str, ...]:
    return record.sender, record.recipient, record.phase, record.session, record.sha256


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


def read_heads(folder: Path) -> LineReader[TranscriptHead]:
    """The signed heads in order; the last is `final` unless the run was killed or interrupted.

    Raises: RunFolderError if the file is missing or a line is no head.
    """
    return LineReader(folder / HEADS, TranscriptHead.model_validate_json)


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
