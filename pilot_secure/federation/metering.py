"""What each phase of a run cost: seconds, and bytes up to and down from the server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from pilot_secure.engines import PhaseKey, Transport


@dataclass
class PhaseCost:
    """Totals of one kind of phase over a whole run.

    ``seconds`` is wall time of clients, carriage and server together; ``bytes_up`` went to the
    server, ``bytes_down`` from it, over all clients.
    """

    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class MeteredTransport:
    """Counts seconds and bytes of every exchange, by phase name."""

    remembered: ClassVar[tuple[str, ...]] = ("costs",)

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.costs: dict[str, PhaseCost] = {}

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Pass the exchange on and add its cost."""
        with self.timed(phase.name):
            replies = self._inner.exchange(phase, requests, timeout_s)
        cost = self.costs[phase.name]
        cost.bytes_down += sum(map(len, requests.values()))
        cost.bytes_up += sum(len(reply) for reply in replies.values() if reply is not None)
        return replies

    @contextmanager
    def timed(self, phase_name: str) -> Iterator[None]:
        """Add the time spent inside, such as the server's own work, to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            cost = self.costs.setdefault(phase_name, PhaseCost())
            cost.seconds += time.perf_counter() - start
