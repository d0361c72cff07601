"""From finished cells to rows: scores with confidence intervals, differences, prices."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.privacy_accuracy.grid import CLEAR, SECURE, Protection
from benchmarks.tables.figures import Columns, Figure, columns, paired, tasks_of

Grid = Mapping[tuple[str, Protection, int], Cell]
MOMENT = "after_aggregation"


@dataclass(frozen=True)
class Row:
    """A method under a protection: mean score of a task's clients over seeds.

    With the standard deviation over seeds, and half the 95 % confidence interval of the mean.
    """

    method: str
    protection: str
    unit: str | None
    target_epsilon: float | None
    task: str
    mean: float
    sd: float
    half_width: float
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Secure minus clear, paired by seed, with half its 95 % confidence interval."""

    method: str
    task: str
    mean: float
    half_width: float
    seeds: int

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds zero; undecided (no) for fewer than two seeds."""
        return abs(self.mean) <= self.half_width


@dataclass(frozen=True)
class Price:
    """What one protection costs a run: seconds, bytes of all clients, and mean scores."""

    protection: str
    wall_seconds: float
    aggregation_seconds: float
    upload_bytes: int
    download_bytes: int
    scores: dict[str, float]


def by_seed(cells: Grid, folder: Path) -> dict[tuple[str, Protection], dict[int, Columns]]:
    """The scores of every method and protection, by seed."""
    found: dict[tuple[str, Protection], dict[int, Columns]] = {}
    for (method, protection, seed), cell in cells.items():
        result = cell.result(folder)
        if result is not None:
            found.setdefault((method, protection), {})[seed] = columns(result.clients, MOMENT)
    return found


def tasks(cells: Grid, folder: Path) -> list[str]:
    """The tasks of the first finished cell."""
    for cell in cells.values():
        result = cell.result(folder)
        if result is not None:
            return tasks_of(result.clients)
    return []


def score_rows(cells: Grid, folder: Path) -> list[Row]:
    """One row for each method, protection and task."""
    names = tasks(cells, folder)
    rows = []
    for (method, protection), seeds in by_seed(cells, folder).items():
        for task in names:
            figure = Figure.of([values[task] for values in seeds.values()])
            rows.append(
                Row(
                    method,
                    protection.label,
                    protection.unit,
                    protection.epsilon,
                    task,
                    figure.mean,
                    figure.sd,
                    figure.half_width,
                    figure.count,
                )  # fmt: skip
            )
    return rows


def differences(cells: Grid, folder: Path) -> list[Difference]:
    """Secure minus clear for every method and task."""
    scores, names = by_seed(cells, folder), tasks(cells, folder)
    found = []
    for method in dict.fromkeys(method for method, _, _ in cells):
        clear, secure = scores.get((method, CLEAR), {}), scores.get((method, SECURE), {})
        for task, figure in paired(secure, clear).items():
            if task in names:
                found.append(Difference(method, task, figure.mean, figure.half_width, figure.count))
    return found


def prices(cells: Mapping[str, Cell], folder: Path) -> list[Price]:
    """What each protection cost."""
    found = []
    for name, cell in cells.items():
        result = cell.result(folder)
        if result is None:
            continue
        exchanged = [p for p in result.phases if p.phase not in ("train", "evaluate")]
        values = columns(result.clients, MOMENT)
        found.append(
            Price(
                protection=name,
                wall_seconds=result.wall_seconds,
                aggregation_seconds=sum(p.seconds for p in exchanged),
                upload_bytes=sum(p.upload_bytes for p in exchanged),
                download_bytes=sum(p.download_bytes for p in exchanged),
                scores={task: values[task] for task in tasks_of(result.clients)},
            )
        )
    return found


def csv_of(rows: Sequence[Any]) -> str:
    """Dataclasses of one kind as CSV; nothing for none."""
    out = io.StringIO()
    plain = [asdict(row) for row in rows]
    if plain:
        writer = csv.DictWriter(out, plain[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
    return out.getvalue()
