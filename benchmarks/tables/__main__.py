"""Fill the paper's tables with this project's figures.

    python -m benchmarks.tables --tables 1 2 --preset embedded --seeds 3 --jobs 2
    python -m benchmarks.tables --tables 4 --counts-only
    python -m benchmarks.tables --tables 7     # beyond the paper: configs/visual-shift.yaml

One run for each row and seed, in the clear unless ``--secure-agg``, with the settings that
``benchmarks.tune`` chose for the row's method; rows without any are named, and have the
configuration's own. Results go into ``--out``: cells
as they finish, then table-N.csv, .json, .md and .png, and tables.md with all of them. Called again,
it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence, Set
from pathlib import Path

from benchmarks.arguments import positive_int
from benchmarks.cells import ROOT, Cell, merged, run_cells
from benchmarks.tables.cost import Cost
from benchmarks.tables.counts import all_counts
from benchmarks.tables.figures import MOMENTS, Columns, columns, in_percent, tasks_of
from benchmarks.tables.layouts import TABLES, Row, Table
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.report import Filled, markdown, write
from benchmarks.tables.settings import shown_settings
from pilot_secure import entry_point
from pilot_secure.files import write_atomically

BASE = "Base model"


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    tables = [TABLES[number] for number in options.tables]
    if options.counts_only:
        print(markdown(Filled(TABLES[4], {m: {} for m in MOMENTS}, [], {}, all_counts())))
        return 0
    cells = {
        (table.number, row.label, seed): _cell(options, table, row, seed)
        for table in tables
        for row in table.rows
        for seed in range(options.seeds)
    }
    untuned = {(table.number, row.label) for table, row in _untuned(options, tables)}
    problems = run_cells(list(cells.values()), options.out, options.jobs)
    written = [fill(options.out, table, cells, untuned) for table in tables]
    for filled in written:
        write(filled, options.out)
    text = "\n".join(markdown(filled) for filled in written)
    write_atomically(options.out / "tables.md", text.encode())
    print(text)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", type=int, nargs="+", choices=sorted(TABLES), default=[1, 2])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="embedded")
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/tables-PRESET")
    parser.add_argument("--secure-agg", action="store_true", help="aggregate under masks and CKKS")
    parser.add_argument("--untuned", action="store_true", help="the configurations' own settings")
    parser.add_argument("--base", default=None, help="another base checkpoint")
    parser.add_argument("--counts-only", action="store_true", help="Table 4's parameters, no runs")
    options = parser.parse_args(argv)
    files = PRESETS[options.preset].files
    for number in options.tables:
        if TABLES[number].scenario not in files:
            parser.error(f"--tables {number}: preset {options.preset} has no such scenario")
    options.out = options.out or ROOT / "runs" / f"tables-{options.preset}"
    return options


def _cell(options: argparse.Namespace, table: Table, row: Row, seed: int) -> Cell:
    preset = PRESETS[options.preset]
    cell = preset.cell(
        table.scenario, row, seed, secure=options.secure_agg, tuned=not options.untuned
    )
    if options.base is None:
        return cell
    return Cell(cell.label, merged(cell.settings, {"model": {"base": options.base}}))


def _untuned(options: argparse.Namespace, tables: Sequence[Table]) -> list[tuple[Table, Row]]:
    """Return the rows without tuned settings, and name them on standard error."""
    preset, found = PRESETS[options.preset], []
    for table in tables:
        rows = [r for r in table.rows if options.untuned or not preset.is_tuned(table.scenario, r)]
        found += [(table, row) for row in rows]
        if rows and preset.tuned and not options.untuned:
            labels = ", ".join(row.label for row in rows)
            labels = "all rows" if len(rows) == len(table.rows) else labels
            file = preset.files[table.scenario]
            print(
                f"table {table.number}: not tuned on {table.scenario}, so with the settings of "
                f"configs/{file}: {labels} (python -m benchmarks.tune)",
                file=sys.stderr,
            )
    return found


def fill(
    folder: Path,
    table: Table,
    cells: dict[tuple[int, str, int], Cell],
    untuned: Set[tuple[int, str]],
) -> Filled:
    """Read a table's cells; a row and seed that failed is left out."""
    values: dict[str, dict[str, dict[int, Columns]]] = {moment: {} for moment in MOMENTS}
    tasks: list[str] = []
    metrics: dict[str, str] = {}
    costs: dict[str, dict[int, Cost]] = {}
    chosen: dict[str, dict[str, str]] = {}
    for (number, label, seed), cell in cells.items():
        result = cell.result(folder) if number == table.number else None
        if result is None:
            continue
        clients = result.clients
        costs.setdefault(label, {})[seed] = Cost(result.wall_seconds, result.cpu_seconds)
        chosen[label] = shown_settings(cell.config, tuned=(number, label) not in untuned)
        tasks = tasks_of(clients)
        metrics = {client.task: client.metric for client in clients}
        for moment in MOMENTS:
            values[moment].setdefault(label, {})[seed] = columns(clients, moment)
            if clients[0].before is not None:
                values[moment].setdefault(BASE, {})[seed] = columns(clients, "before")
    measured = {m: in_percent(rows, table.measure, tasks) for m, rows in values.items()}
    counts = all_counts() if table.number == 4 else {}
    return Filled(table, measured, tasks, metrics, counts, costs, chosen)


if __name__ == "__main__":
    raise SystemExit(main())
