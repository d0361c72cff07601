"""From cells to a table's figures: columns, means over seeds, paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from benchmarks.cells import Clients

MOMENTS = ("after_local", "after_aggregation")
MEAN_OF_TASKS = "mean, % of reference"

Columns = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """Mean, standard deviation (nan for one seed) and number of values."""

    mean: float
    sd: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Return the figure of some seeds' values; nan if one of them is not defined."""
        if any(map(math.isnan, values)):
            return cls(math.nan, math.nan, len(values))
        sd = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), sd, len(values))

    @property
    def half_width(self) -> float:
        """Half of the mean's 95 % confidence interval (Student's t); nan for one value."""
        if self.count < 2:
            return math.nan
        return float(student.ppf(0.975, self.count - 1)) * self.sd / math.sqrt(self.count)


def columns(clients: Clients, moment: str) -> Columns:
    """Return the scores of one run: each client's, and each task's mean.

    Raises: ValueError if a client has no score at that moment.
    """
    result: Columns = {}
    tasks: dict[str, list[float]] = {}
    for client in clients:
        score = getattr(client, moment)
        if score is None:
            raise ValueError(f"{client.client} has no score {moment}")
        result[client.client] = score
        tasks.setdefault(client.task, []).append(score)
    return {**result, **{task: statistics.fmean(scores) for task, scores in tasks.items()}}


def tasks_of(clients: Clients) -> list[str]:
    """Return the tasks, in order."""
    return list(dict.fromkeys(client.task for client in clients))


def in_percent(
    rows: Mapping[str, Mapping[int, Columns]], reference: str, tasks: Sequence[str]
) -> dict[str, dict[int, Columns]]:
    """Add the mean over tasks of the score in percent of the reference row's, seed by seed.

    Scores of different metrics do not add up: CIDEr x 100 goes to 1000, an accuracy to 100. A task
    that the reference scores 0 in with any seed counts with none; without a task, the mean is nan.
    Seeds that the reference lacks are left out.
    """
    measure = rows.get(reference, {})
    known = [task for task in tasks if all(own[task] > 0 for own in measure.values())]
    return {
        row: {
            seed: {**own, MEAN_OF_TASKS: _mean_percent(own, measure[seed], known)}
            for seed, own in seeds.items()
            if seed in measure
        }
        for row, seeds in rows.items()
    }


def _mean_percent(own: Columns, reference: Columns, tasks: Sequence[str]) -> float:
    percent = [100 * own[task] / reference[task] for task in tasks]
    return statistics.fmean(percent) if percent else math.nan


def paired(first: Mapping[int, Columns], other: Mapping[int, Columns]) -> dict[str, Figure]:
    """Return first - other in every column, over the seeds that both have."""
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return {}
    return {
        name: Figure.of([first[seed][name] - other[seed][name] for seed in seeds])
        for name in first[seeds[0]]
    }
