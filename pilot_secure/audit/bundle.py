"""A run folder or an exported bundle as an auditor reads it: streamed, and trusted in nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from pilot_secure.audit.declared import DeclaredParameters, Problems, read_declared
from pilot_secure.errors import RunFolderError, os_sentence
from pilot_secure.files import told_in_a_sentence
from pilot_secure.transcript import HEADS, PARAMETERS, PAYLOADS, TRANSCRIPT
from protocols.escrow import Escrow
from protocols.identity import Roster
from protocols.transcript import TranscriptHead, TranscriptRecord

ROSTER, LEDGER = "roster.json", "ledger.json"
MAX_LINE_BYTES = 1 << 16
MAX_FILE_BYTES = 1 << 26
MAX_PAYLOAD_BYTES = 1 << 34


@dataclass
class Unreadable:
    """Why reading stopped before the end of the transcript, and at which line."""

    line: int
    reason: str


@dataclass
class Bundle:
    """The files of a bundle. ``unreadable`` is set by :meth:`records` where a line is no record."""

    path: Path
    roster: Roster
    roster_source: str
    unreadable: Unreadable | None = None
    cut: bool = False
    _parameters: dict[str, tuple[DeclaredParameters | None, Problems]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, roster_file: Path | None = None) -> Bundle:
        """Open a run folder or a bundle; the roster is its own unless another is given.

        Raises: RunFolderError where there is no transcript or no roster to check it against.
        """
        if not (path / TRANSCRIPT).is_file():
            raise RunFolderError(f"{path}: expected a run folder or bundle, no {TRANSCRIPT} there.")
        source = roster_file or path / ROSTER
        roster = read_roster(source)
        return cls(path, roster, "given apart" if roster_file else "the bundle's own")

    def records(self) -> Iterator[TranscriptRecord]:
        """The records in order, until the end or the first line that is none."""
        self.unreadable, self.cut = None, False
        path = self.path / TRANSCRIPT
        with told_in_a_sentence(path), path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    self.unreadable = Unreadable(number, f"longer than {MAX_LINE_BYTES} bytes")
                    return
                if not line.endswith(b"\n"):
                    self.cut = True
                    return
                try:
                    record = TranscriptRecord.model_validate_json(line)
                except ValidationError as error:
                    first = error.errors(include_input=False, include_url=False)[0]
                    where = ".".join(map(str, first["loc"]))
                    reason = f"{where}: {first['msg']}" if where else first["msg"]
                    self.unreadable = Unreadable(number, reason)
                    return
                yield record

    def unread(self) -> tuple[str, ...]:
        """What :meth:`records` could not read, once it has ended."""
        cut = ("the end of the last line, which was cut",) if self.cut else ()
        if self.unreadable is None:
            return cut
        line = self.unreadable.line
        return (f"what follows line {line} of the transcript, which is no record",)

    def heads(self) -> tuple[list[TranscriptHead], str | None]:
        """The signed heads, and what is wrong with the first line that is none."""
        path = self.path / HEADS
        if not path.is_file():
            return [], None
        heads: list[TranscriptHead] = []
        with told_in_a_sentence(path):
            lines = _read_bounded(path).split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):  # after the last break: cut or empty
            try:
                heads.append(TranscriptHead.model_validate_json(line))
            except ValidationError:
                return heads, f"{HEADS}: line {number} is no head"
        return heads, None

    def frame(self, record: TranscriptRecord) -> tuple[bytes | None, str | None]:
        """The frame of a record (None where only its hash is there), and what is wrong with it."""
        if record.payload is None:
            return None, None
        if record.payload != f"{PAYLOADS}/{record.sha256}":
            return None, f"the record names {record.payload[:80]!r}, not its own hash"
        path = self.path / record.payload
        if not path.is_file():  # a pipe or a device could be read for ever
            return None, None
        try:
            size = path.stat().st_size
            if size != record.length or size > MAX_PAYLOAD_BYTES:
                return None, f"{record.payload} has {size} bytes, the record says {record.length}"
            frame = path.read_bytes()
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise RunFolderError(os_sentence(error, path)) from error
        if hashlib.sha256(frame).hexdigest() != record.sha256:
            return None, f"{record.payload} holds other bytes than were recorded"
        return frame, None

    def parameters(self, digest: str) -> tuple[DeclaredParameters | None, Problems]:
        """What an attempt whose first session is ``digest`` agreed on, and what is wrong with it.

        (None, no problems) where the bundle does not say.
        """
        if digest not in self._parameters:
            path = self.path / PARAMETERS / digest
            if not path.is_file():
                self._parameters[digest] = (None, Problems())
            else:
                self._parameters[digest] = read_declared(_read_bounded(path), digest)
        return self._parameters[digest]

    def content(self, name: str) -> bytes | None:
        """The bytes of a file of the bundle, None where there is none."""
        path = self.path / name
        return _read_bounded(path) if path.is_file() else None


def read_roster(path: Path) -> Roster:
    """The pinned parties in a file.

    Raises: RunFolderError if it is missing or no roster.
    """
    content = _read_bounded(path)
    try:
        return Roster.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        reason = " ".join(str(first["msg"]).split())
        raise RunFolderError(f"{path}: expected a roster ({reason}).") from None


def read_escrow(path: Path) -> Escrow:
    """The escrowed secrets in a file.

    Raises: RunFolderError if it is missing or no escrow; nothing of its content is told.
    """
    try:
        return Escrow.model_validate_json(_read_bounded(path))
    except ValidationError:
        raise RunFolderError(f"{path}: expected the escrow.json of an escrowed run.") from None


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RunFolderError(os_sentence(error, path)) from error
    if len(content) > MAX_FILE_BYTES:
        raise RunFolderError(f"{path}: longer than {MAX_FILE_BYTES} bytes.")
    return content
