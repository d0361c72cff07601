"""A client's guard on disk: kills, races, other cohorts, and a disk that refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from pilot_secure.errors import RunFolderError
from pilot_secure.federation.guard import DiskGuard

ROOT = Path(__file__).parents[2]

ATTEMPT = """
import json, os, signal, sys
sys.path.insert(0, "tests/protocols")
from pathlib import Path
from in_process import Federation
from pilot_secure.federation.guard import DiskGuard

folder, attempt, killed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "kill"
federation = Federation(count=5, plain=True)
federation.guards = {name: DiskGuard(folder / name) for name in federation.cohort}
federation.start(attempt=attempt)

def kill_after_two_answers(phase, name, frame):
    if killed and (phase, name) == ("unmask", "client-02"):
        os.kill(os.getpid(), signal.SIGKILL)
    return frame

federation.run(on_reply=kill_after_two_answers)
refused = {name: type(error).__name__ for name, error in federation.errors.items()}
print(json.dumps({"refused": refused, "aborted": federation.server.report.aborted}))
"""


def attempt(folder: Path, number: int, *, kill: bool) -> subprocess.CompletedProcess[str]:
    """One attempt of five clients in a process of its own, whose guards lie in ``folder``."""
    command = [sys.executable, "-c", ATTEMPT, str(folder), str(number), "kill" if kill else "live"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_who_answered_before_a_kill_refuses_after_the_restart(tmp_path: Path) -> None:
    """Two of five had answered when the process was killed: they stay away, the others go on."""
    state = tmp_path / "state"
    killed = attempt(state, 0, kill=True)
    assert killed.returncode == -9, killed.stderr
    again = attempt(state, 1, kill=False)
    told = json.loads(again.stdout)
    assert told["refused"] == dict.fromkeys(["client-01", "client-02"], "AttemptRefused")
    assert told["aborted"].startswith("advertise: 3 clients left, 4 needed")


def test_an_attempt_killed_before_any_answer_can_be_repeated(tmp_path: Path) -> None:
    guard = DiskGuard(tmp_path / "state" / "client-01")
    assert guard.claim("run/round-1/stage-1/joined", b"digest")
    again = DiskGuard(tmp_path / "state" / "client-01")
    assert again.claim("run/round-1/stage-1/joined", b"digest")
    assert not again.claim("run/round-1/stage-1/joined", b"another cohort")
    assert not again.claimed("run/round-1/stage-1/answered")


def _claim(arguments: tuple[str, int]) -> bool:
    return DiskGuard(Path(arguments[0])).claim("label", bytes([arguments[1]]))


def test_of_many_processes_one_claims(tmp_path: Path) -> None:
    folder = str(tmp_path / "state" / "client-01")
    with ProcessPoolExecutor(4) as pool:
        won = list(pool.map(_claim, [(folder, place) for place in range(16)]))
    assert sum(won) == 1


def test_a_claim_cut_off_by_a_kill_counts_as_another(tmp_path: Path) -> None:
    """Refusing is the safe side: nobody can tell any more what was claimed."""
    guard = DiskGuard(tmp_path / "client-01")
    assert guard.claim("label", b"content")
    (path,) = (tmp_path / "client-01").iterdir()
    path.write_bytes(path.read_bytes()[:3])
    assert guard.claimed("label") and not guard.claim("label", b"content")


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    DiskGuard(tmp_path / "state" / "client-01").claim("label", b"content")
    modes = {
        path.relative_to(tmp_path).parts[-1]: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "state").rglob("*")
    }
    assert modes.pop("client-01") == 0o700 and set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_file_and_folder_are_on_the_disk_when_a_claim_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    folder = tmp_path / "state" / "client-01"
    DiskGuard(folder).claim("label", b"content")
    (path,) = folder.iterdir()
    assert synced[-2:] == [str(path), str(folder)]
    assert str(folder.parent) in synced and str(tmp_path) in synced


def test_a_disk_that_refuses_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(RunFolderError, match="state"):
        DiskGuard(tmp_path / "state" / "client-01").claim("label", b"content")
