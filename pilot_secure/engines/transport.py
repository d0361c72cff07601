"""The one interface between the server and whatever carries its messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class PhaseKey:
    """Names one exchange: which phase of which aggregation attempt, or of training.

    ``session`` is the 32-byte id of the aggregation's session (zeros outside one), for records.
    A phase in which long vectors go in parts is one exchange for each ``part``, counted from 0.
    """

    name: str
    round: int
    stage: int
    attempt: int = 0
    session: bytes = bytes(32)
    part: int = 0


class Transport(Protocol):
    """Carries one request to each named client and brings back one reply from each."""

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Deliver ``requests`` and return the replies.

        The reply of a client that vanished, or did not answer within ``timeout_s`` seconds, is
        None. Every client in ``requests`` is a key of the result.
        """
        ...


class Host(Protocol):
    """The far end of an engine: some clients in one process, around one base model.

    ``report`` is what it tells whoever started it, once its clients are ready.
    """

    report: Any

    @property
    def names(self) -> Collection[str]:
        """The clients that live here."""
        ...

    def handle(self, client: str, phase: PhaseKey, request: bytes) -> bytes:
        """Answer one request to one client."""
        ...

    def finish(self) -> None:
        """Leave behind what outlasts the run."""
        ...


class Engine(Transport, Protocol):
    """A transport with the hosts at its far end: they were built with it, and end with it.

    ``reports`` holds what the hosts told when their clients were ready.
    """

    reports: list[Any]

    def finish(self, timeout_s: float) -> int:
        """Let the hosts finish that answer in time.

        Returns the peak memory in bytes of the processes that they live in, summed, without this
        process's.
        """
        ...

    def close(self) -> None:
        """End every host; safe to call twice, and after an error."""
        ...


Note = Callable[[Any], None]
"""Takes what a host tells besides its replies, such as progress, to the process that started it."""
