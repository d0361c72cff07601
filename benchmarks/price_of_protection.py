"""What does protection cost, in seconds and bytes? Clear, visible and hidden, side by side.

One whole Pilot aggregation per row, K = 9, three tasks, 20 bits: three task sums and nine sealed
sums of vectors of D coordinates each, distances on a sketch of 4096. The clear row sends float32
and computes exact distances, means and personalised sums in numpy. Client figures are the median
client's CPU seconds and the mean client's bytes; the server's seconds are a total. Leverage is that
of the worst single colluding client on the most exposed text adapter (in the clear the server holds
every vector: 1). With visible lists the server sees the graph as well. Then: bytes per parameter of
one plain sum, control bytes by phase, and the expansion against the formula of Bonawitz et al.
2017.

    OMP_NUM_THREADS=1 python -m benchmarks.price_of_protection --lengths 1e6
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from benchmarks.cohort import CLIP, Cohort, client_names, pilot_sums, plain_sum, update
from protocols.leakage import leakage_report
from protocols.reference import aggregate

K, TASKS, BITS = 9, 3, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=float, nargs="+", default=[1e6, 1e7])
    options = parser.parse_args()
    print(f"K = {K}, {TASKS} tasks, {BITS} bits, one thread")
    heading = ("client s", "server s", "client MB up", "client MB down", "worst leverage")
    print(f"{'D':>8} {'':<9}" + "".join(f"{name:>16}" for name in heading))
    for length in map(int, options.lengths):
        print_row(length, "clear", clear(length))
        for visibility in ("visible", "hidden"):
            print_row(length, visibility, protected(length, visibility))
        print()
    bytes_per_parameter(int(options.lengths[0]))


def print_row(length: int, name: str, figures: tuple[float, ...]) -> None:
    seconds, mega, leverage = figures[:2], figures[2:4], figures[4]
    columns = (*seconds, *(size / 1e6 for size in mega), leverage)
    columns = "".join(f"{value:16.3f}" for value in columns)
    print(f"{length:8.0e} {name:<9}{columns}", flush=True)


def protected(length: int, visibility: str) -> tuple[float, ...]:
    names = client_names(K)
    cohort = Cohort(
        names,
        pilot_sums(names, TASKS),
        {"task": length, "text": length},
        {
            "neighbour_visibility": visibility,
            "ring_bits": BITS,
            "distance_norm_bound": 0.012 * math.sqrt(length),
        },
    )
    cohort.run()
    assert cohort.server.report.aborted is None, cohort.server.report.aborted
    return (
        cohort.seconds_per_client,
        sum(cohort.server_seconds.values()),
        sum(cohort.server.report.bytes_up.values()) / K,
        sum(cohort.server.report.bytes_down.values()) / K,
        leakage(cohort),
    )


def leakage(cohort: Cohort) -> float:
    """Leverage on the most exposed text adapter of the worst client that colludes alone."""
    report = cohort.server.report
    clients = cohort.clients
    applied = {n: client.contribution for n, client in clients.items() if client.contribution}
    samples = dict.fromkeys(clients, 64)
    views = leakage_report(cohort.parameters, report.plan, report.opened, applied, samples)
    return views.worst(1)["text"].most_exposed[1]


def clear(length: int) -> tuple[float, ...]:
    """Float32 in the clear: what the same aggregation costs without any protection."""
    names = client_names(K)
    vectors = {
        name: {"task": update(length, place), "text": update(length, place)}
        for place, name in enumerate(names)
    }
    samples = dict.fromkeys(names, 64)
    template = Cohort(names, pilot_sums(names, TASKS), {"task": 8, "text": 8})
    parameters = template.parameters.model_copy(
        update={"vector_lengths": {"task": length, "text": length}}
    )
    start = time.process_time()
    for own in vectors[names[0]].values():
        np.clip(own, -CLIP, CLIP).tobytes()
    client = time.process_time() - start
    start = time.process_time()
    aggregate(parameters, vectors, samples)
    server = time.process_time() - start
    return client, server, 2 * 4 * length, (TASKS + 1) * 4 * length, 1.0


def bytes_per_parameter(length: int) -> None:
    """One plain sum over everybody: the upload, everything else, and the formula."""
    names = client_names(K)
    cohort = Cohort(names, plain_sum(names), {"vector": length}, {"ring_bits": BITS})
    cohort.run()
    upload = cohort.largest_up["masked_input"]
    print(f"one plain sum, D = {length:.0e}: {upload / length:.4f} bytes a parameter (aim: 2.6)")
    print("control bytes per client:")
    for phase in cohort.largest_up:
        up, down = cohort.largest_up[phase], cohort.largest_down[phase]
        if phase == "masked_input":
            up -= length * BITS // 8
        if phase == "deliver":
            down -= length * BITS // 8
        print(f"  {phase:<16}{up:>8} up {down:>8} down")
    headroom = math.ceil(math.log2(K))
    plain_bits = BITS - headroom
    ours = sum(cohort.largest_up.values()) * 8 / (plain_bits * length)
    formula = (plain_bits + headroom) / plain_bits + 215 * K / (length * plain_bits / 8)
    print(
        f"expansion over {plain_bits}-bit plaintext: {ours:.4f} up, "
        f"formula of Bonawitz et al. (2017) {formula:.4f}"
    )


if __name__ == "__main__":
    main()
