"""A cohort of one process for the benchmarks of ``protocols``: parties, parameters, a driver."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from protocols import (
    SERVER,
    AggregationClient,
    AggregationParameters,
    AggregationServer,
    ClientInputs,
    Entropy,
    Identity,
    MemoryGuard,
    Roster,
    SumSpec,
    smallest_threshold,
)

CLIP, MAX_SAMPLES, SIGMA = 0.1, 128, 0.01


def client_names(count: int) -> tuple[str, ...]:
    width = max(2, len(str(count)))
    return tuple(f"client-{place:0{width}d}" for place in range(1, count + 1))


def plain_sum(cohort: tuple[str, ...]) -> tuple[SumSpec, ...]:
    return (SumSpec(id="all", vector="vector", recipient=SERVER, contributors=cohort),)


def pilot_sums(cohort: tuple[str, ...], num_tasks: int) -> tuple[SumSpec, ...]:
    tasks = [
        SumSpec(id=f"task-{i}", vector="task", recipient=SERVER, contributors=cohort[i::num_tasks])
        for i in range(num_tasks)
    ]
    sealed = [
        SumSpec(id=f"text-{name}", vector="text", recipient=name, contributors="selected")
        for name in cohort
    ]
    return tuple(sorted([*tasks, *sealed], key=lambda spec: spec.id))


def update(length: int, seed: int) -> np.ndarray:
    """A vector as an adapter's update is: small, centred, inside the clip almost everywhere."""
    rng = np.random.Generator(np.random.SFC64(seed))
    vector = rng.standard_normal(length, dtype=np.float32)
    vector *= np.float32(SIGMA)
    return vector


@dataclass
class Cohort:
    """Identities, inputs and machines of one attempt; times and bytes per party and phase."""

    cohort: tuple[str, ...]
    sums: tuple[SumSpec, ...]
    lengths: Mapping[str, int]
    options: Mapping[str, object] = field(default_factory=dict)
    vectors: Callable[[str, str], np.ndarray] | None = None

    def __post_init__(self) -> None:
        entropy, colluders = Entropy(), 1
        server = Identity.generate(SERVER, entropy)
        identities = [Identity.generate(name, entropy) for name in self.cohort]
        self.roster = Roster.of(server, identities)
        self.parameters = AggregationParameters.build(
            **{
                "run_id": "benchmark",
                "round": 1,
                "stage": 1,
                "roster": self.roster.digest(),
                "cohort": self.cohort,
                "sums": self.sums,
                "vector_lengths": dict(self.lengths),
                "clip": dict.fromkeys(self.lengths, CLIP),
                "max_samples": MAX_SAMPLES,
                "threshold": smallest_threshold(len(self.cohort), colluders),
                "num_neighbours": min(6, len(self.cohort) - 1),
                "sketch_size": 4096,
                **self.options,
            }
        )
        self.server = AggregationServer(self.parameters, server, entropy, roster=self.roster)
        self.clients = {
            identity.name: AggregationClient(
                self.parameters,
                identity,
                self._inputs(identity.name),
                entropy,
                roster=self.roster,
                guard=MemoryGuard(),
            )
            for identity in identities
        }
        self.client_seconds: dict[str, list[float]] = {}
        self.server_seconds: dict[str, float] = {}
        self.largest_up: dict[str, int] = {}
        self.largest_down: dict[str, int] = {}

    def _inputs(self, name: str) -> ClientInputs:
        place = self.roster.coordinate(name)
        make = self.vectors or (lambda _name, vector: update(self.lengths[vector], place))
        vectors = {vector: {"flat": make(name, vector)} for vector in self.lengths}
        return ClientInputs(vectors=vectors, num_samples=64 + place % 64)

    def run(self, drop_before: Mapping[str, Collection[str]] | None = None) -> None:
        """Run to the end, one client at a time, so that few frames exist at once."""
        gone: set[str] = set()
        while not self.server.done:
            phase = self.server.phase
            gone |= set((drop_before or {}).get(phase, ()))
            spent, busy = self.client_seconds.setdefault(phase, []), 0.0
            for name in self.server.clients:
                if name in gone:
                    continue
                start = time.process_time()
                request = self.server.request(name)
                asked = time.process_time()
                reply = self.clients[name].handle(request)
                answered = time.process_time()
                self._note_bytes(phase, len(reply), len(request))
                del request
                self.server.accept(name, reply)
                spent.append(answered - asked)
                busy += asked - start + time.process_time() - answered
                del reply
            start = time.process_time()
            self.server.advance()
            self.server_seconds[phase] = busy + time.process_time() - start

    def _note_bytes(self, phase: str, up: int, down: int) -> None:
        self.largest_up[phase] = max(up, self.largest_up.get(phase, 0))
        self.largest_down[phase] = max(down, self.largest_down.get(phase, 0))

    @property
    def seconds_per_client(self) -> float:
        """Median client's CPU seconds over all phases."""
        return sum(statistics.median(spent) for spent in self.client_seconds.values() if spent)


def median_seconds(step: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of one thread for ``step``."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        spent.append(time.process_time() - start)
    return statistics.median(spent)
