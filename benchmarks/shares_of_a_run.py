"""Where does the time of a secure run go: training, cryptography, checkpoints, transcript?

    OMP_NUM_THREADS=2 python -m benchmarks.shares_of_a_run [-- OPTIONS OF THE SIMULATION]

One run of the default configuration under secure aggregation, in this process. Seconds of its
phases as its summary has them: training and scoring, and the rest, which is secure aggregation
with the engine, checkpoints and transcript that belong to it. What checkpoints and the transcript
take is timed around the calls that write them, and their bytes are counted. All are shares of wall
time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pilot_secure.errors import FederationError
from pilot_secure.federation import checkpoint
from pilot_secure.federation.kept_client import KeptClient
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main as simulate
from pilot_secure.simulation import Simulation
from pilot_secure.transcript import TranscriptWriter

AIM = 0.05
LEARNING = ("train", "evaluate")
WRITERS = {
    "checkpoints": [(Simulation, "keep"), (KeptClient, "_keep")],
    "transcript": [
        (TranscriptWriter, name) for name in ("append", "keep_parameters", "sign_head", "close")
    ],
}
"""The calls that write, by what they write; none calls another of its kind."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rest", nargs="*", help="options of the simulation, after --")
    options = parser.parse_args()
    seconds: dict[str, float] = defaultdict(float)
    written = 0

    def count(path: Path, *given: Any, **named: Any) -> None:
        nonlocal written
        save(path, *given, **named)
        written += path.stat().st_size

    save = checkpoint.save
    with tempfile.TemporaryDirectory() as place, ExitStack() as patches:
        for kind, calls in WRITERS.items():
            for owner, name in calls:
                patches.enter_context(_timed(owner, name, kind, seconds))
        patches.enter_context(patch.object(checkpoint, "save", count))
        run = Path(place) / "run"
        if simulate(["--secure-agg", *options.rest, "--out", str(run)]):
            raise FederationError("the run did not finish.")
        summary = RunFolder.open(run).read_summary()
        recorded = _bytes_of_transcript(run)
    wall = summary.wall_seconds
    learning = sum(p.seconds for p in summary.phases if p.phase in LEARNING)
    secure = sum(p.seconds for p in summary.phases if p.phase not in LEARNING)
    print(f"\nwall time {wall:.1f} s")
    for name, value in (
        ("training and scoring", learning),
        (f"secure aggregation (aim at most {AIM:.0%})", secure),
        ("everything else: loading, features, saving", wall - learning - secure),
    ):
        print(f"{name:<46}{value:>8.2f} s {value / wall:>7.1%}")
    print("of which, wherever they fall,")
    for name, value, size in (
        ("checkpoints", seconds["checkpoints"], written),
        ("transcript", seconds["transcript"], recorded),
    ):
        print(f"  {name:<44}{value:>8.2f} s {value / wall:>7.1%}{size / 1e6:>9.1f} MB")


@contextmanager
def _timed(owner: type, name: str, kind: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the time of a method's calls."""
    method: Callable[..., Any] = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*given, **named)
        finally:
            seconds[kind] += time.perf_counter() - start

    with patch.object(owner, name, call):
        yield


def _bytes_of_transcript(run: Path) -> int:
    files = [run / "transcript.jsonl", run / "heads.jsonl"]
    files += [f for name in ("payloads", "parameters") for f in (run / name).rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
