"""Writing files that survive a kill: whole files at once, and lines one after the other.

A full disk, a missing permission or a file that is not there becomes a `RunFolderError` whose
sentence names the file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pilot_secure.errors import RunFolderError, os_sentence

Record = TypeVar("Record")
_BLOCK = 1 << 16
UNFINISHED = ".unfinished"
"""How the name of a file ends that is being written, and begins with a dot."""


@contextlib.contextmanager
def told_in_a_sentence(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a `RunFolderError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(os_sentence(error, path)) from error


def write_atomically(
    path: Path, content: bytes, *, durable: bool = True, mode: int = 0o644
) -> None:
    """Write a whole file: a reader sees the old file or the new one, never a part.

    The parent folder is made if need be. If `durable`, the content is on the disk before the
    name changes; otherwise this holds for a kill, not for a cut of power.
    Raises: RunFolderError; an earlier file is then untouched, and nothing is left beside it.
    """
    with told_in_a_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(UNFINISHED, f".{path.name}.", path.parent)
        try:
            try:
                write_all(descriptor, content)
                os.fchmod(descriptor, mode & ~_umask())
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # interrupted just after the renaming
                os.unlink(temporary)
            raise
        if durable:
            _sync_folder(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write to an open file until all is written. Raises: OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished in a folder that nobody else writes to now.

    Raises: RunFolderError.
    """
    with told_in_a_sentence(folder):
        for path in folder.glob(f".*{UNFINISHED}"):
            path.unlink(missing_ok=True)


def make_private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter, and its parent in the same way.

    Raises: RunFolderError.
    """
    with told_in_a_sentence(folder):
        for path in (folder.parent, folder):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                _sync_folder(path.parent)


def write_once(path: Path, content: bytes) -> bool:
    """Create a file with this content, on the disk when this returns; False where there is one.

    Raises: RunFolderError. The name is then taken all the same, by a part of the content.
    """
    with told_in_a_sentence(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_folder(path.parent)
        return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LineWriter:
    """Appends lines to a new file; each line is with the operating system when `append` returns.

    A killed process loses nothing that was appended; a cut of power may lose what came after
    the last `sync`. With `go_on`, to the file of a process that was killed: a last line that it
    left incomplete is cut off first.
    Raises: RunFolderError if the file exists already (with `go_on`: if it does not) or cannot be
    written.
    """

    def __init__(self, path: Path, *, go_on: bool = False) -> None:
        self.path = path
        with told_in_a_sentence(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if go_on:
                _cut_incomplete_line(path)
            flags = os.O_WRONLY | os.O_APPEND | (0 if go_on else os.O_CREAT | os.O_EXCL)
            self._descriptor: int | None = os.open(path, flags, 0o644)

    def append(self, line: str | bytes) -> None:
        """Add one line; it must not hold a line break of its own."""
        encoded = line.encode() if isinstance(line, str) else line
        if b"\n" in encoded:
            raise ValueError(f"{self.path}: a record holds a line break")
        if self._descriptor is None:
            raise ValueError(f"{self.path}: the writer is closed")
        with told_in_a_sentence(self.path):
            write_all(self._descriptor, encoded + b"\n")

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self._descriptor is not None:
            with told_in_a_sentence(self.path):
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with told_in_a_sentence(self.path):
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cut_incomplete_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
        file.truncate(end)


class LineReader(Generic[Record]):
    """Streams the records of an append-only file, one line each.

    A last line without its line break was cut by a kill: it is left out, and `note` says so
    after the iteration. Raises: RunFolderError, naming the line, where `parse` raises ValueError.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], Record]) -> None:
        self.path = path
        self.note: str | None = None
        self._parse = parse

    def __iter__(self) -> Iterator[Record]:
        self.note = None
        with told_in_a_sentence(self.path):
            file = self.path.open("rb")
        with file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self.note = f"{self.path}: line {number} was cut and is left out."
                    return
                yield self._parsed(number, line)

    def _parsed(self, number: int, line: bytes) -> Record:
        try:
            return self._parse(line)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise RunFolderError(
                f"{self.path}: line {number} is no valid record ({reason})."
            ) from None
