"""What does bounding the weights of neighbours cost in accuracy, and what does it protect?

A contributor weighs its adapter by s/d, never below 1/4 of the nearest neighbour's weight. On the
default adapters s/d is at least 0.7, so the bound acts only where one neighbour is much nearer than
the others. Here client-02 is made a near twin of client-01: it trains on the same samples, in the
same order, with the share ``--differing`` of them exchanged for its own (0 makes the two equal).
Each seed is run under secure aggregation with the bound and without it, on the same twin. Printed
are the smallest s/d among chosen neighbours, the scores after the last aggregation of the twins and
of all clients, and the leverage of the most exposed client in what one other client sees.

    python -m benchmarks.weight_bound --seeds 3
    python -m benchmarks.weight_bound --seeds 2 --quick
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from datasets import concatenate_datasets
from rich.console import Console

from pilot_secure.config import SimulationConfig
from pilot_secure.data import ClientData
from pilot_secure.federation import worker
from pilot_secure.libraries import quieten_libraries
from pilot_secure.progress import RunProgress
from pilot_secure.run_data import load_data
from pilot_secure.run_folder import RunFolder
from pilot_secure.saved_run import SavedRun
from pilot_secure.simulation import prepare
from pilot_secure.summary import Summary
from protocols.ring import WEIGHT_STEP
from protocols.selection import MIN_WEIGHT

ORIGINAL, TWIN = "client-01", "client-02"
BOUNDED_IN = ("protocols.selection", "protocols.client_deliver", "protocols.leakage")
QUICK = {"samples_per_client": 24, "test_samples": 40}


@dataclass(frozen=True)
class Outcome:
    """One run: scores after aggregation, smallest s/d and weight, worst leverage."""

    twins: float
    everybody: float
    least_ratio: float
    least_weight: float
    leverage: float


def main() -> None:
    options = _options()
    quieten_libraries()
    print(f"{'seed':>4}{'bound':>10}{'least s/d':>11}{'least u':>9}", end="")
    print(f"{'twins':>9}{'all':>9}{'leverage':>10}")
    pairs = []
    for seed in range(options.seeds):
        pair = [_run(seed, bound, options) for bound in (MIN_WEIGHT, WEIGHT_STEP)]
        pairs.append(pair)
        for name, outcome in zip(("1/4", "none"), pair, strict=True):
            print(
                f"{seed:>4}{name:>10}{outcome.least_ratio:>11.3f}{outcome.least_weight:>9.3f}"
                f"{outcome.twins:>9.1f}{outcome.everybody:>9.1f}{outcome.leverage:>10.3f}"
            )
    for what in ("twins", "everybody", "leverage"):
        gaps = [getattr(bounded, what) - getattr(free, what) for bounded, free in pairs]
        spread = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
        mean = statistics.mean(gaps)
        print(f"bound minus none, {what}: {mean:+.3f} (standard error {spread:.3f})")


def _run(seed: int, bound: float, options: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        config = SimulationConfig.model_validate(
            {
                "run": {"seed": seed, "out": Path(place) / "run"},
                "data": QUICK if options.quick else {},
                "federation": {"num_neighbours": options.neighbours, "rounds": options.rounds},
                "security": {"secure_agg": True, "sketch_size": None},
            }
        )
        folder = RunFolder.create(config.run.out, config.run_name)
        with _near_twin(options.differing), _bound(bound):
            progress = RunProgress(Console(file=io.StringIO()))
            simulation = prepare(config, folder, progress)
            folder.write_config(config, command="benchmarks/weight_bound.py")
            with folder.recording(simulation.summary):
                simulation.run()
        return _outcome(folder)


def _outcome(folder: RunFolder) -> Outcome:
    summary, ratios, weights = folder.read_summary(), [], []
    for record in SavedRun.open(folder.path).selections().values():
        near = [record.distances[name] for name in record.neighbours]
        ratios.append(min(near) / max(near))
        weights.append(min(record.weights))
    return Outcome(
        twins=_mean(summary, {ORIGINAL, TWIN}),
        everybody=_mean(summary, {client.client for client in summary.clients}),
        least_ratio=min(ratios),
        least_weight=min(weights),
        leverage=max(
            entry["leverage"]
            for aggregation in summary.leakage.model_extra["aggregations"]
            for entry in aggregation["worst"]
            if entry["vector"] == "text_adapter" and entry["coalition_size"] == 1
        ),
    )


def _mean(summary: Summary, names: set[str]) -> float:
    scores = [c.after_aggregation for c in summary.clients if c.client in names]
    return statistics.mean(scores)


@contextmanager
def _bound(value: float) -> Iterator[None]:
    """Every party's least weight."""
    with ExitStack() as stack:
        for module in BOUNDED_IN:
            stack.enter_context(mock.patch(f"{module}.MIN_WEIGHT", value))
        yield


@contextmanager
def _near_twin(differing: float) -> Iterator[None]:
    """Give the twin the original's samples, but for a share, and its order of them."""

    def with_twin(*arguments: object) -> tuple[list[ClientData], object]:
        data, report = load_data(*arguments)
        by_name = {client.name: client for client in data}
        original, twin = by_name[ORIGINAL], by_name[TWIN]
        own = round(differing * len(original.train))
        shared = original.train.select(range(own, len(original.train)))
        train = concatenate_datasets([twin.train.select(range(own)), shared]) if own else shared
        by_name[TWIN] = replace(twin, train=train)
        return [by_name[client.name] for client in data], report

    derived = worker._derived_seed

    def same_order(seed: int, label: str) -> int:
        return derived(seed, label.replace(TWIN, ORIGINAL))

    with (
        mock.patch("pilot_secure.simulation.load_data", with_twin),
        mock.patch.object(worker, "_derived_seed", same_order),
    ):
        yield


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--neighbours", type=int, default=6)
    parser.add_argument("--differing", type=float, default=0.05, help="share of own samples")
    parser.add_argument("--quick", action="store_true", help="small data, to see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
