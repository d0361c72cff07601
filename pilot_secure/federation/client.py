"""A client: it answers the server's requests, one frame in, one frame out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pilot_secure.data import ClientData
from pilot_secure.engines import PhaseKey
from pilot_secure.federation.agreement import Agreement
from pilot_secure.federation.checkpoint import memory_of, recall
from pilot_secure.federation.journal import Journal
from pilot_secure.federation.messages import (
    AnyFederationMessage,
    CatchUp,
    ClearCall,
    ClearDelivery,
    ClearUpdate,
    Done,
    EvaluateRequest,
    FederationMessage,
    FederationMessageError,
    TrainRequest,
    means_from_wire,
    open_frame,
    seal,
    vector_bytes,
    vector_from_bytes,
)
from pilot_secure.federation.methods import Method
from pilot_secure.federation.participant import BROKEN_RULES, Briefing, Participant
from pilot_secure.federation.state import ClientState, difference, flatten
from pilot_secure.federation.worker import Worker
from pilot_secure.privacy.planning import NoisePlan
from pilot_secure.privacy.protection import NoisedUpdate, Protection
from protocols import (
    AggregationResult,
    AnswerGuard,
    ClientInputs,
    Identity,
    SealedSum,
    results_hash,
)
from protocols.identity import SERVER

FEDERATION_PHASES = frozenset({"train", "evaluate", "clear_update", "clear_deliver"})


@dataclass(frozen=True)
class _Place:
    """Where in the run the client is: the last training request it answered."""

    round: int
    stage: int
    cohort: tuple[str, ...]


class FederationClient:
    """One client with its data, its adapters and its keys.

    The base model is the worker's, shared with the other clients of the same process; everything
    that distinguishes this client is in ``state``.
    """

    remembered: ClassVar[tuple[str, ...]] = (
        "state",
        "_place",
        "_participation",
        "_previous_results",
        "_absorbed",
        "_noised_update",
    )

    def __init__(
        self,
        identity: Identity,
        agreement: Agreement,
        data: ClientData,
        method: Method,
        worker: Worker,
        journal: Journal,
        guard: AnswerGuard,
        noise: NoisePlan | None = None,
        escrow: bytes | None = None,
    ) -> None:
        """Encode the data; ``guard`` must be the one that this client has always had."""
        self.name = identity.name
        self.data = data
        self.state = ClientState(text_adapter=worker.initial_text_adapter())
        self._identity = identity
        self._agreement = agreement
        self._method = method
        self._worker = worker
        self._journal = journal
        self._protection = Protection(self.name, noise, journal.released)
        self._participant = Participant(
            identity,
            agreement.roster,
            guard,
            journal,
            max_attempts=agreement.config.security.max_attempts,
            escrow=escrow,
        )
        self._start = method.start(worker)
        self.samples = worker.encode(data)
        self._place: _Place | None = None
        self._previous_results = bytes(32)
        self._absorbed: set[tuple[int, int]] = set()

    @property
    def num_samples(self) -> int:
        """Training samples, n_k. Secrecy: this client's; it leaves only inside a masked sum."""
        return len(self.samples)

    @property
    def absorbed(self) -> frozenset[tuple[int, int]]:
        """Rounds and stages whose aggregation has been taken home."""
        return frozenset(self._absorbed)

    @property
    def aggregating(self) -> bool:
        """Whether an attempt is going on whose results have not been delivered whole."""
        return self._participant.machine is not None

    def handle(self, phase: PhaseKey, request: bytes) -> bytes:
        """Answer one request. A request that breaks a rule is answered by a signed refusal."""
        try:
            if phase.name in FEDERATION_PHASES:
                return self._answer(request)
            return self._aggregate(phase, request)
        except BROKEN_RULES as error:
            return self._participant.refuse(phase, self._agreement.run_id, error)

    def _seal(
        self, place: FederationMessage, kind: type[FederationMessage], **fields: Any
    ) -> bytes:
        message = kind(
            run_id=self._agreement.run_id,
            round=place.round,
            stage=place.stage,
            sender=self.name,
            recipient=SERVER,
            **fields,
        )
        return seal(message, self._identity)

    def _answer(self, request: bytes) -> bytes:
        message = open_frame(request, self._agreement.roster, SERVER, self._agreement.run_id)
        if message.recipient != self.name:
            raise FederationMessageError(f"{SERVER}: a message to {message.recipient}")
        if isinstance(message, TrainRequest):
            return self._train(message)
        if isinstance(message, EvaluateRequest):
            return self._evaluate(message)
        if isinstance(message, ClearCall | ClearDelivery):
            return self._exchange_in_clear(message)
        raise FederationMessageError(f"{SERVER}: {message.kind} is not a request")

    def _train(self, request: TrainRequest) -> bytes:
        self._place = _Place(request.round, request.stage, request.cohort)
        self._catch_up(request.catch_up)
        self._method.begin_stage(self.state, request.stage, self._worker, self.data.task)
        steps = self._worker.train(
            self.state,
            self.samples,
            stage=request.stage,
            plan=self._method.plan(request.stage),
            label=f"{self.name}/round-{request.round}/stage-{request.stage}",
            journal=lambda epoch, steps, means: self._journal.losses(
                self.name, request.round, request.stage, epoch, steps, means
            ),
            progress=lambda seconds: self._journal.progress(
                f"round {request.round}, stage {request.stage}: {self.name} trains", seconds
            ),
            protection=self._protection,
        )
        self._protection.trained(
            (request.round, request.stage), steps=steps, num_examples=self.num_samples
        )
        if self._protection.noises_updates:
            self._upload()  # the noise is drawn here, and remembered if the process is killed
        return self._seal(request, Done)

    @property
    def _noised_update(self) -> NoisedUpdate | None:
        return self._protection.sent

    @_noised_update.setter
    def _noised_update(self, sent: NoisedUpdate | None) -> None:
        self._protection.sent = sent

    def _catch_up(self, missed: Sequence[CatchUp]) -> None:
        """Take each aggregation's means, once: the server may not know that it was heard."""
        for delivered in missed:
            if (delivered.round, delivered.stage) not in self._absorbed:
                means = means_from_wire(delivered.means)
                self._previous_results = results_hash(delivered.session, means)
                self._absorbed.add((delivered.round, delivered.stage))
                self._method.absorb_means(self.state, means, self._worker, self.data.task)

    def _evaluate(self, request: EvaluateRequest) -> bytes:
        self._catch_up(request.catch_up)
        state = self.state
        if request.point == "before":
            state = self._worker.bare_state()
        else:
            self.prepare_to_answer()
        score = self._worker.score(
            state,
            self.data,
            progress=lambda seconds: self._journal.progress(
                f"{request.point.replace('_', ' ')}: {self.name} answers", seconds
            ),
        )
        self._journal.score(self.name, request.round, request.stage, request.point, score)
        return self._seal(request, Done)

    def prepare_to_answer(self) -> None:
        """Compute what the adapters need before they answer; it follows from them."""
        self._method.prepare_to_answer(self.state, self._worker, self.samples)

    def _upload(self) -> dict[str, dict[str, np.ndarray]]:
        vectors = self._method.upload(self.state)
        update = {name: difference(vectors[name], self._start[name]) for name in vectors}
        if self._place is None:
            raise FederationMessageError(f"{SERVER}: an aggregation before any training")
        return self._protection.upload((self._place.round, self._place.stage), update)

    def _aggregate(self, phase: PhaseKey, request: bytes) -> bytes:
        participant = self._participant
        reply = participant.handle(phase, request, self.brief)
        if participant.result is not None:
            self.absorb(participant.result)
            participant.result = None
        return reply

    @property
    def trained_at(self) -> tuple[int, int] | None:
        """Round and stage of the last training; None before any."""
        return None if self._place is None else (self._place.round, self._place.stage)

    def brief(self, attempt: int = 0) -> Briefing:
        """Return what an attempt of the aggregation after the last training starts from.

        Raises: FederationMessageError before any training.
        """
        place = self._place
        if place is None:
            raise FederationMessageError(f"{SERVER}: an aggregation before any training")
        parameters = self._agreement.parameters(place.round, place.stage, attempt, place.cohort)
        vectors = self._upload()
        measured = vectors.get(parameters.distance_vector or "")
        if measured:
            self._journal.uploads(self.name, place.round, place.stage, flatten(measured))
        inputs = ClientInputs(
            vectors=vectors,
            num_samples=self.num_samples,
            previous_results=self._previous_results,
        )
        return Briefing(parameters, inputs)

    def absorb(self, result: AggregationResult) -> None:
        """Take home the result of the aggregation after the last training, once."""
        place = self._place
        if place is not None and (place.round, place.stage) not in self._absorbed:
            self._take_home(result)
            self._previous_results = result.results_hash

    @property
    def _participation(self) -> dict[str, Any]:
        return memory_of(self._participant)

    @_participation.setter
    def _participation(self, memory: dict[str, Any]) -> None:
        recall(self._participant, memory)

    def _take_home(self, result: AggregationResult) -> None:
        assert self._place is not None
        self._absorbed.add((self._place.round, self._place.stage))
        self._method.absorb_means(self.state, result.means, self._worker, self.data.task)
        if result.sealed is not None:
            self._method.absorb_personal(self.state, result.sealed, self._worker, self.num_samples)
        self._journal.aggregated(self.name, self._place.round, self._place.stage, result)

    def _exchange_in_clear(self, message: AnyFederationMessage) -> bytes:
        if self._agreement.config.security.secure_agg:
            raise FederationMessageError(f"{SERVER}: {message.kind} under secure_agg")
        if isinstance(message, ClearCall):
            vectors = {name: vector_bytes(flatten(v)) for name, v in self._upload().items()}
            return self._seal(message, ClearUpdate, num_samples=self.num_samples, vectors=vectors)
        assert isinstance(message, ClearDelivery)
        self._take_home(_clear_result(message))
        return self._seal(message, Done)


def _clear_result(message: ClearDelivery) -> AggregationResult:
    sealed = None
    if message.personal is not None:
        fields = message.personal.model_dump()
        fields["vector_sum"] = vector_from_bytes(fields["vector_sum"])
        sealed = SealedSum(**fields)
    return AggregationResult(
        means=means_from_wire(message.means),
        sealed=sealed,
        survivors=(),
        row=message.row,
        neighbours=message.neighbours,
        scale=min(message.row.values(), default=0.0),
        weights=message.weights,
        clip_counts={},
        results_hash=bytes(32),
        session=bytes(32),
    )
