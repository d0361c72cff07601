"""What does the order of methods hinge on: the samples, the rounds, the connector?

    python -m benchmarks.circumstances --seeds 3 --jobs 2

One run for each method, circumstance and seed on the embedded visual-understanding scenario. A
circumstance changes one thing, for all methods alike; every method keeps the settings that were
tuned for it where nothing is changed. How much tasks and clients differ is a sweep of its own
(``benchmarks.heterogeneity``), and Pilot's M and schedule are Table 5.

Into ``--out`` go cells as they finish, then circumstances.json and .md. Called again, it goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive_int
from benchmarks.cells import ROOT, Cell, merged, run_cells
from benchmarks.heterogeneity import Runs, gather, mean_of_tasks, plus_minus
from benchmarks.tables.figures import MEAN_OF_TASKS, MOMENTS, Figure, paired
from benchmarks.tables.layouts import VISUAL, Row
from benchmarks.tables.presets import PRESETS
from pilot_secure import entry_point
from pilot_secure.files import write_atomically

NAME = "circumstances"
METHODS = ("local", "fedavg", "shepherd", "task_fedavg", "pilot")
PAIRS = (
    ("pilot", "local"),
    ("pilot", "fedavg"),
    ("pilot", "task_fedavg"),
    ("local", "fedavg"),
    ("fedavg", "shepherd"),
)
"""Whose difference is stated: the paper's order, and sharing within a task."""

FROZEN = 1e-6
CIRCUMSTANCES: dict[str, dict[str, Any]] = {
    "as tuned": {},
    "twice the samples": {"data": {"samples_per_client": 128}},
    "twice the rounds": {"federation": {"rounds": 6}},
    "connector frozen": {"training": {"connector_rate_factor": FROZEN}},
}
"""The embedded default has 64 samples a client and three rounds. *Frozen* is a learning rate of
a millionth of LoRA's, for every copy of the connector, so that LoRA alone is trained."""


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    cells = {
        (name, method, seed): _cell(options, name, method, seed)
        for seed in range(options.seeds)
        for name in options.circumstances
        for method in METHODS
    }
    problems = run_cells(list(cells.values()), options.out, options.jobs)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    runs = {moment: gather(options.out, cells, moment) for moment in MOMENTS}
    write_atomically(options.out / f"{NAME}.json", json_text(runs).encode())
    write_atomically(options.out / f"{NAME}.md", markdown(runs).encode())
    print(markdown(runs))
    return 0


def _cell(options: argparse.Namespace, name: str, method: str, seed: int) -> Cell:
    row = Row(f"{method}, {name}", method)
    cell = PRESETS[options.preset].cell(VISUAL, row, seed, secure=False, tuned=not options.untuned)
    own = {"data": {"test_samples": options.test_samples}, "federation": {"score_base": False}}
    model = {"model": {"base": options.base}} if options.base else {}
    return Cell(cell.label, merged(cell.settings, own, CIRCUMSTANCES[name], model))


def differences(methods: Mapping[str, Mapping[int, Any]]) -> dict[str, Figure]:
    """Return the pairs' differences of the mean over tasks, paired by seed."""
    return {
        f"{first} − {other}": paired(methods[first], methods[other])[MEAN_OF_TASKS]
        for first, other in PAIRS
    }


def json_text(runs: Mapping[str, Runs[str]]) -> str:
    """Every run's scores and the pairs' differences; null for what is not defined."""
    content = {
        moment: {
            name: {
                "scores": {method: dict(seeds) for method, seeds in methods.items()},
                "differences": {
                    pair: _plain({**asdict(figure), "ci95": figure.half_width})
                    for pair, figure in differences(methods).items()
                },
            }
            for name, methods in places.items()
        }
        for moment, places in runs.items()
    }
    return json.dumps(content, indent=1) + "\n"


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def markdown(runs: Mapping[str, Runs[str]]) -> str:
    """For each moment: the mean over tasks in percent of Local in the same circumstance, pairs."""
    lines = [
        "Mean over tasks of the score in percent of Local's in the same circumstance, ± standard",
        "deviation over seeds; then differences paired by seed, ± 95 % confidence interval.",
        "",
    ]
    for moment, places in runs.items():
        pairs = [f"{first} − {other}" for first, other in PAIRS]
        lines += [f"{moment.replace('_', ' ').capitalize()}:", ""]
        lines += [f"| | {' | '.join([*METHODS, *pairs])} |"]
        lines += ["|---" * (1 + len(METHODS) + len(pairs)) + "|"]
        for name, methods in places.items():
            cells = [plus_minus(mean_of_tasks(methods[method])) for method in METHODS]
            found = differences(methods)
            cells += [plus_minus(found[pair], found[pair].half_width) for pair in pairs]
            lines += [f"| {' | '.join([name, *cells])} |"]
        lines += [""]
    return "\n".join(lines)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = list(CIRCUMSTANCES)
    parser.add_argument("--circumstances", nargs="+", choices=names, default=names)
    parser.add_argument("--test-samples", type=positive_int, default=100, help="of each client")
    parser.add_argument("--preset", choices=["embedded", "smoke"], default="embedded")
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes, one thread each")
    parser.add_argument("--untuned", action="store_true", help="the configuration's own settings")
    parser.add_argument("--base", default=None, help="another base checkpoint")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / NAME)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
