"""A client's last step: take the opened sums, all at once or a part at a time, and read them.

Each part is decoded as it comes, so what is held is the float32 vectors and one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from protocols.client_states import (
    AggregationResult,
    Answered,
    Context,
    Finished,
    ReceivedSum,
    Receiving,
    SealedSum,
)
from protocols.errors import BadDelivery
from protocols.frame import seal
from protocols.identity import SERVER
from protocols.keys import recipient_mask_key
from protocols.masks import MaskKey, MaskStream, mask_scalars
from protocols.messages import (
    Delivery,
    DeliveryPart,
    OpenedSum,
    PartTaken,
    PlannedSum,
    Receipt,
    VectorSpan,
    scalars_from_wire,
)
from protocols.parts import length_of, span_length
from protocols.plan import may_open
from protocols.results import (
    decode_span,
    fixed_point_of,
    possible_samples,
    possible_scalars,
    results_hash,
    weighted_by,
)
from protocols.ring import WEIGHT_STEP, Packed
from protocols.selection import MIN_WEIGHT

PHASE = "deliver"
IMPOSSIBLE_SCALARS = (
    "its sealed sum has impossible scalars: a contributor masked it with other keys than it dealt, "
    "or the server changed it"
)


def receiving(state: Answered | Receiving) -> Receiving:
    """Return what has come so far."""
    if isinstance(state, Receiving):
        return state
    return Receiving(state.uploaded, state.survivors, 0, {})


def on_delivery_part(
    context: Context, state: Answered | Receiving, message: DeliveryPart
) -> tuple[Receiving, bytes]:
    """Decode the next part, whose number was compared before, and ask for more.

    Raises:
        BadDelivery: sums other than those that may be opened, or spans other than the next.
    """
    before = receiving(state)
    ids = [span.sum_id for span in message.spans]
    if ids != sorted(set(ids)) or not all(span.packed for span in message.spans) or not ids:
        raise BadDelivery(SERVER, PHASE, "a part without spans, or with repeated or empty ones")
    sums = take_spans(context, before, message.spans)
    reply = PartTaken(
        session=state.uploaded.session.id,
        sender=context.name,
        recipient=SERVER,
        part=message.part,
    )
    after = Receiving(state.uploaded, state.survivors, before.parts + 1, sums)
    return after, seal(reply, context.identity)


def on_delivery(
    context: Context, state: Answered | Receiving, message: Delivery, running_hash: bytes
) -> tuple[Finished, bytes]:
    """Accept the opened sums, take the recipient masks off the own one, and sign a receipt.

    ``running_hash`` covers every frame sent and received so far, this delivery included. A sum
    that might have been opened and is missing is accepted: the server's bad luck with shares is
    reported by it and leaves the previous mean in place.

    Raises:
        BadDelivery: sums other than those that may be opened, or of another form.
    """
    own = [] if message.sealed is None else [message.sealed]
    check_ids(context, receiving(state), message.opened, own)
    sums = take_spans(context, receiving(state), (*message.opened, *own))
    check_whole(context, state, sums, message.opened)
    receipt = Receipt(
        session=state.uploaded.session.id,
        sender=context.name,
        recipient=SERVER,
        transcript=running_hash,
    )
    result = read_results(context, state, sums, message)
    return Finished(result), seal(receipt, context.identity)


def check_ids(
    context: Context, state: Receiving, opened: Iterable[OpenedSum], own: Iterable[OpenedSum]
) -> None:
    """Refuse a last part unless it names sums for all, the own sealed one, and all that began."""
    allowed = openable(context, state)
    ids, sealed = [item.sum_id for item in opened], [item.sum_id for item in own]
    if ids != sorted(set(ids)) or any(_recipient(allowed, name) != SERVER for name in ids):
        raise BadDelivery(SERVER, PHASE, "sums that are not for everybody, or repeated ones")
    if any(_recipient(allowed, name) != context.name for name in sealed):
        raise BadDelivery(SERVER, PHASE, "a sealed sum that is not ours")
    if not set(state.sums) <= {*ids, *sealed}:
        raise BadDelivery(SERVER, PHASE, "a sum that began in an earlier part does not end")


def _recipient(allowed: Mapping[str, PlannedSum], sum_id: str) -> str | None:
    return allowed[sum_id].recipient if sum_id in allowed else None


def openable(context: Context, state: Receiving) -> dict[str, PlannedSum]:
    """Return the sums that may be opened and that this client may see."""
    agreement = state.uploaded.agreement
    neighbours = {name: chosen.neighbours for name, chosen in agreement.lists.items()}
    return {
        planned.id: planned
        for planned in agreement.sums
        if planned.recipient in (SERVER, context.name)
        and may_open(context.parameters, planned, state.survivors, neighbours)
    }


def take_spans(
    context: Context, state: Receiving, spans: Iterable[VectorSpan | OpenedSum]
) -> dict[str, ReceivedSum]:
    """Check all spans, then decode them behind what has come before.

    Raises:
        BadDelivery: a sum that is not for us, or a span beyond its end, cut elsewhere than at
            whole blocks, or not canonical.
    """
    allowed, sums, found = openable(context, state), dict(state.sums), []
    for span in spans:
        if span.sum_id not in allowed:
            raise BadDelivery(SERVER, PHASE, f"sum {span.sum_id} is not for us")
        begun = sums.get(span.sum_id)
        start = begun.end if begun is not None else 0
        found.append((span.sum_id, start, packed_span(context, span, start)))
    for sum_id, start, packed in found:
        received = sums.get(sum_id) or _begin(context, state, allowed[sum_id])
        end = start + packed.length
        decode_span(
            fixed_point_of(context.parameters, received.planned),
            packed,
            MaskStream(received.masks, start),
            received.vector[start:end],
        )
        sums[sum_id] = replace(received, end=end)
    return sums


def packed_span(context: Context, span: VectorSpan | OpenedSum, start: int) -> Packed:
    """Return a span that begins at ``start`` as packed words.

    Raises:
        BadDelivery: see :func:`take_spans`.
    """
    length = span_length(context.parameters, span.sum_id, start, len(span.packed))
    if length is None:
        raise BadDelivery(SERVER, PHASE, f"sum {span.sum_id} has the wrong length")
    packed = Packed(context.parameters.ring_bits, length, span.packed)
    if not packed.padding_is_zero():
        raise BadDelivery(SERVER, PHASE, f"sum {span.sum_id} is not canonical")
    return packed


def _begin(context: Context, state: Receiving, planned: PlannedSum) -> ReceivedSum:
    vector = np.empty(length_of(context.parameters, planned.id), np.float32)
    masks = [] if planned.recipient == SERVER else recipient_masks(context, state, planned)
    return ReceivedSum(planned, vector, tuple(masks))


def check_whole(
    context: Context,
    state: Answered | Receiving,
    sums: Mapping[str, ReceivedSum],
    opened: Iterable[OpenedSum],
) -> None:
    """Refuse sums that end too early, and sums for all with an impossible sample count."""
    for sum_id, received in sums.items():
        if received.end != len(received.vector):
            raise BadDelivery(SERVER, PHASE, f"sum {sum_id} has the wrong length")
    for item in opened:
        count = len(surviving_contributors(sums[item.sum_id].planned, state.survivors))
        if not possible_samples(item.scalars, count, context.parameters.max_samples):
            raise BadDelivery(SERVER, PHASE, f"sum {item.sum_id} has an impossible sample count")


def surviving_contributors(planned: PlannedSum, survivors: Iterable[str]) -> list[str]:
    """Return the contributors of a sum that survived."""
    left = frozenset(survivors)
    return [name for name in planned.contributors if name in left]


def read_results(
    context: Context,
    state: Answered | Receiving,
    sums: Mapping[str, ReceivedSum],
    message: Delivery,
) -> AggregationResult:
    """Return the means and the own sealed sum."""
    uploaded = state.uploaded
    means: dict[str, NDArray[np.float32] | None] = {
        spec.id: None for spec in context.parameters.sums if not spec.sealed
    }
    for item in message.opened:
        sum_n = scalars_from_wire(item.scalars)[0]
        means[item.sum_id] = weighted_by(sums[item.sum_id].vector, sum_n)
    sealed, fault = None, None
    if message.sealed is not None:
        own = sums[message.sealed.sum_id]
        sealed = open_sealed_sum(context, state, own, message.sealed.scalars)
        fault = None if sealed is not None else IMPOSSIBLE_SCALARS
    chosen = uploaded.agreement.lists.get(context.name)
    return AggregationResult(
        means=means,
        sealed=sealed,
        sealed_fault=fault,
        survivors=state.survivors,
        row=uploaded.row,
        neighbours=chosen.neighbours if chosen else (),
        scale=chosen.scale if chosen else 0.0,
        weights=uploaded.weights,
        clip_counts=uploaded.clip_counts,
        results_hash=results_hash(uploaded.session.id, means),
        session=uploaded.session.id,
        num_distances=uploaded.num_distances,
    )


def open_sealed_sum(
    context: Context, state: Answered | Receiving, own: ReceivedSum, wire: Iterable[bytes]
) -> SealedSum | None:
    """Return the own sealed sum with the denominators that its scalars are.

    None if no honest contributors could have sent these scalars: one of them can have spoiled the
    sum, so that the server is not to blame, and what else was delivered stands.
    """
    parameters, lists = context.parameters, state.uploaded.agreement.lists
    scalars = mask_scalars(own.masks, scalars_from_wire(tuple(wire)))
    real, lowest = surviving_contributors(own.planned, state.survivors), 1.0
    if parameters.sum(own.planned.id).contributors == "selected":
        real, lowest = [n for n in real if n in lists[context.name].neighbours], MIN_WEIGHT
    sum_n, steps, weighted_steps = scalars
    if not possible_scalars(scalars, len(real), parameters.max_samples, lowest):
        return None
    return SealedSum(
        vector_sum=own.vector,
        sum_nu=weighted_steps * WEIGHT_STEP,
        sum_u=steps * WEIGHT_STEP,
        sum_n=sum_n,
        num_contributors=len(real),
    )


def recipient_masks(context: Context, state: Receiving, planned: PlannedSum) -> list[MaskKey]:
    """Return what takes the masks of exactly the contributors that survived off a sealed sum."""
    session, masks = state.uploaded.session, []
    for name in surviving_contributors(planned, state.survivors):
        secret = session.recipient_secret(name)
        key = recipient_mask_key(secret, session.id, planned.id, name, context.name)
        masks.append(MaskKey(key, -1))
    return masks
