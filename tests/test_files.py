"""Files that survive kills and full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pilot_secure import files
from pilot_secure.errors import RunFolderError
from pilot_secure.files import LineReader, LineWriter, write_atomically

_ENDLESS = """
import sys
from pathlib import Path
from pilot_secure.files import LineWriter
writer = LineWriter(Path(sys.argv[1]))
number = 0
while True:
    writer.append(str(number) * 50)
    number += 1
    if number == 2000:
        print("ready", flush=True)
"""


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write store half of its bytes, and fail when it is called again."""
    write = os.write
    calls: list[int] = []

    def half(descriptor: int, content: bytes) -> int:
        calls.append(descriptor)
        if len(calls) % 2 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(content)[: len(content) // 2])

    monkeypatch.setattr(files.os, "write", half)


def test_atomic_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644 & ~mask


def test_full_disk_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")
    request.getfixturevalue("full_disk")
    with pytest.raises(RunFolderError) as caught:
        write_atomically(path, b"a new one")
    assert str(caught.value) == f"{path}: the disk is full."
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_full_disk_cuts_a_line_that_the_reader_leaves_out(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "lines"
    writer = LineWriter(path)
    writer.append("first")
    request.getfixturevalue("full_disk")
    with pytest.raises(RunFolderError, match="the disk is full"):
        writer.append("second")
    reader = LineReader(path, bytes.strip)
    assert list(reader) == [b"first"]
    assert reader.note == f"{path}: line 2 was cut and is left out."


def test_lines_of_a_killed_process_are_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    lines = list(LineReader(path, lambda line: line.decode().strip()))
    assert len(lines) >= 2000
    assert lines == [str(number) * 50 for number in range(len(lines))]


def test_lines_are_never_appended_to_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with LineWriter(path) as writer:
        writer.append(b"one")
    with pytest.raises(RunFolderError, match="File exists"):
        LineWriter(path)
    with pytest.raises(ValueError, match="closed"):
        writer.append(b"two")


def test_a_record_holds_no_line_break(tmp_path: Path) -> None:
    with LineWriter(tmp_path / "lines") as writer, pytest.raises(ValueError, match="line break"):
        writer.append("a\nb")


def test_malformed_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"1\ntwo\n3\n")
    with pytest.raises(RunFolderError, match="line 2 is no valid record"):
        list(LineReader(path, int))


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(RunFolderError) as caught:
        list(LineReader(path, int))
    assert str(caught.value) == f"{path}: there is no such file or folder."
