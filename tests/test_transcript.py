"""The transcript on disk: a chain that reads back, and what is found when it was touched."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pilot_secure.errors import RunFolderError, TranscriptError
from pilot_secure.files import LineWriter
from pilot_secure.transcript import (
    Passage,
    TranscriptWriter,
    chained,
    read_heads,
    read_payload,
    read_transcript,
)
from protocols.entropy import DeterministicEntropy
from protocols.errors import BadSignature
from protocols.identity import Identity, Roster
from protocols.transcript import GENESIS, TranscriptRecord

SESSION = "ab" * 32
FRAMES = (b"first", b"to both", b"to both", b"")

_ENDLESS = """
import sys
from pathlib import Path
from pilot_secure.transcript import Passage, TranscriptWriter
writer = TranscriptWriter(Path(sys.argv[1]), keep_payloads=True)
number = 0
while True:
    frame = str(number).encode() * 100
    writer.append(Passage(frame, "server", "a", "share", "00" * 32))
    number += 1
    if number == 100:
        print("ready", flush=True)
"""


def _write(folder: Path, *, keep_payloads: bool = True) -> TranscriptWriter:
    writer = TranscriptWriter(folder, keep_payloads=keep_payloads)
    for number, frame in enumerate(FRAMES, start=1):
        recipient = f"client-0{number}"
        writer.append(Passage(frame, "server", recipient, "share", SESSION))
    return writer


def _rewrite(folder: Path, lines: list[str]) -> None:
    (folder / "transcript.jsonl").write_text("".join(line + "\n" for line in lines))


def test_records_read_back_with_their_frames(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    records = list(chained(read_transcript(tmp_path)))  # readable before it is closed
    assert [read_payload(tmp_path, record) for record in records] == list(FRAMES)
    assert [record.recipient for record in records] == [f"client-0{i}" for i in (1, 2, 3, 4)]
    assert [record.length for record in records] == [5, 7, 7, 0]
    assert records[0].prev == GENESIS
    assert writer.last == records[-1].digest()
    assert writer.count == 4
    payloads = {path.name for path in (tmp_path / "payloads").iterdir()}
    assert payloads == {hashlib.sha256(frame).hexdigest() for frame in FRAMES}


def test_hashes_only(tmp_path: Path) -> None:
    _write(tmp_path, keep_payloads=False).close()
    records = list(chained(read_transcript(tmp_path)))
    assert [read_payload(tmp_path, record) for record in records] == [None] * 4
    assert records[0].sha256 == hashlib.sha256(b"first").hexdigest()
    assert not (tmp_path / "payloads").exists()


def test_head_is_signed_by_the_server(tmp_path: Path) -> None:
    server, client, other = (
        Identity.generate(name, DeterministicEntropy(name.encode().ljust(32)))
        for name in ("server", "client-01", "other")
    )
    writer = _write(tmp_path)
    assert list(read_heads(tmp_path)) == []
    writer.sign_head(server)
    writer.sign_head(server, final=True)
    middle, last = read_heads(tmp_path)
    assert (middle.count, middle.last, middle.final) == (4, writer.last, False)
    middle.verify(Roster.of(server, [client]))
    last.verify(Roster.of(server, [client]))
    with pytest.raises(BadSignature):
        middle.model_copy(update={"final": True}).verify(Roster.of(server, [client]))
    forged = writer.sign_head(Identity("server", other._private_key))
    with pytest.raises(BadSignature):
        forged.verify(Roster.of(server, [client]))
    (tmp_path / "heads.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match="line 1 is no valid record"):
        list(read_heads(tmp_path))


@pytest.mark.parametrize("touch", ["delete", "swap", "change"])
def test_a_touched_chain_is_refused(tmp_path: Path, touch: str) -> None:
    _write(tmp_path).close()
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    if touch == "delete":
        del lines[1]
    elif touch == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines[1] = json.dumps({**json.loads(lines[1]), "recipient": "client-09"})
    _rewrite(tmp_path, lines)
    passed: list[TranscriptRecord] = []
    with pytest.raises(TranscriptError, match="removed, changed or moved"):
        passed.extend(chained(read_transcript(tmp_path)))


def test_frames_are_recorded_beside_the_caller_in_order(tmp_path: Path) -> None:
    writer = TranscriptWriter(tmp_path, keep_payloads=False)
    large = bytes(1 << 23)
    for number in range(4):
        writer.append_beside([Passage(large, "server", "a", "share", SESSION)] * 2)
        writer.append_beside([Passage(b"%d" % number, "a", "server", "share", SESSION)])
    assert writer.append(Passage(b"last", "server", "a", "share", SESSION)).seq == 12
    writer.close()
    lengths = [record.length for record in chained(read_transcript(tmp_path))]
    assert lengths == [1 << 23, 1 << 23, 1] * 4 + [4]


def test_what_the_disk_refused_beside_the_caller_is_told_and_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _write(tmp_path, keep_payloads=False)
    written = LineWriter.append

    def refused(self: LineWriter, line: str | bytes) -> None:
        if '"length":3,' in str(line):
            raise RunFolderError("no space left on device.")
        written(self, line)

    monkeypatch.setattr(LineWriter, "append", refused)
    for frame in (b"one", b"four"):
        writer.append_beside([Passage(frame, "server", "a", "share", SESSION)])
    with pytest.raises(RunFolderError, match="no space left"):
        writer.flush()
    with pytest.raises(RunFolderError, match="no space left"):
        writer.close()
    assert len(list(chained(read_transcript(tmp_path)))) == len(FRAMES)


def test_a_touched_payload_is_refused(tmp_path: Path) -> None:
    _write(tmp_path).close()
    record = next(iter(read_transcript(tmp_path)))
    assert record.payload is not None
    (tmp_path / record.payload).write_bytes(b"fIrst")
    with pytest.raises(TranscriptError, match="not the frame of transcript record 0"):
        read_payload(tmp_path, record)
    (tmp_path / record.payload).unlink()
    with pytest.raises(RunFolderError, match="no such file"):
        read_payload(tmp_path, record)
    with pytest.raises(TranscriptError, match="expected its own hash"):
        read_payload(tmp_path, record.model_copy(update={"payload": "../secret"}))


def test_an_unknown_field_is_no_record(tmp_path: Path) -> None:
    _write(tmp_path).close()
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    _rewrite(tmp_path, [json.dumps({**json.loads(lines[0]), "raw_update": [0.5]})])
    with pytest.raises(RunFolderError, match="line 1 is no valid record"):
        list(read_transcript(tmp_path))


def test_a_killed_run_leaves_a_valid_prefix(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    records = list(chained(read_transcript(tmp_path)))
    assert len(records) >= 100
    frames = [read_payload(tmp_path, record) for record in records]
    assert frames == [str(number).encode() * 100 for number in range(len(records))]


def test_the_clock_goes_on_where_a_killed_run_stood(tmp_path: Path) -> None:
    _write(tmp_path).close()
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    last = {**json.loads(lines[-1]), "at_ms": 5_000_000}
    _rewrite(tmp_path, [*lines[:-1], json.dumps(last)])
    writer = TranscriptWriter(tmp_path, keep_payloads=True, go_on_from=0)
    writer.append(Passage(b"new", "server", "a", "share", SESSION))
    writer.close()
    times = [record.at_ms for record in chained(read_transcript(tmp_path))]
    assert times == sorted(times)
    assert 0 <= times[0] < 1_000_000
    assert 5_000_000 <= times[-1] < 5_100_000


def test_a_transcript_that_lost_its_end_is_not_continued(tmp_path: Path) -> None:
    writer = _write(tmp_path)
    count = writer.sync()
    writer.close()
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    _rewrite(tmp_path, lines[:-1])
    with pytest.raises(RunFolderError, match=f"expected at least {count} records, .* {count - 1}:"):
        TranscriptWriter(tmp_path, keep_payloads=True, go_on_from=count)


def test_an_old_transcript_is_never_continued(tmp_path: Path) -> None:
    _write(tmp_path).close()
    with pytest.raises(RunFolderError, match="File exists"):
        TranscriptWriter(tmp_path, keep_payloads=True)
