"""The default engine: every party in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pilot_secure.engines.transport import PhaseKey

Handler = Callable[[PhaseKey, bytes], bytes]


class InProcessTransport:
    """Calls each client's handler in turn; only bytes cross.

    ``timeout_s`` has no meaning here: a handler that runs in this process always returns.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Deliver each request to its client's handler and collect the replies."""
        return {
            client: self._handlers[client](phase, request) for client, request in requests.items()
        }
