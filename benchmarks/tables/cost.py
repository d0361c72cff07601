"""What a table cost: seconds of computing, told from its cells."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

CORES = 2


@dataclass(frozen=True)
class Cost:
    """One run's seconds: by the clock, and of computing (None where the cell did not note it).

    The clock's depend on what else the machine did; neither counts the start of the process.
    """

    wall_seconds: float
    cpu_seconds: float | None


Costs = Mapping[str, Mapping[int, Cost]]  # by row and seed


def median_seconds(runs: Mapping[int, Cost]) -> tuple[float, float | None]:
    """Return a row's medians over seeds: by the clock, and of computing where all noted it."""
    cpu = [run.cpu_seconds for run in runs.values()]
    known = [seconds for seconds in cpu if seconds is not None]
    wall = statistics.median(run.wall_seconds for run in runs.values())
    return wall, statistics.median(known) if len(known) == len(cpu) else None


def told(costs: Costs) -> str:
    """Return a sentence on all runs of a table, and what that is on two cores."""
    runs = [run for by_seed in costs.values() for run in by_seed.values()]
    known = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    if len(known) < len(runs):
        wall = sum(run.wall_seconds for run in runs) / 60
        return f"{len(runs)} runs took {wall:.1f} minutes by the clock; computing was not noted."
    minutes = sum(known) / 60
    return (
        f"{len(runs)} runs took {minutes:.1f} minutes of computing, {minutes / CORES:.1f} minutes "
        f"on {CORES} free cores."
    )
