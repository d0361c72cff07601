"""The key holder of a run: it holds no data and no model, only each attempt's distance key."""

from __future__ import annotations

from typing import Any

from pilot_secure.engines import PhaseKey
from pilot_secure.federation.agreement import Agreement
from pilot_secure.federation.messages import (
    Convene,
    Done,
    FederationMessageError,
    Refusal,
    open_frame,
    seal,
)
from pilot_secure.federation.pair_pool import PairPool
from protocols import AggregationKeyHolder, AnswerGuard, Entropy, Identity, ProtocolError
from protocols.identity import KEY_HOLDER, SERVER

CONVENE = "convene"


class FederationKeyHolder:
    """Answers the server's requests, one frame in, one frame out, as a client does.

    It releases the distances of the same updates as often as attempts are configured, and no more:
    so many are there for a server to average. ``guard`` must be the one that this key holder has
    always had, also before a kill.
    """

    def __init__(self, identity: Identity, agreement: Agreement, guard: AnswerGuard) -> None:
        self._identity = identity
        self._agreement = agreement
        self._guard = guard
        self._machine: AggregationKeyHolder | None = None

    def handle(self, phase: PhaseKey, request: bytes) -> bytes:
        """Answer one request. A request that breaks a rule is answered by a signed refusal."""
        try:
            if phase.name == CONVENE:
                return self._convene(request)
            if self._machine is None:
                raise FederationMessageError(f"{SERVER}: {phase.name} without a call for distances")
            return self._machine.handle(request)
        except (ProtocolError, FederationMessageError) as error:
            self._machine = None
            refusal = Refusal(**self._header(phase.round, phase.stage), reason=str(error)[:1000])
            return seal(refusal, self._identity)

    def _header(self, round_number: int, stage: int) -> dict[str, Any]:
        return {
            "run_id": self._agreement.run_id,
            "round": round_number,
            "stage": stage,
            "sender": KEY_HOLDER,
            "recipient": SERVER,
        }

    def _convene(self, request: bytes) -> bytes:
        """Make ready for one attempt, with the parameters that follow from what was agreed on."""
        message = open_frame(request, self._agreement.roster, SERVER, self._agreement.run_id)
        if not isinstance(message, Convene) or message.recipient != KEY_HOLDER:
            raise FederationMessageError(f"{SERVER}: {message.kind} to {message.recipient}")
        parameters = self._agreement.parameters(
            message.round, message.stage, message.attempt, message.cohort
        )
        self._machine = AggregationKeyHolder(
            parameters,
            self._identity,
            Entropy(),
            roster=self._agreement.roster,
            guard=self._guard,
            max_releases=self._agreement.config.security.max_attempts,
            pair_workers=PairPool.of_this_machine(),
        )
        return seal(Done(**self._header(message.round, message.stage)), self._identity)
