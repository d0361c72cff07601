"""An engine by itself: clients that send back what they are sent, and how long that takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pilot_secure.engines import Note, PhaseKey, Transport

SMALL_BYTES = 1024
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Plan:
    """What is measured: so many clients at so many workers, so often, with frames so large."""

    clients: int = 9
    slots: int = 2
    repeats: int = 30
    large_bytes: int = 4 << 20
    large_repeats: int = 5

    @property
    def names(self) -> list[str]:
        """The clients' names."""
        return [f"client-{number:02d}" for number in range(1, self.clients + 1)]

    def split(self) -> list[list[str]]:
        """The clients of each worker."""
        return [self.names[start :: self.slots] for start in range(min(self.slots, self.clients))]


@dataclass(frozen=True)
class Figures:
    """Medians: seconds of a phase with small frames, and bytes a second, both ways together."""

    small_s: float
    bytes_per_s: float
    start_s: float = 0.0


class Echo:
    """A host whose clients answer by the request."""

    report = None

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def handle(self, client: str, phase: PhaseKey, request: bytes) -> bytes:
        """Return the request."""
        return request

    def finish(self) -> None:
        """Leave nothing behind."""


def build_echo(names: list[str], tell: Note) -> Echo:
    """Be the far end of an engine with workers."""
    return Echo(names)


def measure(transport: Transport, names: list[str], plan: Plan) -> Figures:
    """Time exchanges of small frames, then of large ones."""
    small = _median_s(transport, names, SMALL_BYTES, plan.repeats)
    large = _median_s(transport, names, plan.large_bytes, plan.large_repeats)
    return Figures(small, 2 * plan.large_bytes * len(names) / large)


def _median_s(transport: Transport, names: list[str], size: int, repeats: int) -> float:
    requests = {name: bytes(size) for name in names}
    times = []
    for number in range(repeats + 1):  # the first is for warming up
        start = time.perf_counter()
        replies = transport.exchange(PhaseKey("share", number, 1), requests, TIMEOUT_S)
        times.append(time.perf_counter() - start)
        if replies != requests:
            raise RuntimeError("an engine lost or changed a frame")
    return statistics.median(times[1:])


def timed(start: Callable[[], Any], plan: Plan) -> Figures:
    """Start an engine, measure it, and close it."""
    begun = time.perf_counter()
    engine = start()
    started = time.perf_counter() - begun
    try:
        found = measure(engine, plan.names, plan)
    finally:
        engine.close()
    return Figures(found.small_s, found.bytes_per_s, started)
