"""A transport that writes every frame into the run's transcript as it passes."""

from __future__ import annotations

from collections.abc import Mapping

from pilot_secure.engines import PhaseKey, Transport
from pilot_secure.transcript import Passage, TranscriptWriter
from protocols.identity import SERVER

RECEIPTS = "deliver"


class RecordedTransport:
    """Records requests while they are carried, and replies while the server works on them.

    All requests are recorded when an exchange ends, well or not. Receipts are kept whole whatever
    else is: with them the hashes of all other messages suffice to find out that one was deleted.
    """

    def __init__(self, inner: Transport, transcript: TranscriptWriter) -> None:
        self._inner, self._transcript = inner, transcript

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Carry the exchange and record both directions.

        Raises: RunFolderError if a request, or an earlier frame, could not be recorded.
        """
        session = phase.session.hex()
        self._transcript.append_beside(
            [
                Passage(frame, SERVER, client, phase.name, session)
                for client, frame in requests.items()
            ]
        )
        try:
            replies = self._inner.exchange(phase, requests, timeout_s)
        finally:
            self._transcript.flush()
        self._transcript.append_beside(
            [
                Passage(reply, client, SERVER, phase.name, session, keep=phase.name == RECEIPTS)
                for client, reply in replies.items()
                if reply is not None
            ]
        )
        return replies
