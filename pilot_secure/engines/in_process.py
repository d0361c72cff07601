"""The default engine: every party in this process, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot_secure.engines.transport import Host, PhaseKey


class InProcessTransport:
    """Calls the host of all clients, one client after the other; only bytes cross.

    ``timeout_s`` has no meaning here: a handler that runs in this process always returns.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.reports: list[Any] = [host.report]

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Deliver each request to its client and collect the replies."""
        return {
            client: self._host.handle(client, phase, request)
            for client, request in requests.items()
        }

    def finish(self, timeout_s: float) -> int:
        """Let the host finish; its memory is this process's."""
        self._host.finish()
        return 0

    def close(self) -> None:
        """Nothing was started."""
