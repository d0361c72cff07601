"""Does protection change the scores, and does training help? Several seeds, both sides in one run.

For every seed the default scenario is run twice, under secure aggregation and in the clear (each
with its own selection), in processes of their own. Printed are, per task and in the mean: the
score before, after local training and after the last aggregation, and the paired difference
secure - clear with its 95 % confidence interval over seeds; then wall seconds and their ratio.

    python -m benchmarks.secure_against_clear --seeds 5
    python -m benchmarks.secure_against_clear --seeds 3 --config configs/general-vqa.yaml
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import Summary

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as place:
        runs = {
            secure: [
                _run(Path(place) / f"{seed}-{secure}", seed, secure, options)
                for seed in range(options.seeds)
            ]
            for secure in (True, False)
        }
    tasks = list(dict.fromkeys(client.task for client in runs[True][0].clients))
    print(f"{options.seeds} seeds, {options.config or 'default configuration'}")
    print(f"{'task':<22}{'before':>8}{'local':>8}{'aggr.':>8}{'clear aggr.':>13}{'difference':>22}")
    for task in [*tasks, None]:
        _print_task(task, runs)
    seconds = {s: statistics.mean(r.wall_seconds for r in runs[s]) for s in runs}
    ratio = seconds[True] / seconds[False]
    print(
        f"wall seconds: secure {seconds[True]:.1f}, clear {seconds[False]:.1f}, ratio {ratio:.2f}"
    )
    peak = max(r.peak_memory_bytes for r in runs[True]) / 2**20
    print(f"peak memory of a secure run: {peak:.0f} MiB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--config", default=None)
    parser.add_argument("rest", nargs="*", help="further options of the simulation, after --")
    options = parser.parse_args()
    if not 2 <= options.seeds <= max(T_95):
        parser.error(f"--seeds is {options.seeds}: expected 2 to {max(T_95)}")
    return options


def _run(out: Path, seed: int, secure: bool, options: argparse.Namespace) -> Summary:
    command = [sys.executable, "-m", "pilot_secure.simulate", "--seed", str(seed)]
    command += ["--out", str(out), "--secure-agg" if secure else "--no-secure-agg"]
    command += ["--config", options.config] if options.config else []
    subprocess.run([*command, *options.rest], check=True, capture_output=True)
    return RunFolder.open(out).read_summary()


def _mean(summary: Summary, task: str | None, moment: str) -> float:
    clients = [c for c in summary.clients if task in (None, c.task)]
    return statistics.mean(getattr(client, moment) for client in clients)


def _print_task(task: str | None, runs: dict[bool, list[Summary]]) -> None:
    columns = [
        statistics.mean(_mean(summary, task, moment) for summary in runs[True])
        for moment in ("before", "after_local", "after_aggregation")
    ]
    columns.append(statistics.mean(_mean(s, task, "after_aggregation") for s in runs[False]))
    differences = [
        _mean(a, task, "after_aggregation") - _mean(b, task, "after_aggregation")
        for a, b in zip(runs[True], runs[False], strict=True)
    ]
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) * T_95[len(differences)]
    figures = "".join(f"{value:>8.1f}" for value in columns[:3]) + f"{columns[3]:>13.1f}"
    name = task or "mean of tasks"
    print(f"{name:<22}{figures}{statistics.mean(differences):>+13.2f} ± {spread:.2f}")


if __name__ == "__main__":
    main()
