"""A client's middle phases under key-holder trust: a blinded upload, then its row of distances."""

from __future__ import annotations

from protocols.client_select import choose, sketched_vector
from protocols.client_setup import open_share_box
from protocols.client_states import Blinded, BlindedMachine, Context, Selected, Session, Shared
from protocols.distance_lengths import holder_keys_bytes
from protocols.distance_messages import (
    BlindedCall,
    BlindedUpload,
    DistanceTable,
    HolderKeys,
    RowDelivery,
)
from protocols.distance_table import ROW_USAGE, num_pairs, open_row
from protocols.errors import BadDistance, BadKey, BadPlan, ProtocolError
from protocols.frame import frame_hash, open_relayed, seal
from protocols.frame_sizes import largest_frame
from protocols.identity import KEY_HOLDER, SERVER
from protocols.keys import Channel, UnusableKey, check_public_key, derive
from protocols.messages import Box


def on_blinded_call(context: Context, state: Shared, message: BlindedCall) -> tuple[Blinded, bytes]:
    """Blind the sketch with the dealt secret, encrypt it under the holder's keys, upload it once.

    Raises:
        BadSignature, WrongSession: of the server, which relays them, keys that the pinned holder
            did not sign for this session.
        BadKey, BadDistance: of the holder, keys that it signed and that are not usable.
        BadShare: a blinding secret that does not open.
    """
    phase, session = "distance_upload", state.session
    keys = check_holder_keys(context, session, message.keys, phase)
    dealt = dealt_secret(context, session, message.dealt, phase)
    machine = make_blinded_machine(context, session, blinding_key(session.id, dealt))
    try:
        upload = machine.upload(keys.keys)
    except BadDistance as error:
        raise BadDistance(KEY_HOLDER, phase, error.reason) from error
    reply = BlindedUpload(
        session=session.id,
        sender=context.name,
        recipient=SERVER,
        upload=upload,
        blinding=blinding_digest(session.id, dealt),
    )
    frame = seal(reply, context.identity)
    return Blinded(session, machine, keys.row_key, frame_hash(frame)), frame


def check_holder_keys(context: Context, session: Session, frame: bytes, phase: str) -> HolderKeys:
    """Return the key holder's keys, once its pinned identity has signed them for this session.

    Raises:
        PeerError: of the server, who relays them, keys that the holder did not sign for this
            session; of the holder, signed ones that are not usable.
    """
    limit = largest_frame(context.parameters, "holder_keys")
    keys = open_relayed(frame, HolderKeys, session.id, context.roster, phase, limit, KEY_HOLDER)
    if len(keys.keys) != holder_keys_bytes(context.parameters):
        raise BadDistance(KEY_HOLDER, phase, f"keys of {len(keys.keys)} bytes")
    try:
        check_public_key(keys.row_key)
    except UnusableKey as error:
        raise BadKey(KEY_HOLDER, phase, str(error)) from None
    return keys


def dealt_secret(context: Context, session: Session, dealt: Box, phase: str) -> bytes:
    """Return the blinding secret of the client that the server named as its dealer."""
    if dealt.party == context.name:
        return session.blinding
    if dealt.party not in session.adverts:
        raise BadPlan(SERVER, phase, f"a blinding secret of {dealt.party}, who is no member")
    return open_share_box(context, session, dealt.party, dealt.ciphertext, phase)[1]


def blinding_key(session: bytes, dealt: bytes) -> bytes:
    """Return the secret of the isometry."""
    return derive(dealt, session, "blinding")


def blinding_digest(session: bytes, dealt: bytes) -> bytes:
    """Return the hash by which server and holder see that clients blind alike, and nothing else."""
    return derive(dealt, session, "blinding-digest")


def make_blinded_machine(context: Context, session: Session, blinding: bytes) -> BlindedMachine:
    """Return the machine that blinds and encrypts this client's sketched vector."""
    from protocols.key_holder import KeyHolderClient

    sketched, bound = sketched_vector(context, session)
    name = context.parameters.distance_parameter_set
    return KeyHolderClient(sketched, name, bound, blinding)


def on_row_delivery(
    context: Context, state: Blinded, message: RowDelivery
) -> tuple[Selected, bytes]:
    """Open the own row, which the holder has committed to before all, and choose neighbours.

    Raises:
        BadDistance: of the server, which relays it, a row that does not open, or a table without
            us; of the holder, whose key opens it, a row that does not open its commitments or is
            impossible under the norm bound, or a table with another upload for ours.
        BadPlan: strangers in the table, or too few clients.
    """
    phase, session = "select", state.session
    table = check_table(context, state, message.table, phase)
    names = tuple(item.party for item in table.uploads)
    channel = Channel(session.keys.share.exchange(state.row_key), session.id)
    try:
        row = channel.open(ROW_USAGE, KEY_HOLDER, context.name, message.row)
    except ValueError as error:
        reason = f"our row of the key holder, as relayed by the server, {error}"
        raise BadDistance(SERVER, phase, reason) from None
    try:
        squared = open_row(session.id, context.name, names, row, table.commitments)
        distances = {peer: state.distances.accept(value) ** 0.5 for peer, value in squared.items()}
    except (ValueError, ProtocolError) as error:
        raise BadDistance(KEY_HOLDER, phase, f"our row: {error}") from error
    peers = tuple(sorted(squared))
    return choose(context, session, peers, distances, message.table)


def check_table(context: Context, state: Blinded, frame: bytes, phase: str) -> DistanceTable:
    """Return the holder's signed table if it can be that of this attempt, with our upload."""
    session = state.session
    limit = largest_frame(context.parameters, "distance_table")
    table = open_relayed(frame, DistanceTable, session.id, context.roster, phase, limit, KEY_HOLDER)
    names = [item.party for item in table.uploads]
    if names != sorted(set(names)) or not set(names) <= set(session.adverts):
        raise BadPlan(KEY_HOLDER, phase, "distances of strangers, or out of order")
    if len(names) < context.parameters.threshold:
        raise BadPlan(KEY_HOLDER, phase, f"distances of {len(names)} clients, below the threshold")
    if context.name not in names:
        raise BadDistance(SERVER, phase, "our upload was left out of the distances")
    if {item.party: item.digest for item in table.uploads}[context.name] != state.upload_hash:
        raise BadDistance(KEY_HOLDER, phase, "another upload than ours was measured in its place")
    if len(table.commitments) != num_pairs(len(names)):
        raise BadDistance(KEY_HOLDER, phase, "not one commitment per pair")
    return table
