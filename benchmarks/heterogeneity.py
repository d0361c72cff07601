"""Which method wins at which heterogeneity, across tasks and within a task?

    python -m benchmarks.heterogeneity --seeds 3 --jobs 2

One run for each method, setting and seed on the embedded visual-understanding scenario. *Across*
is how far tasks differ (``look_strength`` and ``convention_strength``, one value for both),
*within* how far the clients of a task differ (``domain_strength``); at 0 and 0 all clients draw
from one distribution of images and answers, and differ by the questions they ask alone. Every
method has the settings that were tuned for it at the scenario's own strengths (1 across, 0.25
within), the same at every place of the grid.

Into ``--out`` go cells as they finish, then heterogeneity.csv, .json, .md and .png. Called again,
it goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.arguments import positive_int
from benchmarks.cells import ROOT, Cell, merged, run_cells
from benchmarks.tables.figures import (
    MEAN_OF_TASKS,
    MOMENTS,
    Columns,
    Figure,
    columns,
    in_percent,
    paired,
    tasks_of,
)
from benchmarks.tables.layouts import VISUAL, Row
from benchmarks.tables.presets import PRESETS
from pilot_secure import entry_point
from pilot_secure.federation.methods import METHODS
from pilot_secure.files import write_atomically

REFERENCE, MAIN, POOLED = "local", "pilot", "centralized"
ACROSS, WITHIN = (0.0, 0.5, 1.0), (0.0, 1.0)
NAME = "heterogeneity"

Place = tuple[float, float]  # across, within
P = TypeVar("P", bound=Hashable)  # what a contest is held at: a place, or a circumstance
Runs = Mapping[P, Mapping[str, Mapping[int, Columns]]]  # by method and seed


@dataclass(frozen=True)
class Contest:
    """A place's best method that leaves data where they are, and its lead over the next one."""

    first: str
    second: str
    lead: Figure

    @property
    def is_clear(self) -> bool:
        """Whether the lead's 95 % confidence interval leaves zero out."""
        return self.lead.mean > self.lead.half_width  # false for one seed, whose width is nan


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    cells = {
        (place, method, seed): _cell(options, place, method, seed)
        for seed in range(options.seeds)
        for place in ((a, w) for w in options.within for a in options.across)
        for method in options.methods
    }
    problems = run_cells(list(cells.values()), options.out, options.jobs)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    runs = {moment: gather(options.out, cells, moment) for moment in MOMENTS}
    write(runs, options.out)
    print(markdown(runs))
    return 0


def _cell(options: argparse.Namespace, place: Place, method: str, seed: int) -> Cell:
    across, within = place
    strengths = {
        "look_strength": across,
        "convention_strength": across,
        "domain_strength": within,
        "test_samples": options.test_samples,
    }
    model = {"model": {"base": options.base}} if options.base else {}
    row = Row(f"{method}, across {across:g}, within {within:g}", method)
    cell = PRESETS[options.preset].cell(VISUAL, row, seed, secure=False, tuned=not options.untuned)
    own = {"data": strengths, "federation": {"score_base": False}}
    return Cell(cell.label, merged(cell.settings, own, model))


def gather(folder: Path, cells: Mapping[tuple[P, str, int], Cell], moment: str) -> Runs[P]:
    """Read the scores at a moment, with the mean over tasks in percent of the reference's run."""
    found: dict[P, dict[str, dict[int, Columns]]] = {}
    tasks: list[str] = []
    for (place, method, seed), cell in cells.items():
        result = cell.result(folder)
        if result is not None:
            tasks = tasks_of(result.clients)
            scores = columns(result.clients, moment)
            found.setdefault(place, {}).setdefault(method, {})[seed] = scores
    return {
        place: in_percent(methods, REFERENCE, tasks)
        for place, methods in found.items()
        if methods.get(REFERENCE)
    }


def contest(methods: Mapping[str, Mapping[int, Columns]]) -> Contest:
    """Return who is first by the mean over tasks, and the lead paired by seed.

    Centralized training is left out: it has all clients' data in one place.
    """
    rivals = {name: seeds for name, seeds in methods.items() if name != POOLED}
    means = {name: mean_of_tasks(seeds).mean for name, seeds in rivals.items()}
    first, second = sorted(means, key=lambda name: -means[name])[:2]
    return Contest(first, second, paired(methods[first], methods[second])[MEAN_OF_TASKS])


def mean_of_tasks(seeds: Mapping[int, Columns]) -> Figure:
    """Return the mean over tasks, over seeds."""
    return Figure.of([scores[MEAN_OF_TASKS] for scores in seeds.values()])


def write(runs: Mapping[str, Runs[Place]], folder: Path) -> None:
    """Write the four files."""
    for suffix, text in (("csv", csv_text(runs)), ("json", json_text(runs))):
        write_atomically(folder / f"{NAME}.{suffix}", text.encode())
    write_atomically(folder / f"{NAME}.md", markdown(runs).encode())
    write_atomically(folder / f"{NAME}.png", plot(runs))


def csv_text(runs: Mapping[str, Runs[Place]]) -> str:
    """One line for each moment, place, method and column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["moment", "across", "within", "method", "column", "mean", "sd", "seeds"])
    for moment, places in runs.items():
        for place, methods in places.items():
            for method, seeds in methods.items():
                for column in next(iter(seeds.values())):
                    figure = Figure.of([scores[column] for scores in seeds.values()])
                    values = [f"{figure.mean:.4f}", f"{figure.sd:.4f}", figure.count]
                    writer.writerow([moment, *place, method, column, *values])
    return out.getvalue()


def json_text(runs: Mapping[str, Runs[Place]]) -> str:
    """Every run's scores, and who is first at every place."""
    content = {
        moment: [
            {
                "across": across,
                "within": within,
                "scores": {method: dict(seeds) for method, seeds in methods.items()},
                "first": _plain(contest(methods)),
            }
            for (across, within), methods in places.items()
        ]
        for moment, places in runs.items()
    }
    return json.dumps(content, indent=1) + "\n"


def _plain(found: Contest) -> dict[str, object]:
    values = {**asdict(found.lead), "ci95": found.lead.half_width}
    lead = {name: None if math.isnan(value) else value for name, value in values.items()}
    return {"method": found.first, "ahead_of": found.second, "lead": lead}


def markdown(runs: Mapping[str, Runs[Place]]) -> str:
    """Two grids for each moment: the mean over tasks in percent of Local, and fixed pairs."""
    lines = [
        "Mean over tasks of the score in percent of Local's, ± standard deviation over seeds;",
        f"below it {MAIN} minus the others, paired by seed, ± 95 % confidence interval. Who is",
        f"first ({POOLED} left out) is chosen by the same runs that its lead is taken from, so",
        "that a lead is a little too large; *clear* where its interval leaves zero out.",
        "",
    ]
    for moment, places in runs.items():
        names = list(next(iter(places.values())))
        lines += [f"{moment.replace('_', ' ').capitalize()}:", ""]
        scores = {place: _scores(methods, names) for place, methods in places.items()}
        lines += _grid([*names, "first", "its lead"], scores)
        others = [name for name in names if name != MAIN]
        if MAIN in names:
            differences = {
                place: [_difference(methods[MAIN], methods[name]) for name in others]
                for place, methods in places.items()
            }
            lines += _grid([f"{MAIN} − {name}" for name in others], differences)
    return "\n".join(lines)


def _scores(methods: Mapping[str, Mapping[int, Columns]], names: Sequence[str]) -> list[str]:
    best = contest(methods)
    clear = ", clear" if best.is_clear else ""
    lead = f"{_difference(methods[best.first], methods[best.second])} to {best.second}{clear}"
    return [*(plus_minus(mean_of_tasks(methods[name])) for name in names), best.first, lead]


def _difference(one: Mapping[int, Columns], other: Mapping[int, Columns]) -> str:
    found = paired(one, other)[MEAN_OF_TASKS]
    return plus_minus(found, found.half_width)


def _grid(heading: Sequence[str], rows: Mapping[Place, Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(['across', 'within', *heading])} |"]
    lines += ["|---" * (len(heading) + 2) + "|"]
    for (across, within), cells in rows.items():
        lines += [f"| {' | '.join([f'{across:g}', f'{within:g}', *cells])} |"]
    return [*lines, ""]


def plus_minus(figure: Figure, spread: float | None = None) -> str:
    """Return a figure with its spread (default: standard deviation), where it has one."""
    after = figure.sd if spread is None else spread
    return f"{figure.mean:.1f}" + ("" if math.isnan(after) else f" ± {after:.1f}")


def plot(runs: Mapping[str, Runs[Place]]) -> bytes:
    """A panel for each moment and strength within tasks; a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    within = sorted({place[1] for places in runs.values() for place in places})
    figure, axes = pyplot.subplots(
        len(runs),
        len(within),
        figsize=(4 * len(within), 3 * len(runs)),
        squeeze=False,
        layout="constrained",
    )
    for row, (moment, places) in zip(axes, runs.items(), strict=True):
        for axis, strength in zip(row, within, strict=True):
            chosen = sorted(place for place in places if place[1] == strength)
            for method in next(iter(places.values())):
                figures = [mean_of_tasks(places[place][method]) for place in chosen]
                spread = [0.0 if math.isnan(f.sd) else f.sd for f in figures]
                xs, ys = [place[0] for place in chosen], [f.mean for f in figures]
                axis.errorbar(xs, ys, spread, label=method, marker="o", capsize=2)
            axis.set_title(f"{moment.replace('_', ' ')}, within {strength:g}", fontsize=9)
            axis.set_xlabel("across")
            axis.set_ylabel(MEAN_OF_TASKS.replace("reference", "Local"), fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=tuple(METHODS))
    parser.add_argument("--across", type=float, nargs="+", default=ACROSS, help="strengths, 0..1")
    parser.add_argument("--within", type=float, nargs="+", default=WITHIN, help="strengths, 0..1")
    parser.add_argument("--test-samples", type=positive_int, default=100, help="of each client")
    parser.add_argument("--preset", choices=["embedded", "smoke"], default="embedded")
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes, one thread each")
    parser.add_argument("--untuned", action="store_true", help="the configuration's own settings")
    parser.add_argument("--base", default=None, help="another base checkpoint")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / NAME)
    options = parser.parse_args(argv)
    if REFERENCE not in options.methods or len(set(options.methods) - {POOLED}) < 2:
        parser.error(
            f"--methods: expected {REFERENCE}, which scores are stated in, and a rival other than "
            f"{POOLED}"
        )
    return options


if __name__ == "__main__":
    raise SystemExit(main())
