"""The one interface between the server and whatever carries its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class PhaseKey:
    """Names one exchange: which phase of which aggregation attempt, or of training.

    ``session`` is the 32-byte id of the aggregation's session (zeros outside one), for records.
    """

    name: str
    round: int
    stage: int
    attempt: int = 0
    session: bytes = bytes(32)


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
