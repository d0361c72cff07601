"""Compare two runs: ``python -m pilot_secure.compare RUN_A RUN_B``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.console import Console
from rich.table import Table

from pilot_secure import command_line
from pilot_secure.libraries import quieten_libraries
from pilot_secure.reporting import METRIC_LABELS, report_console
from pilot_secure.saved_run import SavedRun

if TYPE_CHECKING:
    from pilot_secure.comparison import Comparison, PartDifference, SelectionDifference

PROGRAM = "python -m pilot_secure.compare"
DESCRIPTION = (
    "Compare two runs, such as a secure one and a clear one that replays its selection: their "
    "adapters, scores, neighbours and weights. Differences are relative to RUN_A."
)


class CompareConfig(BaseModel):
    """What to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_a: Path = Field(description="run folder A", json_schema_extra={"positional": True})
    run_b: Path = Field(description="run folder B", json_schema_extra={"positional": True})
    as_json: bool = Field(
        False, description="print JSON instead of tables", json_schema_extra={"option": "json"}
    )


@command_line.main
def main(argv: Sequence[str] | None = None) -> int:
    """Compare what the command line names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = command_line.parse(CompareConfig, arguments, program=PROGRAM, description=DESCRIPTION)
    a, b = SavedRun.open(config.run_a), SavedRun.open(config.run_b)
    quieten_libraries()
    from pilot_secure.comparison import compare_runs

    comparison = compare_runs(a, b)
    if config.as_json:
        print(comparison.model_dump_json(indent=2))
    else:
        print_comparison(report_console(), a, b, comparison)
    return 0


def print_comparison(console: Console, a: SavedRun, b: SavedRun, comparison: Comparison) -> None:
    """Print all tables, and what cannot stand in one."""
    for letter, run in (("A", a), ("B", b)):
        console.print(
            f"{letter}: {run.folder.path} ({run.summary.status})", highlight=False, soft_wrap=True
        )
    for name, (in_a, in_b) in comparison.settings.items():
        console.print(f"{name}: {in_a} in A, {in_b} in B", highlight=False, soft_wrap=True)
    if comparison.another_base:
        console.print("B has another base model than A: its weights differ", highlight=False)
    for letter, names in (("A", comparison.clients_only_a), ("B", comparison.clients_only_b)):
        if names:
            console.print(f"only {letter} has {', '.join(names)}", highlight=False)
    console.print()
    console.print(adapters_table(comparison))
    for part in comparison.adapters:
        if part.unlike:
            console.print(f"{part.client}, {part.part}: {part.unlike}", highlight=False)
    console.print(scores_table(comparison))
    _print_selections(console, comparison)


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def adapters_table(comparison: Comparison) -> Table:
    """One row a client: largest absolute and relative 2-norm difference of either part."""
    numbers = ("text adapter max", "relative", "connector max", "relative")
    table = _table("differences of adapters", ("client",), numbers)
    rows: dict[str, dict[str, PartDifference]] = {}
    for part in comparison.adapters:
        rows.setdefault(part.client, {})[part.part] = part
    for client, parts in rows.items():
        shown = [parts["text_adapter"], parts["connector"]]
        cells = [_small(x) for p in shown for x in (p.max_absolute, p.relative_norm)]
        table.add_row(client, *cells)
    largest = [
        _most(getattr(p, field) for p in comparison.adapters if p.part == part)
        for part in ("text_adapter", "connector")
        for field in ("max_absolute", "relative_norm")
    ]
    table.add_row("largest", *map(_small, largest), style="bold")
    return table


def scores_table(comparison: Comparison) -> Table:
    """One row a client: the scores after aggregation, and all differences."""
    numbers = ("A", "B", "before B-A", "after local B-A", "after aggr. B-A")
    table = _table("scores after aggregation", ("client", "metric"), numbers)
    for client in dict.fromkeys(score.client for score in comparison.scores):
        scores = [score for score in comparison.scores if score.client == client]
        changes = [
            "–" if s.a is None or s.b is None else f"{s.b - s.a:+.1f}".replace("-0.0", "+0.0")
            for s in scores
        ]
        last = scores[-1]
        both = ["–" if value is None else f"{value:.1f}" for value in (last.a, last.b)]
        table.add_row(client, METRIC_LABELS.get(last.metric, last.metric), *both, *changes)
    return table


def _print_selections(console: Console, comparison: Comparison) -> None:
    selections = comparison.selections
    for letter, count in (("A", comparison.selections_only_a), ("B", comparison.selections_only_b)):
        if count:
            console.print(f"{count} selections are in {letter} only", highlight=False)
    if not selections:
        console.print("no selection is in both runs", highlight=False)
        return
    apart = [s for s in selections if s.only_a or s.only_b]
    weight = _most(s.max_weight_difference for s in selections)
    distance = _most(s.max_distance_difference for s in selections)
    console.print(
        f"neighbours: the same in {len(selections) - len(apart)} of {len(selections)} selections; "
        f"largest difference of a weight {_small(weight)}, of a distance {_small(distance)}",
        highlight=False,
        soft_wrap=True,
    )
    if apart:
        console.print(selections_table(apart))


def selections_table(apart: Iterable[SelectionDifference]) -> Table:
    """One row a selection whose neighbours differ."""
    names = ("client", "only in A", "only in B")
    numbers = ("round", "stage", "gap", "difference of distances")
    table = _table("other neighbours, and the gap between their distances", names, numbers)
    for s in apart:
        table.add_row(
            s.client,
            " ".join(s.only_a) or "–",
            " ".join(s.only_b) or "–",
            str(s.round),
            str(s.stage),
            _small(s.near_tie),
            _small(s.max_distance_difference),
        )
    return table


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _small(value: float | None) -> str:
    """Three digits, for what may be very small."""
    return "–" if value is None else ("0" if value == 0 else f"{value:.2e}")


if __name__ == "__main__":
    raise SystemExit(main())
