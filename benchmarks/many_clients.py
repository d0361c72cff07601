"""How does one sum scale to a thousand clients? Time, bytes and cost per client against K.

A plain sum of D coordinates over the k-regular graph (semi-honest), 5 % corrupt clients assumed,
5 % dropping out before the masked input; degree and threshold from ``smallest_graph``. All parties
in one process, one thread. ``--plot FILE`` draws the cost per client against K.

    OMP_NUM_THREADS=1 python -m benchmarks.many_clients --clients 1000
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.cohort import Cohort, client_names, plain_sum, update
from protocols.graph import smallest_graph

DROPPED = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--length", type=float, default=1e5)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    length = int(options.length)
    heading = ("degree", "t", "total s", "client s", "server s", "client kB up", "client kB down")
    print(f"D = {length:.0e}, 24 bits, {DROPPED:.0%} drop-outs, one thread")
    print(f"{'K':>6}" + "".join(f"{name:>15}" for name in heading))
    rows = [run(count, length) for count in options.clients]
    if options.plot is not None:
        plot(options.clients, rows, options.plot)


def run(count: int, length: int) -> tuple[float, ...]:
    names = client_names(count)
    graph = smallest_graph(count, 0.05, DROPPED)
    base = update(length, 0)
    cohort = Cohort(
        names,
        plain_sum(names),
        {"vector": length},
        {"ring_bits": 24, "graph": graph},
        vectors=lambda _name, _vector: base,
    )
    dropped = names[:: round(1 / DROPPED)]
    start = time.process_time()
    cohort.run({"masked_input": dropped})
    total = time.process_time() - start
    report = cohort.server.report
    assert len(report.opened["all"]) == count - len(dropped), report.skipped
    error = np.abs(report.means["all"] - np.clip(base, -0.1, 0.1)).max()
    assert error < 1e-4, error
    row = (
        graph.degree,
        graph.threshold,
        total,
        cohort.seconds_per_client,
        sum(cohort.server_seconds.values()),
        sum(cohort.largest_up.values()) / 1e3,
        sum(cohort.largest_down.values()) / 1e3,
    )
    print(f"{count:6d}" + "".join(f"{value:15.4g}" for value in row), flush=True)
    return row


def plot(counts: list[int], rows: list[tuple[float, ...]], path: Path) -> None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    left.plot(counts, [row[3] for row in rows], "o-")
    left.set_ylabel("CPU seconds per client")
    right.plot(counts, [row[5] for row in rows], "o-", label="up")
    right.plot(counts, [row[6] for row in rows], "s-", label="down")
    right.set_ylabel("kB per client")
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("clients K")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
