"""Simulated drop-outs: clients that vanish before a phase, by schedule or by chance."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pilot_secure.config import DropoutConfig
from pilot_secure.engines import PhaseKey, Transport

EVALUATE = "evaluate"


class FaultyTransport:
    """A transport on which clients vanish before a phase, and stay away for that attempt.

    A client that is gone from one attempt of an aggregation is back for the next training phase,
    as a device that lost its connection would be. Scoring measures the run and is no part of the
    federation, so nobody vanishes before it. Which clients vanish is drawn from ``seed``, so that
    a run can be repeated; no secret is derived from it.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        schedule: Sequence[DropoutConfig] = (),
        probability: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._inner = inner
        self._schedule = schedule
        self._probability = probability
        self._random = random.Random(f"drop-outs/{seed}")
        self._gone: set[str] = set()
        self._attempt: tuple[int, int, int] | None = None
        self.events: list[tuple[PhaseKey, str]] = []

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Pass on what reaches the clients that are still there."""
        if phase.name == EVALUATE:
            return self._inner.exchange(phase, requests, timeout_s)
        attempt = (phase.round, phase.stage, phase.attempt)
        if attempt != self._attempt:
            self._attempt, self._gone = attempt, set()
        for client in sorted(requests):
            if client not in self._gone and self._vanishes(phase, client):
                self._gone.add(client)
                self.events.append((phase, client))
        present = {c: request for c, request in requests.items() if c not in self._gone}
        replies = self._inner.exchange(phase, present, timeout_s)
        return {client: replies.get(client) for client in requests}

    def _vanishes(self, phase: PhaseKey, client: str) -> bool:
        if any(
            (d.client, d.round, d.stage, d.phase) == (client, phase.round, phase.stage, phase.name)
            for d in self._schedule
        ):
            return True
        return self._probability > 0 and self._random.random() < self._probability
