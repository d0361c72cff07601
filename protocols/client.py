"""The client's machine: one object per attempt, one request in, one reply out."""

from __future__ import annotations

from protocols import (
    client_blinded,
    client_deliver,
    client_masking,
    client_select,
    client_setup,
    client_unmask,
    client_upload,
)
from protocols.client_states import (
    MAX_ANSWERS,
    Advertised,
    AggregationResult,
    Answered,
    AnswerGuard,
    Blinded,
    ClientInputs,
    Confirmed,
    Context,
    Contribution,
    Failed,
    Finished,
    Idle,
    Receiving,
    Replied,
    Selected,
    Shared,
    Sketched,
    State,
    Uploaded,
    Uploading,
)
from protocols.distance_messages import (
    BlindedCall,
    DistanceCall,
    DistanceDelivery,
    DistanceUploads,
    RowDelivery,
)
from protocols.entropy import Entropy
from protocols.errors import (
    InputError,
    LocalProtocolError,
    ParameterError,
    ProtocolError,
    UnexpectedMessage,
    WrongSession,
)
from protocols.frame import open_frame
from protocols.frame_sizes import largest_due
from protocols.identity import SERVER, Identity, Roster
from protocols.messages import (
    Advertisements,
    AdvertiseRequest,
    Delivery,
    DeliveryPart,
    Message,
    PartRequest,
    Plan,
    SurvivorSet,
    UnmaskRequest,
)
from protocols.parameters import AggregationParameters
from protocols.states import CLIENT, find
from protocols.transcript import RunningHash


class AggregationClient:
    """One client in one attempt (run, round, stage, attempt).

    ``handle`` takes the server's frame and returns the reply's. After a delivery, ``result`` holds
    what the client takes home. The guard must outlive this object, and the attempts with it.
    """

    def __init__(
        self,
        parameters: AggregationParameters,
        identity: Identity,
        inputs: ClientInputs,
        entropy: Entropy,
        *,
        roster: Roster,
        guard: AnswerGuard,
        max_answers: int = MAX_ANSWERS,
    ) -> None:
        """Check that this client belongs to the cohort and its inputs to the parameters.

        ``max_answers`` bounds how often it answers distance queries about the same updates, in
        whatever attempts.

        Raises:
            ParameterError: another roster than the pinned one, or not in the cohort.
            InputError: a sample count that is no int or outside 1..max_samples.
        """
        check_pinned(parameters, identity, roster)
        if identity.name not in parameters.cohort:
            raise ParameterError(f"{identity.name} is not in the cohort")
        if type(inputs.num_samples) is not int:
            kind = type(inputs.num_samples).__name__
            raise InputError(f"{identity.name}: num_samples must be a plain int, not {kind}")
        if not 1 <= inputs.num_samples <= parameters.max_samples:
            raise InputError(f"{identity.name}: num_samples must be 1 to {parameters.max_samples}")
        if len(inputs.previous_results) != 32:
            raise InputError(f"{identity.name}: previous_results must be 32 bytes")
        self._context = Context(parameters, identity, roster, inputs, entropy, guard, max_answers)
        self._state: State = Idle()
        self._running = RunningHash()

    @property
    def state(self) -> str:
        """The present state's name in the transition table."""
        return self._state.label

    @property
    def result(self) -> AggregationResult | None:
        """What this client takes home, once delivered."""
        return self._state.result if isinstance(self._state, Finished) else None

    @property
    def contribution(self) -> Contribution | None:
        """What this client put into the sums, known from its upload to the end of the attempt."""
        match self._state:
            case Uploaded() as uploaded:
                return Contribution(uploaded.weights, uploaded.num_distances)
            case (
                Confirmed(uploaded=uploaded)
                | Answered(uploaded=uploaded)
                | Receiving(uploaded=uploaded)
            ):
                return Contribution(uploaded.weights, uploaded.num_distances)
            case Finished(result=result):
                return Contribution(result.weights, result.num_distances)
            case _:
                return None

    def handle(self, request: bytes) -> bytes:
        """Return the signed reply to a request of the server.

        Raises:
            PeerError: the request is not the server's, comes at the wrong time or for another
                session (the state stays), or breaks a rule (the attempt is over).
            ProtocolError: this client's own inputs, guard or use of the machine.
        """
        if isinstance(self._state, Failed):
            raise LocalProtocolError(f"{self._context.name}: {self._state.reason}")
        context, phase = self._context, self._state.label
        limit = largest_due(context.parameters, CLIENT, phase)
        message = open_frame(request, context.roster, SERVER, phase, limit)
        self._check_order(message)
        try:
            state, reply = self._step(message, request)
        except ProtocolError as error:
            self._state = Failed(f"this attempt ended with {type(error).__name__}")
            raise
        if message.kind != "delivery":
            self._running.received(request)
        self._running.sent(reply)
        self._state = state
        return reply

    def _check_order(self, message: Message) -> None:
        """Refuse what is for another session or client, or has no row in the table."""
        phase = self._state.label
        if message.session != self._session():
            raise WrongSession(SERVER, phase, "a request of another session")
        if message.recipient != self._context.name:
            raise UnexpectedMessage(SERVER, phase, f"a request to {message.recipient}")
        if find(CLIENT, phase, message.kind, self._context.parameters.distances) is None:
            raise UnexpectedMessage(SERVER, phase, f"{message.kind} in state {phase}")
        if isinstance(message, PartRequest | DeliveryPart) and message.part != self._part_due():
            reason = f"{message.kind} {message.part} where {self._part_due()} is due"
            raise UnexpectedMessage(SERVER, phase, reason)

    def _part_due(self) -> int:
        """Return the number of the part, of the upload or the delivery, that comes next."""
        match self._state:
            case Uploading(sent=sent):
                return len(sent)
            case Receiving(parts=parts):
                return parts
            case _:
                return 0

    def _session(self) -> bytes:
        """Return the id that requests must carry: the parameters' before the session exists."""
        match self._state:
            case Shared() | Sketched() | Replied() | Blinded() | Selected():
                return self._state.session.id
            case Uploading() | Uploaded():
                return self._state.session.id
            case Confirmed() | Answered() | Receiving():
                return self._state.uploaded.session.id
            case Finished():
                return self._state.result.session
            case _:
                return self._context.parameters.digest()

    def _step(self, message: Message, request: bytes) -> tuple[State, bytes]:
        """Dispatch to the phase; the pairs are the rows of the client's table."""
        context = self._context
        match self._state, message:
            case Idle() as state, AdvertiseRequest():
                return client_setup.on_advertise_request(context, state, message)
            case Advertised() as state, Advertisements():
                return client_setup.on_advertisements(context, state, message)
            case Shared() as state, DistanceCall():
                return client_select.on_distance_call(context, state, message)
            case Sketched() as state, DistanceUploads():
                return client_select.on_distance_uploads(context, state, message)
            case Replied() as state, DistanceDelivery():
                return client_select.on_distance_delivery(context, state, message)
            case Shared() as state, BlindedCall():
                return client_blinded.on_blinded_call(context, state, message)
            case Blinded() as state, RowDelivery():
                return client_blinded.on_row_delivery(context, state, message)
            case (Shared() | Selected()) as state, Plan():
                return client_masking.on_plan(context, state, message)
            case Uploading() as state, PartRequest():
                return client_upload.on_part_request(context, state, message)
            case Uploaded() as state, SurvivorSet():
                return client_unmask.on_survivor_set(context, state, message)
            case Confirmed() as state, UnmaskRequest():
                return client_unmask.on_unmask_request(context, state, message)
            case (Answered() | Receiving()) as state, DeliveryPart():
                return client_deliver.on_delivery_part(context, state, message)
            case (Answered() | Receiving()) as state, Delivery():
                self._running.received(request)
                return client_deliver.on_delivery(context, state, message, self._running.value)
        raise UnexpectedMessage(SERVER, self._state.label, "a request without a row in the table")


def check_pinned(parameters: AggregationParameters, identity: Identity, roster: Roster) -> None:
    """Refuse a roster that is not the parameters', or that pins another key for this party.

    Raises:
        ParameterError: with the party that does not fit.
    """
    if roster.digest() != parameters.roster:
        raise ParameterError(f"{identity.name}: the roster is not the one of the parameters")
    entries = {entry.name: entry.public_key for entry in roster.entries()}
    if entries.get(identity.name) != identity.public_key():
        raise ParameterError(f"{identity.name}: the roster pins another key for this name")
    strangers = sorted(set(parameters.cohort) - set(roster.names()))
    if strangers:
        raise ParameterError(f"cohort: {strangers} are not in the roster")
    if parameters.distances == "key_holder" and roster.key_holder is None:
        raise ParameterError("distance_trust: key_holder needs a key holder in the roster")
