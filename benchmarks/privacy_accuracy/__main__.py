"""Accuracy against privacy: run the grid of a configuration, audit it, and write one page.

    python -m benchmarks.privacy_accuracy --config configs/benchmarks/privacy-accuracy-small.yaml

Cells run in processes; what is finished is kept, and called again the command goes on where it was.
Into --out go scores.csv, differences.csv, price.csv, results.json, curve.png, audit.png, cost.png
and index.html with all of them. Exit code 1 if a cell failed or a claim was refuted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive_int
from benchmarks.cells import ROOT, Cell, run_cells
from benchmarks.privacy_accuracy import page, results
from benchmarks.privacy_accuracy.audits import audited, private_ledgers
from benchmarks.privacy_accuracy.grid import GridConfig, cell, priced_cells, protections
from pilot_secure import entry_point
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.files import write_atomically


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    """Run, audit, write."""
    options = _options(argv)
    file = str(options.config)
    grid = validate(GridConfig, read_config_file(options.config), file=file)
    out: Path = options.out or ROOT / "runs" / options.config.stem
    cells = {
        (method, protection, seed): cell(grid, method, protection, seed)
        for method in grid.methods
        for protection in protections(grid, method)
        for seed in range(grid.seeds)
    }
    priced = priced_cells(grid)
    everything = [*cells.values(), *priced.values()]
    problems = run_cells(everything, out, options.jobs)
    ledgers = private_ledgers(everything, out)
    audits = audited(ledgers, out, options.jobs)
    caveats = list(dict.fromkeys(c for ledger in ledgers.values() for c in ledger.caveats))
    refuted = write(out, options.config, cells, priced, audits, caveats)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems or refuted))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.privacy_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the grid")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/NAME-OF-THE-CONFIG")
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes, one thread each")
    return parser.parse_args(argv)


def write(
    out: Path,
    config: Path,
    cells: results.Grid,
    priced: dict[str, Cell],
    audits: dict[str, dict[str, Any]],
    caveats: Sequence[str],
) -> bool:
    """Write every file; return whether a claim was refuted."""
    rows, differences = results.score_rows(cells, out), results.differences(cells, out)
    prices = results.prices(priced, out)
    labels = {c.id: c.label for c in [*priced.values(), *cells.values()]}
    by_label = {labels[key]: found for key, found in audits.items()}
    phases = {
        name: [phase.model_dump() for phase in found.phases]
        for name, c in priced.items()
        if (found := c.result(out)) is not None
    }
    for name, entries in (("scores", rows), ("differences", differences), ("price", prices)):
        write_atomically(out / f"{name}.csv", results.csv_of(entries).encode())
    content = {
        "scores": [asdict(row) for row in rows],
        "differences": [asdict(entry) for entry in differences],
        "prices": [asdict(entry) for entry in prices],
        "audits": by_label,
        "caveats": caveats,
    }
    write_atomically(out / "results.json", (json.dumps(content, indent=1) + "\n").encode())
    plots = {}
    if rows:
        plots["curve"] = page.curve(rows)
    if audits:
        plots["audit"] = page.audit_plot(list(audits.values()))
    if phases:
        plots["cost"] = page.cost_plot(phases)
    for name, image in plots.items():
        write_atomically(out / f"{name}.png", image)
    tables = {
        "Scores": page.score_table(rows),
        "Secure against clear": page.difference_table(differences),
        "Audit": page.audit_table(by_label),
        "Price of each protection": page.price_table(prices),
    }
    parts: list[tuple[str, str | bytes]] = [("Configuration", f"<pre>{config.read_text()}</pre>")]
    headings = {"curve": "Accuracy against epsilon", "audit": "Empirical against claimed epsilon"}
    parts += [(headings.get(n, "Bytes and seconds of each phase"), p) for n, p in plots.items()]
    parts += [(name, page.table(*content)) for name, content in tables.items()]
    if caveats:
        parts.append(("What epsilon does not cover", page.sentences(caveats)))
    write_atomically(out / "index.html", page.page("Accuracy against privacy", parts).encode())
    for name, (header, lines) in tables.items():
        print(f"\n{name}\n" + "\n".join("\t".join(line) for line in [header, *lines]))
    for caveat in caveats:
        print(f"privacy: {caveat}")
    return any(found["verdict"] == "FAIL" for found in audits.values())


if __name__ == "__main__":
    raise SystemExit(main())
