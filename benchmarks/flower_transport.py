"""What does a phase cost by engine `flower`, whatever the parties do in it?

A deployment on this machine (TLS, node authentication, a SuperNode for each client) carries frames
to all clients and back; the clients do nothing. One line for each size: the median time of a phase,
and the bytes of both directions over it.

    make flower-transport
    build/flower/bin/python -m benchmarks.flower_transport --clients 9 --sizes 1024 1048576
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from pilot_secure.flower.credentials import make_credentials
from pilot_secure.flower.loopback import deployed

APP = Path(__file__).parent / "flower_echo"


def measure(clients: int, sizes: list[int], repeats: int) -> tuple[float, dict[int, list[float]]]:
    """Return the seconds until all stands, and those of each repeat of a phase by frame size."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        names = [f"client-{number:02d}" for number in range(1, clients + 1)]
        for name in names:
            (place / "parties" / name).mkdir(parents=True)
        make_credentials(place / "credentials", names)
        found = place / "found.json"
        begun = time.perf_counter()
        with deployed(place, Console(stderr=True)) as deployment:
            started = time.perf_counter() - begun
            words = " ".join(map(str, sizes))
            deployment.run_app(
                APP, {"nodes": clients, "sizes": words, "repeats": repeats, "out": str(found)}
            )
        if not found.exists():
            raise SystemExit(deployment.log("run").read_text())
        seconds = json.loads(found.read_text())["seconds"]
        return started, {int(size): times for size, times in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1 << 10, 1 << 20, 1 << 24])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    started, seconds = measure(options.clients, options.sizes, options.repeats)
    print(f"deployed in {started:.1f} s")
    print(f"{'bytes a client':>15} {'ms a phase':>11} {'MB/s':>8}")
    for size, times in seconds.items():
        middle = statistics.median(times)
        rate = 2 * size * options.clients / middle / 1e6
        print(f"{size:15d} {1000 * middle:11.0f} {rate:8.2f}")


if __name__ == "__main__":
    main()
