"""Thirty runs of about half a minute, each killed at a random moment and taken up again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import adapters, check_record

CONFIG = ["--samples-per-client", "32", "--test-samples", "60", "--rounds", "3"]
MODES = {"clear": ["--no-secure-agg"], "secure": ["--secure-agg"]}
MOMENTS = 30


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pilot_secure.simulate", *options]


def finish(*options: str) -> None:
    subprocess.run(command(*options), check=True, capture_output=True, timeout=3600)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run in the clear that nobody kills, and the seconds that it took once it had begun."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = start(*CONFIG, *MODES["clear"], "--out", str(path))
    began = await_beginning(run, path)
    assert run.wait() == 0
    return path, time.monotonic() - began


def start(*options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def await_beginning(run: subprocess.Popen[bytes], path: Path) -> float:
    """Return when there was something to go on with."""
    while not (path / "summary.json").exists():
        assert run.poll() is None
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
    moment: int, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    """In the clear, as the one that nobody killed; under masks, as its own selection replayed."""
    whole, seconds = uninterrupted
    path = tmp_path / "run"
    mode = MODES["secure" if moment % 2 else "clear"]
    run = start(*CONFIG, *mode, "--out", str(path))
    await_beginning(run, path)
    time.sleep(random.Random(moment).uniform(0, 0.9 * seconds))
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    finish("--resume", str(path))
    check_record(path)
    expected = whole
    if moment % 2:
        expected = tmp_path / "replayed"
        replay = [*CONFIG, *MODES["clear"], "--replay-selection", str(path)]
        finish(*replay, "--out", str(expected))
    assert adapters(path) == adapters(expected)
