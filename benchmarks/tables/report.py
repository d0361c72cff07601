"""A table as CSV, JSON, Markdown and bars."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.tables.cost import Costs, median_seconds, told
from benchmarks.tables.counts import PAPER
from benchmarks.tables.figures import MEAN_OF_TASKS, MOMENTS, Columns, Figure, paired
from benchmarks.tables.layouts import Table
from pilot_secure.files import write_atomically

Values = Mapping[str, Mapping[int, Columns]]  # by row and seed


@dataclass(frozen=True)
class Filled:
    """A table with its values by moment, row and seed; rows without any seed are missing."""

    table: Table
    values: Mapping[str, Values]
    tasks: Sequence[str]
    metrics: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    costs: Costs = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"table-{self.table.number}"

    def figures(self, moment: str) -> dict[str, dict[str, Figure]]:
        """Return the figure of every row and column."""
        return {
            row: {name: Figure.of([c[name] for c in by_seed.values()]) for name in _names(by_seed)}
            for row, by_seed in self.values[moment].items()
            if by_seed
        }

    def differences(self, moment: str) -> dict[str, dict[str, Figure]]:
        """Return the paired difference of the table's first row to every other."""
        values, first = self.values[moment], self.table.first
        return {
            row: paired(values.get(first, {}), by_seed)
            for row, by_seed in values.items()
            if row != first and first in values
        }


def _names(by_seed: Mapping[int, Columns]) -> list[str]:
    return list(next(iter(by_seed.values())))


def write(filled: Filled, folder: Path) -> None:
    """Write all four files of a table; no bars where no run succeeded."""
    write_atomically(folder / f"{filled.name}.csv", csv_text(filled).encode())
    write_atomically(folder / f"{filled.name}.json", json_text(filled).encode())
    write_atomically(folder / f"{filled.name}.md", markdown(filled).encode())
    if filled.tasks:
        plot(filled, folder / f"{filled.name}.png")


def csv_text(filled: Filled) -> str:
    """One line for each moment, row and column; differences below the figures."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "kind", "moment", "row", "column", "mean", "sd", "ci95", "seeds"])
    for moment in MOMENTS:
        for kind, rows in (
            ("score", filled.figures(moment)),
            ("difference", filled.differences(moment)),
        ):
            for row, figures in rows.items():
                for column, f in figures.items():
                    values = [f"{f.mean:.4f}", f"{f.sd:.4f}", f"{f.half_width:.4f}", f.count]
                    writer.writerow([filled.table.number, kind, moment, row, column, *values])
    for model, counts in filled.counts.items():
        for what, number in counts.items():
            writer.writerow([filled.table.number, "count", "", model, what, number, "", "", ""])
    return out.getvalue()


def json_text(filled: Filled) -> str:
    """Every run's scores, and all figures."""
    content = {
        "table": filled.table.number,
        "title": filled.table.title,
        "scenario": filled.table.scenario,
        "metrics": dict(filled.metrics),
        "moments": {
            moment: {
                "scores": {
                    row: {seed: _or_none(scores) for seed, scores in seeds.items()}
                    for row, seeds in filled.values[moment].items()
                },
                "figures": _plain(filled.figures(moment)),
                "differences": _plain(filled.differences(moment)),
            }
            for moment in MOMENTS
        },
        "counts": {model: dict(counts) for model, counts in filled.counts.items()},
        "costs": {
            row: {seed: asdict(cost) for seed, cost in runs.items()}
            for row, runs in filled.costs.items()
        },
        "settings": {row: dict(settings) for row, settings in filled.settings.items()},
    }
    return json.dumps(content, indent=1) + "\n"


def _plain(
    rows: Mapping[str, Mapping[str, Figure]],
) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        row: {column: _or_none(_all(figure)) for column, figure in figures.items()}
        for row, figures in rows.items()
    }


def _or_none(figures: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no nan."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _all(figure: Figure) -> dict[str, float]:
    return {**asdict(figure), "ci95": figure.half_width}


def markdown(filled: Filled) -> str:
    """The table at both moments, then the differences, then the counts."""
    table = filled.table
    lines = [f"## Table {table.number}. {table.title}", ""]
    metrics = ", ".join(f"{task}: {metric}" for task, metric in filled.metrics.items())
    if filled.tasks:
        what = f"Scenario {table.scenario}; {metrics}. Mean ± standard deviation over seeds."
        lines += [what, ""]
    for moment in MOMENTS if filled.tasks else ():
        figures = filled.figures(moment)
        lines += [f"{_title(moment)} (last column: of {table.measure}'s scores):", ""]
        lines += _grid(
            "", {row: {c: _pm(f, f.sd) for c, f in r.items()} for row, r in figures.items()}
        )
        differences = filled.differences(moment)
        if differences:
            wanted = [*filled.tasks, MEAN_OF_TASKS]
            cells = {
                row: {c: _pm(r[c], r[c].half_width, sign="+") for c in wanted if c in r}
                for row, r in differences.items()
            }
            lines += [f"{table.first} minus each, paired by seed, ± 95 % confidence interval:", ""]
            lines += _grid("", cells)
    if filled.costs:
        lines += [f"Settings and seconds of a run (median over seeds). {told(filled.costs)}", ""]
        lines += _grid("", {row: _settings_and_cost(filled, row) for row in filled.costs})
    if filled.counts:
        lines += ["Parameters of one client, in millions:", "", *_counts(filled.counts)]
    return "\n".join(lines) + "\n"


def _title(moment: str) -> str:
    return {
        "after_local": "After the last local training",
        "after_aggregation": "After the last aggregation",
    }[moment]


def _pm(figure: Figure, spread: float, sign: str = "") -> str:
    after = "" if math.isnan(spread) else f" ± {spread:.1f}"
    return "–" if math.isnan(figure.mean) else f"{figure.mean:{sign}.1f}{after}"


def _grid(corner: str, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {corner} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {label} | " + " | ".join(row.get(name, "–") for name in names) + " |"
        for label, row in rows.items()
    ]
    return [*lines, ""]


def _settings_and_cost(filled: Filled, row: str) -> dict[str, str]:
    wall, cpu = median_seconds(filled.costs[row])
    seconds = {"s, clock": f"{wall:.0f}", "s, computing": "–" if cpu is None else f"{cpu:.0f}"}
    return {**filled.settings.get(row, {}), **seconds}


def _counts(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    cells = {
        model: {what: f"{number / 1e6:.4g}" for what, number in row.items()}
        for model, row in counts.items()
    }
    cells["the paper states"] = {what: f"{number / 1e6:.4g}" for what, number in PAPER.items()}
    return _grid("", cells)


def plot(filled: Filled, path: Path) -> None:
    """One panel a task: bars of both moments, with the standard deviation over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = {moment: filled.figures(moment) for moment in MOMENTS}
    rows = [row for row in filled.values[MOMENTS[0]] if row in figures[MOMENTS[0]]]
    panels = [*filled.tasks, MEAN_OF_TASKS]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.4 * len(panels), 0.4 * len(rows) + 2))
    for axis, column in zip(axes, panels, strict=True):
        for shift, moment in ((0.2, MOMENTS[0]), (-0.2, MOMENTS[1])):
            cells = [figures[moment][row].get(column) for row in rows]
            means = [cell.mean if cell else math.nan for cell in cells]
            errors = [0.0 if cell is None or math.isnan(cell.sd) else cell.sd for cell in cells]
            places = [len(rows) - 1 - i + shift for i in range(len(rows))]
            axis.barh(places, means, 0.38, xerr=errors, label=moment.replace("_", " "))
        axis.set_title(column, fontsize=9)
        axis.set_yticks(range(len(rows)), reversed(rows) if axis is axes[0] else [""] * len(rows))
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())
