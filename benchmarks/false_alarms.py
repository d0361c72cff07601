"""Does the auditor cry wolf? Twenty good runs by the command line, verified and replayed.

    OMP_NUM_THREADS=1 python -m benchmarks.false_alarms [--out runs/good] [--only 4]

Both scenarios, both trust models, both neighbour visibilities, with and without drop-outs: sixteen
runs of two rounds among six clients on an untrained model; then four with other rings and
selections. Every run is escrowed, so that every rule can be checked, M01 and M04 by `replay`. An
alarm is a FAIL, or a rule that `replay` could not check. Exit code 1 after any. The last columns
are how long `verify` takes beside the run itself, and the megabytes of payloads that it reads a
second: of tiny runs, mostly the cost of a message (benchmarks/audit_time.py measures a real one).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.verdicts import AuditReport, Verdict
from pilot_secure.audit.verify import replay, verify
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models.tiny import build_model, build_processor
from pilot_secure.simulate import main as simulate

TINY = {
    "data": {"samples_per_client": 4, "test_samples": 1, "clients_per_task": 2},
    "model": {"lora_rank": 2, "max_new_tokens": 1},
    "training": {"batch_size": 4},
    "federation": {"rounds": 2, "num_neighbours": 3},
    "security": {
        "secure_agg": True,
        "insecure_escrow": True,
        "sketch_size": 64,
        "distance_norm_bound": 1.0,
        "max_colluders": 0,
        "min_contributors": 2,
    },
}
DROP_OUTS = [
    {"client": "client-02", "round": 1, "stage": 1, "phase": "unmask"},
    {"client": "client-04", "round": 2, "stage": 2, "phase": "deliver"},
    {"client": "client-05", "round": 2, "stage": 2, "phase": "train"},
]
EXTRA = {
    "ring of 24 bits": {"security": {"ring_bits": 24}},
    "exact distances": {"security": {"sketch_size": None}},
    "neighbours by gap": {"federation": {"num_neighbours": "auto"}},
    "stragglers": {"security": {"straggler_probability": 0.03}},
}


def good_runs() -> Iterator[tuple[str, dict]]:
    """Name and settings of each run."""
    for scenario, trust, visibility, drop_outs in itertools.product(
        ("visual-understanding", "general-vqa"),
        ("peer", "key_holder"),
        ("hidden", "visible"),
        ([], DROP_OUTS),
    ):
        security = {"distance_trust": trust, "neighbour_visibility": visibility}
        name = f"{scenario}, {trust}, {visibility}, {len(drop_outs)} drop-outs"
        yield name, {"data": {"scenario": scenario}, "security": security | {"dropouts": drop_outs}}
    yield from EXTRA.items()


def carry_out(folder: Path, base: Path, changes: dict) -> None:
    """Run the command line on settings. Raises: SystemExit if it fails."""
    settings = {section: {**TINY.get(section, {}), **changes.get(section, {})} for section in TINY}
    settings["model"]["base"] = str(base)
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings))
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = simulate(["--config", str(config), "--out", str(folder)])
    if code != 0:
        raise SystemExit(f"{folder.name}: the run itself ended with {code}: {told.getvalue()}")


def alarms(report: AuditReport, *, replayed: bool) -> list[str]:
    """Rules that failed; of a replayed run also those that could not be checked."""
    wrong = {Verdict.FAIL, Verdict.NOT_CHECKABLE} if replayed else {Verdict.FAIL}
    return [f"{r.id} {r.verdict}" for r in report.results if r.verdict in wrong]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the runs there (default: temporary)")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the runs, from 1")
    options = parser.parse_args(arguments)
    quieten_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        base = Path(temporary) / "base"
        build_model(hidden=16, layers=1, heads=2).save_pretrained(base)
        build_processor().save_pretrained(base)
        runs = list(enumerate(good_runs(), start=1))
        chosen = [run for run in runs if options.only is None or run[0] in options.only]
        total = sum(audit_one(*run, out, base) for run in chosen)
    print(f"{total} false alarms in {len(chosen)} good runs")
    return 1 if total else 0


def audit_one(number: int, run: tuple[str, dict], out: Path, base: Path) -> int:
    """Carry out one run, print its line, and return its false alarms."""
    name, changes = run
    folder = out / f"good-{number:02d}"
    begun = time.perf_counter()
    carry_out(folder, base, changes)
    ended = time.perf_counter()
    report = verify(Bundle.open(folder))
    verified = time.perf_counter()
    again = replay(Bundle.open(folder), read_escrow(folder / "escrow.json"))
    found = alarms(report, replayed=False) + alarms(again, replayed=True)
    if report.exit_code or again.exit_code:
        found.append(f"exit codes {report.exit_code}, {again.exit_code}")
    seconds = verified - ended
    print(
        f"{number:2d}  {name:<56}{len(report.attempts):3d} attempts {report.records:5d} messages  "
        f"{', '.join(found) or 'no alarm':<12}{seconds / (ended - begun):6.1%} "
        f"{report.payload_bytes / 1e6 / seconds:6.1f} MB/s",
        flush=True,
    )
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
