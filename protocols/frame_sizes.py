"""How long each kind of frame can be under an attempt's parameters.

Cohort, sums, vectors and distance parameters are public, so every party knows before a frame comes
how long it may be: a longer one is refused unhashed. The bounds are for names of full length.
"""

from __future__ import annotations

from protocols.distance_lengths import (
    distance_reply_bytes,
    distance_upload_bytes,
    holder_keys_bytes,
    padded_list_bytes,
)
from protocols.distance_table import num_pairs, row_bytes
from protocols.identity import MAX_NAME
from protocols.keys import TAG_BYTES
from protocols.parameters import AggregationParameters
from protocols.parts import cut
from protocols.ring import packed_bytes
from protocols.shares import SECRET_BYTES
from protocols.states import Transition, applies

HEADER = 512  # signature, kind, version, session, sender, recipient, heads of the other fields
NAME = MAX_NAME + 2
ITEM = NAME + 64  # an item's party, the names of its fields and all heads
DIGEST = 32 + 2
SIGNATURE = 64 + 2
SCALARS = 64


def largest_due(
    parameters: AggregationParameters, table: tuple[Transition, ...], state: str
) -> int:
    """Return a bound on every frame that ``state`` takes; in a final state, on an empty one."""
    rows = [r for r in table if r.state == state and applies(r, parameters.distances)]
    return max((largest_frame(parameters, row.event) for row in rows), default=HEADER)


def largest_frame(parameters: AggregationParameters, kind: str) -> int:
    """Return a bound on the frames of this kind, in bytes.

    Raises:
        KeyError: no kind of message is called so.
    """
    return HEADER + _CONTENT[kind](parameters)


def _nothing(_parameters: AggregationParameters) -> int:
    return 0


def _members(parameters: AggregationParameters) -> int:
    return len(parameters.cohort)


def _boxes(parameters: AggregationParameters, content: int) -> int:
    return _members(parameters) * (ITEM + content + TAG_BYTES)


def _advertisement(_parameters: AggregationParameters) -> int:
    return 4 * DIGEST


def _advertisements(parameters: AggregationParameters) -> int:
    return _members(parameters) * (ITEM + largest_frame(parameters, "advertisement"))


def _shares(parameters: AggregationParameters) -> int:
    """What one member deals to another: a share of its mask key, of each seed, and a blinding."""
    return SECRET_BYTES * (2 + len(parameters.sums))


def _commitments(parameters: AggregationParameters) -> int:
    return DIGEST * (1 + len(parameters.sums))


def _encrypted_shares(parameters: AggregationParameters) -> int:
    commitments = _members(parameters) * (ITEM + _commitments(parameters))
    return _boxes(parameters, _shares(parameters)) + commitments + _commitments(parameters)


def _distance_uploads(parameters: AggregationParameters) -> int:
    return _members(parameters) * (ITEM + largest_frame(parameters, "distance_upload"))


def _distance_replies(parameters: AggregationParameters) -> int:
    return _boxes(parameters, distance_reply_bytes(parameters))


def _holder_keys(parameters: AggregationParameters) -> int:
    return DIGEST + holder_keys_bytes(parameters)


def _blinded_call(parameters: AggregationParameters) -> int:
    dealt = ITEM + _shares(parameters) + TAG_BYTES
    return largest_frame(parameters, "holder_keys") + dealt


def _blinded_upload(parameters: AggregationParameters) -> int:
    return DIGEST + distance_upload_bytes(parameters)


def _release_request(parameters: AggregationParameters) -> int:
    members = _members(parameters)
    uploads = members * (ITEM + largest_frame(parameters, "blinded_upload"))
    result = NAME + ITEM + DIGEST
    return uploads + num_pairs(members) * result


def _distance_table(parameters: AggregationParameters) -> int:
    members = _members(parameters)
    return members * (ITEM + DIGEST) + num_pairs(members) * DIGEST


def _distance_release(parameters: AggregationParameters) -> int:
    rows = _boxes(parameters, row_bytes(_members(parameters)))
    return largest_frame(parameters, "distance_table") + rows


def _row_delivery(parameters: AggregationParameters) -> int:
    row = ITEM + row_bytes(_members(parameters)) + TAG_BYTES
    return largest_frame(parameters, "distance_table") + row


def _neighbour_list(parameters: AggregationParameters) -> int:
    return ITEM + NAME * parameters.most_neighbours


def _selection(parameters: AggregationParameters) -> int:
    hidden = _boxes(parameters, padded_list_bytes(parameters.most_neighbours))
    return hidden + NAME * parameters.most_neighbours


def _plan(parameters: AggregationParameters) -> int:
    members = _members(parameters)
    sums = len(parameters.sums) * (NAME + ITEM + NAME * members)
    dealt = ITEM + _shares(parameters) + TAG_BYTES + _commitments(parameters)
    hidden = padded_list_bytes(parameters.most_neighbours)
    lists = _boxes(parameters, hidden) if parameters.selects else 0
    return NAME * members + sums + members * dealt + lists


def _part(parameters: AggregationParameters) -> int:
    """What one part of an upload or a delivery holds, of all sums at most."""
    words = sum(
        packed_bytes(parameters.ring_bits, parameters.vector_lengths[spec.vector])
        for spec in parameters.sums
    )
    items = len(parameters.sums) * (NAME + ITEM)
    return items + min(words, parameters.part_bytes)


def _delivery(parameters: AggregationParameters) -> int:
    return _part(parameters) + SCALARS * len(parameters.sums)


def _masked_input(parameters: AggregationParameters) -> int:
    parts = len(cut(parameters, [spec.id for spec in parameters.sums]))
    return _delivery(parameters) + DIGEST * parts


def _survivor_set(parameters: AggregationParameters) -> int:
    return _members(parameters) * (NAME + DIGEST)


def _consistency(_parameters: AggregationParameters) -> int:
    return DIGEST + SIGNATURE


def _unmask_request(parameters: AggregationParameters) -> int:
    return _members(parameters) * (NAME + ITEM + SIGNATURE)


def _unmask_shares(parameters: AggregationParameters) -> int:
    share = NAME + ITEM + SECRET_BYTES
    return _members(parameters) * (len(parameters.sums) + 1) * share


def _receipt(_parameters: AggregationParameters) -> int:
    return DIGEST


_CONTENT = {
    "advertise_request": _nothing,
    "advertisement": _advertisement,
    "advertisements": _advertisements,
    "encrypted_shares": _encrypted_shares,
    "distance_call": _nothing,
    "distance_upload": distance_upload_bytes,
    "distance_uploads": _distance_uploads,
    "distance_replies": _distance_replies,
    "distance_delivery": _distance_replies,
    "holder_keys": _holder_keys,
    "blinded_call": _blinded_call,
    "blinded_upload": _blinded_upload,
    "release_request": _release_request,
    "distance_table": _distance_table,
    "distance_release": _distance_release,
    "row_delivery": _row_delivery,
    "neighbour_list": _neighbour_list,
    "selection": _selection,
    "plan": _plan,
    "masked_part": _part,
    "part_request": _nothing,
    "masked_input": _masked_input,
    "survivor_set": _survivor_set,
    "consistency": _consistency,
    "unmask_request": _unmask_request,
    "unmask_shares": _unmask_shares,
    "delivery_part": _part,
    "part_taken": _nothing,
    "delivery": _delivery,
    "receipt": _receipt,
}
