"""A transport that writes every frame into the run's transcript as it passes."""

from __future__ import annotations

from collections.abc import Mapping

from pilot_secure.engines import PhaseKey, Transport
from pilot_secure.transcript import TranscriptWriter
from protocols.identity import SERVER

RECEIPTS = "deliver"


class RecordedTransport:
    """Records requests before they are carried and replies after.

    Receipts are kept whole whatever else is: with them the hashes of all other messages suffice to
    find out that one was deleted.
    """

    def __init__(self, inner: Transport, transcript: TranscriptWriter) -> None:
        self._inner, self._transcript = inner, transcript

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Carry the exchange and record both directions."""
        session = phase.session.hex()
        for client, frame in requests.items():
            self._transcript.append(
                frame, sender=SERVER, recipient=client, phase=phase.name, session=session
            )
        replies = self._inner.exchange(phase, requests, timeout_s)
        for client, reply in replies.items():
            if reply is not None:
                self._transcript.append(
                    reply,
                    sender=client,
                    recipient=SERVER,
                    phase=phase.name,
                    session=session,
                    keep=phase.name == RECEIPTS,
                )
        return replies
