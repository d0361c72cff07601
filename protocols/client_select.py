"""A client's middle phases: encrypted distances to its peers, and the choice of neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from protocols.client_states import (
    Context,
    DistanceMachine,
    Replied,
    Selected,
    Session,
    Shared,
    Sketched,
)
from protocols.distance_lengths import distance_upload_bytes, padded_list_bytes
from protocols.distance_messages import (
    DistanceCall,
    DistanceDelivery,
    DistanceReplies,
    DistanceUpload,
    DistanceUploads,
    NeighbourList,
    Selection,
)
from protocols.distance_values import Vector
from protocols.errors import (
    AttemptRefused,
    BadDistance,
    BadPlan,
    BadSelection,
    ParameterError,
    ProtocolError,
)
from protocols.frame import expect, open_frame, open_relayed, seal
from protocols.frame_sizes import largest_frame
from protocols.identity import SERVER
from protocols.keys import derive
from protocols.messages import Box
from protocols.parameters import AggregationParameters
from protocols.ring import CHUNK, FlatVector, Floats
from protocols.selection import Chosen, select
from protocols.sketch import sketch, sketch_norm_bound

DISTANCE_USAGE = "distance-reply"
SELECTION_USAGE = "selection"
_LENGTH_BYTES = 4


def sketched_vector(context: Context, session: Session) -> tuple[Vector, float]:
    """Return the sketch of this client's vector, and the bound that holds for its norm."""
    parameters = context.parameters
    name = parameters.distance_vector
    if name is None or name not in context.inputs.vectors:
        raise ParameterError(f"{context.name}: selected sums need the vector {name}")
    vector = FlatVector(context.inputs.vectors[name], f"{context.name}, {name}")
    seed = derive(session.id, session.id, "sketch")
    return sketch(_chunks(vector), seed, parameters.sketch_size), sketch_bound(parameters)


def sketch_bound(parameters: AggregationParameters) -> float:
    """Return the public bound on every client's sketch norm."""
    length = parameters.vector_lengths[parameters.distance_vector or ""]
    return sketch_norm_bound(parameters.distance_norm_bound, length, parameters.sketch_size)


def make_distance_machine(context: Context, session: Session) -> DistanceMachine:
    """Return the machine that compares this client's sketched vector with its peers'."""
    from protocols.distances import DistanceParty

    sketched, bound = sketched_vector(context, session)
    name = context.parameters.distance_parameter_set
    return DistanceParty(sketched, name, bound, context.entropy)


def _chunks(vector: FlatVector) -> Iterator[Floats]:
    for start in range(0, len(vector), CHUNK):
        chunk = np.empty(min(CHUNK, len(vector) - start), np.float32)
        vector.read_checked(start, chunk)
        yield chunk


def on_distance_call(
    context: Context, state: Shared, _message: DistanceCall
) -> tuple[Sketched, bytes]:
    """Encrypt the sketch under a fresh key and upload it once, the same for all peers."""
    machine = make_distance_machine(context, state.session)
    reply = DistanceUpload(
        session=state.session.id, sender=context.name, recipient=SERVER, upload=machine.upload()
    )
    return Sketched(state.session, machine), seal(reply, context.identity)


def on_distance_uploads(
    context: Context, state: Sketched, message: DistanceUploads
) -> tuple[Replied, bytes]:
    """Answer each peer's upload once. Signatures are checked before any ciphertext is loaded.

    Raises:
        BadPlan: uploads of strangers, of itself, two of one peer, or the same bytes of two parties.
        BadSignature: an upload that its sender did not sign; the server's fault, who relays it.
        BadDistance: a signed upload that the distance protocol refuses.
        AttemptRefused: queries about these updates were answered as often as may be.
    """
    phase, session = "distance_reply", state.session
    uploads = _peers_uploads(context, state, message, phase)
    _claim_answer(context, session)
    boxes: dict[str, Box] = {}
    for peer, upload in uploads.items():
        try:
            reply = state.distances.reply(upload)
        except ProtocolError as error:
            raise BadDistance(peer, phase, str(error)) from error
        sealed = session.channel(peer).seal(DISTANCE_USAGE, context.name, peer, reply)
        boxes[peer] = Box(party=peer, ciphertext=sealed)
    peers = tuple(sorted(boxes))
    replies = DistanceReplies(
        session=session.id,
        sender=context.name,
        recipient=SERVER,
        boxes=tuple(boxes[peer] for peer in peers),
    )
    return Replied(session, state.distances, peers), seal(replies, context.identity)


def _peers_uploads(
    context: Context, state: Sketched, message: DistanceUploads, phase: str
) -> dict[str, bytes]:
    """Return {peer: upload}, all checked before any is answered.

    An upload is answered once, so a peer that signs another's bytes would pass the blame on to
    it. The server refuses the second of two equal uploads: relaying both is its fault.
    """
    session, uploads = state.session, dict[str, bytes]()
    limit = largest_frame(context.parameters, "distance_upload")
    seen = {state.distances.upload()}
    for frame in message.uploads:
        upload = open_relayed(frame, DistanceUpload, session.id, context.roster, phase, limit)
        peer = upload.sender
        if peer not in session.adverts or peer == context.name or peer in uploads:
            raise BadPlan(SERVER, phase, "uploads of strangers or repeated ones")
        if len(upload.upload) != distance_upload_bytes(context.parameters):
            raise BadDistance(peer, phase, f"an upload of {len(upload.upload)} bytes")
        if upload.upload in seen:
            raise BadPlan(SERVER, phase, f"the upload of {peer} is that of another party, too")
        seen.add(upload.upload)
        uploads[peer] = upload.upload
    return uploads


def _claim_answer(context: Context, session: Session) -> None:
    """Have the guard persist, before anything is answered, that this session's queries are.

    Raises:
        AttemptRefused: queries about these updates were answered as often as may be.
    """
    updates = context.parameters.attempt_label
    labels = (f"{updates}/distances/{number}" for number in range(context.max_answers))
    if not any(context.guard.claim(label, session.id) for label in labels):
        raise AttemptRefused(
            f"{context.name}: distance queries about the updates of {updates} were answered "
            f"{context.max_answers} times, the most that is allowed"
        )


def on_distance_delivery(
    context: Context, state: Replied, message: DistanceDelivery
) -> tuple[Selected, bytes]:
    """Open the own row of distances and send the peers the resulting neighbour list."""
    row = open_row(context, state, message)
    return choose(context, state.session, state.peers, row)


def choose(
    context: Context,
    session: Session,
    peers: tuple[str, ...],
    row: Mapping[str, float],
    table: bytes = b"",
) -> tuple[Selected, bytes]:
    """Select from the own row of distances; tell the list to ``peers``, who take part too."""
    parameters = context.parameters
    chosen = select(row, parameters.num_neighbours, parameters.min_contributors - 1)
    listing = NeighbourList(
        session=session.id,
        sender=context.name,
        recipient=SERVER,
        neighbours=chosen.neighbours,
        scale=chosen.scale,
    )
    frame = seal(listing, context.identity)
    visible = context.parameters.neighbour_visibility == "visible"
    reply = Selection(
        session=session.id,
        sender=context.name,
        recipient=SERVER,
        boxes=hide_list(context, session, peers, frame),
        neighbours=chosen.neighbours if visible else (),
    )
    return Selected(session, row, chosen, frame, table), seal(reply, context.identity)


def open_row(context: Context, state: Replied, message: DistanceDelivery) -> dict[str, float]:
    """Return {peer: distance} from the replies of the peers that were answered.

    Raises:
        BadDistance: of the server, a reply that does not open; of the peer whose key opened it,
            one that is out of range.
        BadPlan: replies of parties that were not asked, or too few of them.
    """
    phase = "select"
    row: dict[str, float] = {}
    for box in message.boxes:
        if box.party not in state.peers or box.party in row:
            raise BadPlan(SERVER, phase, "replies of strangers or repeated ones")
        channel = state.session.channel(box.party)
        try:
            reply = channel.open(DISTANCE_USAGE, box.party, context.name, box.ciphertext)
        except ValueError as error:
            reason = f"the reply of {box.party}, as relayed by the server, {error}"
            raise BadDistance(SERVER, phase, reason) from None
        row[box.party] = _distance(state, box.party, reply)
    if len(row) + 1 < context.parameters.threshold:
        raise BadPlan(SERVER, phase, f"replies of {len(row)} peers, below the threshold")
    return row


def _distance(state: Replied, peer: str, reply: bytes) -> float:
    """Return the distance in a reply that this peer encrypted."""
    try:
        squared = state.distances.open(reply)
    except ProtocolError as error:
        raise BadDistance(peer, "select", str(error)) from error
    if not 0 <= squared < math.inf:
        raise BadDistance(peer, "select", "a distance that is no finite number from 0 on")
    return math.sqrt(squared)


def hide_list(
    context: Context, session: Session, peers: tuple[str, ...], frame: bytes
) -> tuple[Box, ...]:
    """Return one box per peer, all of the same public length whatever the list."""
    room = padded_list_bytes(context.parameters.most_neighbours)
    padded = len(frame).to_bytes(_LENGTH_BYTES, "big") + frame
    padded += bytes(room - len(padded))
    return tuple(
        Box(
            party=peer,
            ciphertext=session.channel(peer).seal(SELECTION_USAGE, context.name, peer, padded),
        )
        for peer in peers
    )


def open_list(context: Context, session: Session, peer: str, data: bytes) -> tuple[Chosen, bytes]:
    """Return a peer's checked selection, and its signed frame, from its encrypted box.

    Raises:
        BadSelection: of the server, which relays it, a box that does not open.
        PeerError: of the peer whose key opened the box, a list that is not signed or breaks a
            rule.
    """
    phase, frame = "masked_input", _unhide(context, session, peer, data)
    limit = largest_frame(context.parameters, "neighbour_list")
    message = open_frame(frame, context.roster, peer, phase, limit)
    listing = expect(message, NeighbourList, session.id, SERVER, phase)
    check_list(context, session, peer, listing)
    return Chosen(listing.neighbours, listing.scale), frame


def _unhide(context: Context, session: Session, peer: str, data: bytes) -> bytes:
    phase = "masked_input"
    try:
        padded = session.channel(peer).open(SELECTION_USAGE, peer, context.name, data)
    except ValueError as error:
        reason = f"the neighbour list of {peer}, as relayed by the server, {error}"
        raise BadSelection(SERVER, phase, reason) from None
    length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
    end = _LENGTH_BYTES + length
    frame, padding = padded[_LENGTH_BYTES:end], padded[end:]
    if len(padded) != padded_list_bytes(context.parameters.most_neighbours) or any(padding):
        raise BadSelection(peer, phase, "its neighbour list is not padded as agreed")
    return frame


def check_list(context: Context, session: Session, peer: str, listing: NeighbourList) -> None:
    """Refuse a list that is too short, too long, or names its owner or strangers."""
    parameters, phase = context.parameters, "masked_input"
    count = len(listing.neighbours)
    if count < parameters.min_contributors - 1:
        raise BadSelection(peer, phase, f"a list of {count} neighbours is below the minimum")
    if count > parameters.most_neighbours:
        raise BadSelection(peer, phase, f"a list of {count}, above {parameters.most_neighbours}")
    if peer in listing.neighbours or not set(listing.neighbours) <= set(session.adverts):
        raise BadSelection(peer, phase, "it lists itself or a stranger")
