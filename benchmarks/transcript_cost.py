"""What does the transcript cost, beside the protocol that it records?

    OMP_NUM_THREADS=1 python -m benchmarks.transcript_cost [--lengths 5e4 1e6]

Whole Pilot aggregations of nine clients in one process (three task sums, nine sealed sums of D
coordinates each, distances on a sketch of 4096; no training), three ways in turn: without a
transcript, with hashes only, with payloads, in an order that turns. Wall seconds from the first
request to the signed and closed transcript; of each way the least of the repeats, since what else
the machine does only adds to it, and the ratio of these. Frames are hashed in a thread beside the
protocol: `waited` is for how long the protocol stood still for it, `processor` the processor
seconds of all threads against those of the plain run, which one core would have to bear. Most of
them are SHA-256, whose rate on this machine is printed. The disk is that of --folder.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.cohort import Cohort, client_names, pilot_sums
from pilot_secure.engines import PhaseKey, Transport
from pilot_secure.federation.recording import RecordedTransport
from pilot_secure.transcript import TranscriptWriter
from protocols import SERVER, AggregationServer, Entropy, Identity

CLIENTS, TASKS, BITS, AIM = 9, 3, 20, 0.02
WAYS = {"no transcript": None, "hashes only": False, "with payloads": True}


class InMemory:
    """Carries messages to the machines of a cohort."""

    def __init__(self, cohort: Cohort) -> None:
        self._clients = cohort.clients

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Have every client answer, one after the other."""
        return {name: self._clients[name].handle(frame) for name, frame in requests.items()}


class Waited(TranscriptWriter):
    """Notes for how long its caller waits."""

    seconds = 0.0

    def flush(self) -> None:
        """Wait, by the clock."""
        begun = time.perf_counter()
        super().flush()
        self.seconds += time.perf_counter() - begun


class Times(NamedTuple):
    """Seconds of one aggregation."""

    wall: float
    processor: float
    waited: float


def one_run(length: int, keep_payloads: bool | None, parent: Path | None) -> Times:
    """Carry out one aggregation; ``keep_payloads`` is None for one without a transcript."""
    names, identity = client_names(CLIENTS), Identity.generate(SERVER, Entropy())
    options = {"ring_bits": BITS, "distance_norm_bound": 0.012 * length**0.5}
    sums = pilot_sums(names, TASKS)
    cohort = Cohort(names, sums, {"task": length, "text": length}, options)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        begun, spent = time.perf_counter(), time.process_time()
        transport: Transport = InMemory(cohort)
        if keep_payloads is not None:
            writer = Waited(Path(folder), keep_payloads=keep_payloads)
            transport = RecordedTransport(transport, writer)
        run(cohort.server, transport)
        waited = 0.0
        if keep_payloads is not None:
            writer.keep_parameters(cohort.parameters)
            writer.sign_head(identity)
            writer.sign_head(identity, final=True)
            writer.close()
            waited = writer.seconds
        return Times(time.perf_counter() - begun, time.process_time() - spent, waited)


def run(server: AggregationServer, transport: Transport) -> None:
    while not server.done:
        phase = PhaseKey(server.phase, 1, 1, session=server.report.session)
        server.receive(transport.exchange(phase, server.requests(), 60.0))
    assert server.report.aborted is None, server.report.aborted


def sha256_rate() -> float:
    """GB/s of one thread."""
    block, begun = bytes(1 << 26), time.perf_counter()
    hashlib.sha256(block).digest()
    return len(block) / (time.perf_counter() - begun) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=float, nargs="+", default=[5e4, 1e6])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where transcripts go (default: temporary)")
    options = parser.parse_args()
    print(f"{CLIENTS} clients, {TASKS} tasks, {BITS} bits, least of {options.repeats} runs")
    print(f"SHA-256 at {sha256_rate():.2f} GB/s")
    print(f"{'D':>8} {'':<14}{'wall s':>9}{'ratio':>8}{'waited s':>10}{'processor':>11}")
    costs = []
    for length in map(int, options.lengths):
        one_run(length, True, options.folder)  # warm
        runs: dict[str, list[Times]] = {way: [] for way in WAYS}
        for repeat in range(options.repeats):
            for turn in range(len(WAYS)):
                way = list(WAYS)[(repeat + turn) % len(WAYS)]
                runs[way].append(one_run(length, WAYS[way], options.folder))
        least = {way: Times(*map(min, zip(*times, strict=True))) for way, times in runs.items()}
        plain = least["no transcript"]
        for way, own in least.items():
            ratio, spent = own.wall / plain.wall, own.processor / plain.processor
            print(
                f"{length:8.0e} {way:<14}{own.wall:9.3f}{ratio:8.3f}{own.waited:10.4f}{spent:11.3f}"
            )
        costs.append(least["hashes only"].wall / plain.wall - 1)
    print(f"hashes only: {max(costs):+.1%} of the protocol's time (aim: at most {AIM:.0%})")


if __name__ == "__main__":
    main()
