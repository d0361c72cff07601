"""What does an engine add to a phase, whatever clients do in it? Every installed engine in one run.

    python -m benchmarks.engines [--engines in_process processes ray flower]

Nine clients that send back what they are sent: the seconds until the engine stands (without
models), the milliseconds of a phase with frames of a kilobyte, and MB/s both ways with frames of
4 MiB to and from every client at once (in one process nothing is copied). Medians, after one
exchange to warm up. An engine that is not installed is left out, and that is said;
`build/flower/bin/python -m benchmarks.engines` has all four (`make flower` makes it).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from benchmarks.echo import SMALL_BYTES, Echo, Figures, Plan, build_echo, timed
from pilot_secure.engines import InProcessTransport, ProcessesTransport

FLOWER_REPEATS = 5
"""A phase of Flower's takes seconds."""


def main() -> None:
    options = _options()
    plan = Plan(clients=options.clients, slots=options.slots, repeats=options.repeats)
    print(f"{plan.clients} clients, {plan.slots} workers (flower: one a client)")
    print(f"{'engine':<12}{'start s':>10}{'phase ms':>12}{'client ms':>12}{'MB/s':>14}")
    for name in options.engines:
        needed = NEEDED.get(name)
        if needed is not None and find_spec(needed) is None:
            print(f"{name:<12}{needed} is not installed")
            continue
        found = ENGINES[name](plan)
        milliseconds = found.small_s * 1e3
        print(
            f"{name:<12}{found.start_s:>10.2f}{milliseconds:>12.2f}"
            f"{milliseconds / plan.clients:>12.3f}{found.bytes_per_s / 1e6:>14.1f}",
            flush=True,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--clients", type=int, default=9)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    return parser.parse_args()


def _in_process(plan: Plan) -> Figures:
    return timed(lambda: InProcessTransport(Echo(plan.names)), plan)


def _processes(plan: Plan) -> Figures:
    return timed(lambda: ProcessesTransport(build_echo, plan.split()), plan)


def _ray(plan: Plan) -> Figures:
    from pilot_secure.engines.ray_actors import RayTransport

    return timed(lambda: RayTransport(build_echo, plan.split()), plan)


def _flower(plan: Plan) -> Figures:
    from benchmarks.flower_transport import measure

    sizes = [SMALL_BYTES, plan.large_bytes]
    started, seconds = measure(plan.clients, sizes, repeats=FLOWER_REPEATS)
    small, large = (statistics.median(seconds[size]) for size in sizes)
    return Figures(small, 2 * plan.large_bytes * plan.clients / large, started)


ENGINES: Mapping[str, Callable[[Plan], Figures]] = {
    "in_process": _in_process,
    "processes": _processes,
    "ray": _ray,
    "flower": _flower,
}
NEEDED = {"ray": "ray", "flower": "flwr"}

if __name__ == "__main__":
    main()
