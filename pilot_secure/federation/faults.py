"""Simulated faults: clients that vanish, or answer too late, by schedule or by chance."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pilot_secure.config import DropoutConfig
from pilot_secure.engines import PhaseKey, Transport
from protocols import KEY_HOLDER

EVALUATE = "evaluate"

Fault = Literal["vanished", "late", "lost"]
"""Simulated: gone before the phase, or too late for it; real: no answer from the engine."""


@dataclass(frozen=True)
class FaultEvent:
    """A client that the server did not hear of in a phase, and why."""

    phase: PhaseKey
    client: str
    fault: Fault


class FaultyTransport:
    """A transport on which clients vanish before a phase, or answer it after its time is out.

    A client that vanishes gets no request; a straggler gets it, does its work, and its reply is
    lost. Both, and a client of which the transport inside brings nothing, stay away for the rest
    of the attempt, and are asked again in the next training phase, as a device that lost its
    connection would be. Nothing happens to scoring, which reaches everybody and tells whoever
    missed an aggregation its means. Chance hits clients only, once a phase; the schedule a key
    holder too, and any part of an upload or a delivery that goes in parts, counted by what the
    client was asked for.
    Who is hit is drawn from ``seed``, so that a run can be repeated; no secret is derived from it.
    """

    remembered: ClassVar[tuple[str, ...]] = ("_random", "_gone", "_attempt", "events")

    def __init__(
        self,
        inner: Transport,
        *,
        schedule: Sequence[DropoutConfig] = (),
        probability: float = 0.0,
        straggler_probability: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._inner = inner
        self._schedule: dict[tuple[str, int, int, str, int], Fault] = {
            (d.client, d.round, d.stage, d.phase, d.part): d.fault for d in schedule
        }
        self._probabilities: dict[Fault, float] = {
            "vanished": probability,
            "late": straggler_probability,
        }
        self._random = random.Random(f"drop-outs/{seed}")
        self._gone: set[str] = set()
        self._attempt: tuple[int, int, int] | None = None
        self._asked: Counter[str] = Counter()  # how often in the present phase
        self.events: list[FaultEvent] = []

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Pass on what reaches the clients that are still there, and what they say in time."""
        if phase.name == EVALUATE:
            return self._inner.exchange(phase, requests, timeout_s)
        attempt = (phase.round, phase.stage, phase.attempt)
        if attempt != self._attempt:
            self._attempt, self._gone = attempt, set()
        if phase.part == 0:
            self._asked.clear()
        faults = {
            client: fault
            for client in sorted(set(requests) - self._gone)
            if (fault := self._fault(phase, client)) is not None
        }
        self._asked.update(requests.keys())
        self.events += [FaultEvent(phase, client, fault) for client, fault in faults.items()]
        unreached = self._gone | {c for c, fault in faults.items() if fault == "vanished"}
        self._gone |= set(faults)
        reached = {c: request for c, request in requests.items() if c not in unreached}
        replies = self._inner.exchange(phase, reached, timeout_s)
        lost = [client for client in reached if replies[client] is None]
        self.events += [FaultEvent(phase, client, "lost") for client in lost]
        self._gone |= set(lost)
        return {c: None if c in self._gone else replies.get(c) for c in requests}

    def missed(self) -> list[str]:
        """Return which of the schedule never took place, for a run that is over.

        The run had no such phase, or no such part, or did not ask this client there.
        """
        met = {(e.client, e.phase.round, e.phase.stage, e.phase.name) for e in self.events}
        return [
            f"{client} in phase {name}{f', part {part},' if part else ''} of round {number}, "
            f"stage {stage}"
            for client, number, stage, name, part in self._schedule
            if (client, number, stage, name) not in met
        ]

    def _fault(self, phase: PhaseKey, client: str) -> Fault | None:
        place = (client, phase.round, phase.stage, phase.name, self._asked[client])
        planned = self._schedule.get(place)
        if planned is not None:
            return planned
        if client == KEY_HOLDER or phase.part > 0:
            return None
        for fault, probability in self._probabilities.items():
            if probability > 0 and self._random.random() < probability:
                return fault
        return None
