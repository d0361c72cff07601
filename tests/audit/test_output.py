"""What the auditor prints and writes of hostile messages, and to awkward places."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from good_runs import make_good_run
from planting import Change, cheating, plain

from pilot_secure.audit.__main__ import main
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.diff import diff
from pilot_secure.audit.rules.leakage import L01Leverage
from pilot_secure.audit.verdicts import Verdict
from pilot_secure.audit.verify import verify
from pilot_secure.terminal import READER_GONE
from protocols.codec import encode
from protocols.leakage import MAX_COALITIONS


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_good_run(tmp_path_factory.mktemp("small") / "run", plain=True, count=5, rounds=1)


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "copy"))


def steering(_federation: Any, message: Any) -> bytes:
    """A field whose name clears the screen and writes a line of its own."""
    return encode({**message.model_dump(), "\x1b[2J\nT01  PASS  all is well": 1})


def lists_of_lists(_federation: Any, _message: Any) -> bytes:
    """300 bytes that stand for a list of 30 to the power of 7 numbers, by shared references."""
    parts = [b"\xd8\x1c\x98\x1e" + b"\x01" * 30]
    parts += [b"\xd8\x1c\x98\x1e" + (b"\xd8\x1d" + bytes([i])) * 30 for i in range(6)]
    return bytes([0x80 | len(parts)]) + b"".join(parts)


def test_a_message_cannot_write_over_the_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    cheating(plain, lambda: Change("masked_input", steering), rounds=1)(run)
    assert main(["verify", str(run)]) == 3
    told = capsys.readouterr().out
    assert "\\x1b[2J\\nT01  PASS" in told
    assert all(line.isprintable() for line in told.splitlines())
    assert main(["verify", str(run), "--json"]) == 3
    assert capsys.readouterr().out.isascii()


def test_shared_references_are_not_followed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    cheating(plain, lambda: Change("masked_input", lists_of_lists), rounds=1)(run)
    begun = time.monotonic()
    report = verify(Bundle.open(run))
    assert report.result("T06").verdict is Verdict.FAIL
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_of_few_letters_gets_all_verdicts(small_run: Path, encoding: str) -> None:
    variables = {"PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-m", "pilot_secure.audit", "verify", "."],
        cwd=small_run,
        env={**os.environ, **variables},
        capture_output=True,
        encoding=encoding,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("run: ")
    assert told.stdout.endswith("23 PASS, 0 FAIL, 2 NOT-CHECKABLE\n")


def test_a_reader_who_stops_is_no_defect(small_run: Path) -> None:
    command = [sys.executable, "-m", "pilot_secure.audit", "view", str(small_run)]
    read, write = os.pipe()
    os.close(read)
    told = subprocess.run(
        [*command, "--party", "server"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (told.returncode, told.stderr) == (READER_GONE, "")


def test_a_ledger_that_is_none_leaves_a_verdict_and_a_page(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "ledger.json").write_text("[]")
    page = copy / "report.html"
    assert main(["verify", str(copy), "--html", str(page)]) == 3
    assert "no effective epsilon" in page.read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["view", str(copy), "--party", "server"]) == 0
    assert "no effective epsilon" in capsys.readouterr().out


@pytest.mark.parametrize("rest", [b"{}\n", b"\xff\n", b'{"seq":'])
def test_what_cannot_be_read_is_not_called_the_same(
    small_run: Path, copy: Path, rest: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with (copy / "transcript.jsonl").open("ab") as file:
        file.write(rest)
    assert not diff(Bundle.open(small_run), Bundle.open(copy)).same
    assert main(["diff", str(small_run), str(copy)]) == 0
    assert "not compared: B, " in capsys.readouterr().out


def test_a_bundle_holds_no_strangers(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "payloads" / ".half-written").write_bytes(b"secret")
    (copy / "parameters" / "notes").write_bytes(b"secret")
    (copy / "public.json").write_bytes(b"secret")
    assert main(["export", str(copy), str(copy / "out")]) == 0
    assert all(b"secret" not in p.read_bytes() for p in (copy / "out").rglob("*") if p.is_file())
    assert verify(Bundle.open(copy / "out")).exit_code == 0
    record = json.loads((copy / "transcript.jsonl").read_bytes().splitlines()[3])
    (copy / record["payload"]).unlink()
    (copy / record["payload"]).symlink_to(copy / "escrow.json")
    assert main(["export", str(copy), str(copy / "again")]) == 2
    assert "a link, expected a file" in capsys.readouterr().err


def test_too_many_coalitions_are_told_and_not_listed(tmp_path: Path) -> None:
    """Twenty-four clients of whom eleven may collude have 7 million coalitions."""
    run = make_good_run(
        tmp_path / "run", plain=True, count=24, rounds=1, max_colluders=11, min_contributors=13
    )
    found = verify(Bundle.open(run)).result(L01Leverage.id)
    assert found.verdict is Verdict.NOT_CHECKABLE
    assert found.checked == 1 + MAX_COALITIONS
    assert "coalitions, which are too many" in found.missing[0]
