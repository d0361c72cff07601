"""A client's part in aggregations: keys, vectors and machine, without data, model or torch.

It is all that a client needs between two trainings, so a client that has a process of its own for
each message (engine `flower`) loads neither model nor torch for the phases of an aggregation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pilot_secure.engines import PhaseKey
from pilot_secure.federation.messages import FederationMessageError, Refusal, seal
from protocols import (
    AggregationClient,
    AggregationParameters,
    AggregationResult,
    AnswerGuard,
    ClientInputs,
    Entropy,
    Identity,
    ProtocolError,
    Roster,
)
from protocols.escrow import escrowed_entropy
from protocols.identity import SERVER

if TYPE_CHECKING:
    from pilot_secure.federation.journal import Journal


@dataclass(frozen=True)
class Briefing:
    """What a client takes from its training into the attempts of the aggregation after it.

    ``parameters`` are the first attempt's. Secrecy: the client's.
    """

    parameters: AggregationParameters
    inputs: ClientInputs

    def of_attempt(self, attempt: int) -> Briefing:
        """Return what another attempt starts from: the same but for its number."""
        return Briefing(self.parameters.model_copy(update={"attempt": attempt}), self.inputs)


Brief = Callable[[int], Briefing]
"""Gives the briefing of an attempt, by its number.

Raises: FederationMessageError if there is nothing to aggregate.
"""


class Participant:
    """One client in one attempt after another; ``guard`` must be the one it has always had.

    ``result`` holds what the last attempt gave, until it is taken.
    """

    remembered: ClassVar[tuple[str, ...]] = ("machine", "parameters")

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        guard: AnswerGuard,
        journal: Journal,
        *,
        max_attempts: int,
        escrow: bytes | None = None,
    ) -> None:
        self._identity, self._roster, self._guard = identity, roster, guard
        self._journal, self.max_attempts, self._escrow = journal, max_attempts, escrow
        self.machine: AggregationClient | None = None
        self.parameters: AggregationParameters | None = None
        self.result: AggregationResult | None = None

    def handle(self, phase: PhaseKey, request: bytes, brief: Brief) -> bytes:
        """Answer one request of an aggregation; the first one of an attempt asks for a briefing.

        Raises: ProtocolError, FederationMessageError for a request that breaks a rule.
        """
        if phase.name == "advertise":
            self._join(brief(phase.attempt))
        machine, parameters = self.machine, self.parameters
        if machine is None or parameters is None:
            raise FederationMessageError(f"{SERVER}: {phase.name} without an aggregation")
        reply = machine.handle(request)
        contribution = machine.contribution
        if contribution is not None:
            self._journal.contributed(
                self._identity.name, parameters.round, parameters.stage, contribution
            )
        if machine.result is not None:
            self.result, self.machine = machine.result, None
        return reply

    def _join(self, briefing: Briefing) -> None:
        self.parameters = briefing.parameters
        self.machine = AggregationClient(
            briefing.parameters,
            self._identity,
            briefing.inputs,
            self._entropy(briefing.parameters),
            roster=self._roster,
            guard=self._guard,
            max_answers=self.max_attempts,
        )

    def _entropy(self, parameters: AggregationParameters) -> Entropy:
        """The system's randomness, or that of an escrowed run."""
        if self._escrow is None:
            return Entropy()
        return escrowed_entropy(self._escrow, self._identity.name, parameters)

    def refuse(self, phase: PhaseKey, run_id: str, error: Exception) -> bytes:
        """Leave the attempt for an error of `handle`; return the signed refusal."""
        self.machine = None
        refusal = Refusal(
            run_id=run_id,
            round=phase.round,
            stage=phase.stage,
            sender=self._identity.name,
            recipient=SERVER,
            reason=str(error)[:1000],
        )
        return seal(refusal, self._identity)


BROKEN_RULES = (ProtocolError, FederationMessageError)
"""What a party answers by a signed refusal."""
