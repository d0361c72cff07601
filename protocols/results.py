"""Reading the opened sums: the means for all, and a client's own sealed sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.client_states import AggregationResult, Answered, Context, SealedSum
from protocols.codec import encode
from protocols.errors import BadDelivery
from protocols.identity import SERVER, sha256
from protocols.keys import recipient_mask_key
from protocols.masks import MaskKey, MaskStream
from protocols.messages import Delivery, OpenedSum, PlannedSum, scalars_from_wire
from protocols.parameters import AggregationParameters
from protocols.plan import may_open
from protocols.ring import CHUNK, WEIGHT_STEP, FixedPoint, Packed, packed_bytes
from protocols.selection import MIN_WEIGHT

IMPOSSIBLE_SCALARS = (
    "its sealed sum has impossible scalars: a contributor masked it with other keys than it dealt, "
    "or the server changed it"
)


def fixed_point_of(parameters: AggregationParameters, planned: PlannedSum) -> FixedPoint:
    """Return the encoding of a planned sum's terms."""
    return parameters.fixed_point(parameters.sum(planned.id).vector, len(planned.contributors))


def mean_of(
    parameters: AggregationParameters, planned: PlannedSum, opened: OpenedSum
) -> NDArray[np.float32]:
    """Return the mean weighted by sample counts, [D] float32, of a sum opened for all."""
    length = parameters.vector_lengths[parameters.sum(planned.id).vector]
    packed = Packed(parameters.ring_bits, length, opened.packed)
    mean = decode_sum(fixed_point_of(parameters, planned), packed, MaskStream([]))
    mean *= np.float32(1 / scalars_from_wire(opened.scalars)[0])
    return mean


def decode_sum(fixed_point: FixedPoint, packed: Packed, masks: MaskStream) -> NDArray[np.float32]:
    """Return the float32 sum, [D], of packed words after adding ``masks``, chunk by chunk."""
    out = np.empty(packed.length, np.float32)
    words = np.empty(CHUNK, np.uint32)
    for start in range(0, packed.length, CHUNK):
        part = words[: min(CHUNK, packed.length - start)]
        part[:] = 0
        packed.add_to(start, part)
        masks.mask_chunk(part)
        fixed_point.decode(part, out[start : start + CHUNK])
    return out


def check_delivery(context: Context, state: Answered, message: Delivery) -> None:
    """Refuse sums that may not be opened, that are not for us, or of the wrong length.

    A sum that might have been opened and is missing is accepted: the server's bad luck with
    shares is reported by it and leaves the previous mean in place.
    """
    phase, parameters = "deliver", context.parameters
    agreement = state.uploaded.agreement
    neighbours = {name: chosen.neighbours for name, chosen in agreement.lists.items()}
    allowed = {
        planned.id: planned.recipient
        for planned in agreement.sums
        if may_open(parameters, planned, state.survivors, neighbours)
    }
    ids = [item.sum_id for item in message.opened]
    if ids != sorted(set(ids)) or any(allowed.get(sum_id) != SERVER for sum_id in ids):
        raise BadDelivery(SERVER, phase, "sums that are not for everybody, or repeated ones")
    own = [] if message.sealed is None else [message.sealed]
    if own and allowed.get(own[0].sum_id) != context.name:
        raise BadDelivery(SERVER, phase, "a sealed sum that is not ours")
    for item in (*message.opened, *own):
        length = parameters.vector_lengths[parameters.sum(item.sum_id).vector]
        if len(item.packed) != packed_bytes(parameters.ring_bits, length):
            raise BadDelivery(SERVER, phase, f"sum {item.sum_id} has the wrong length")
        if not Packed(parameters.ring_bits, length, item.packed).padding_is_zero():
            raise BadDelivery(SERVER, phase, f"sum {item.sum_id} is not canonical")
    for item in message.opened:
        count = len(surviving_contributors(agreement.sums, item.sum_id, state.survivors))
        if not possible_samples(item, count, parameters.max_samples):
            raise BadDelivery(SERVER, phase, f"sum {item.sum_id} has an impossible sample count")


def possible_samples(opened: OpenedSum, contributors: int, max_samples: int) -> bool:
    """Return whether an opened sum's sample count can be that of its contributors.

    The scalars wear the same masks as the vector in a ring of 2^64, so a term that was masked
    with other keys than its owner dealt shares of fails here with probability 1 - 2^-40.
    """
    return contributors <= scalars_from_wire(opened.scalars)[0] <= contributors * max_samples


def surviving_contributors(
    sums: Sequence[PlannedSum], sum_id: str, survivors: Sequence[str]
) -> list[str]:
    """Return the contributors of a sum that survived."""
    planned = next(item for item in sums if item.id == sum_id)
    left = frozenset(survivors)
    return [name for name in planned.contributors if name in left]


def read_results(context: Context, state: Answered, message: Delivery) -> AggregationResult:
    """Return the means and the own sealed sum."""
    parameters, uploaded = context.parameters, state.uploaded
    by_id = {planned.id: planned for planned in uploaded.agreement.sums}
    opened = {item.sum_id: item for item in message.opened}
    means: dict[str, NDArray[np.float32] | None] = {
        spec.id: mean_of(parameters, by_id[spec.id], opened[spec.id]) if spec.id in opened else None
        for spec in parameters.sums
        if not spec.sealed
    }
    sealed, fault = None, None
    if message.sealed is not None:
        sealed = open_sealed_sum(context, state, by_id[message.sealed.sum_id], message.sealed)
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


def results_hash(session: bytes, means: Mapping[str, NDArray[np.float32] | None]) -> bytes:
    """Return the hash by which clients compare, next time, what they were told this time.

    It depends on nothing but the session and the means, so a client that was away can compute it
    from means that it is told later, and finds out by comparing if they are others.
    """
    told = [
        [sum_id, None if mean is None else _float_hash(mean)]
        for sum_id, mean in sorted(means.items())
    ]
    return sha256(encode(["pilot-secure results", session, told]))


def _float_hash(mean: NDArray[np.float32]) -> bytes:
    """Hash a vector's little-endian bytes where they are."""
    return sha256(np.ascontiguousarray(mean, "<f4").data.cast("B"))


def open_sealed_sum(
    context: Context, state: Answered, planned: PlannedSum, opened: OpenedSum
) -> SealedSum | None:
    """Take off the recipient masks of exactly the contributors that survived, and decode.

    None if no honest contributors could have sent these scalars: one of them can have spoiled the
    sum, so that the server is not to blame, and what else was delivered stands.
    """
    parameters, lists = context.parameters, state.uploaded.agreement.lists
    length = parameters.vector_lengths[parameters.sum(planned.id).vector]
    packed = Packed(parameters.ring_bits, length, opened.packed)
    contributors = [name for name in planned.contributors if name in state.survivors]
    masks = MaskStream(_recipient_masks(context, state, planned, contributors))
    scalars = masks.mask_scalars(scalars_from_wire(opened.scalars))
    real, lowest = contributors, 1.0
    if parameters.sum(planned.id).contributors == "selected":
        real, lowest = [n for n in contributors if n in lists[context.name].neighbours], MIN_WEIGHT
    sum_n, steps, weighted_steps = scalars
    if not possible_scalars(scalars, len(real), parameters.max_samples, lowest):
        return None
    return SealedSum(
        vector_sum=decode_sum(fixed_point_of(parameters, planned), packed, masks),
        sum_nu=weighted_steps * WEIGHT_STEP,
        sum_u=steps * WEIGHT_STEP,
        sum_n=sum_n,
        num_contributors=len(real),
    )


def possible_scalars(
    scalars: Sequence[int], contributors: int, max_samples: int, lowest: float
) -> bool:
    """Return whether a sealed sum's scalars can be those of its real contributors.

    ``lowest`` is the least weight that one may apply; the largest is 1.
    """
    sum_n, steps, weighted_steps = scalars
    most, least = round(1 / WEIGHT_STEP), round(lowest / WEIGHT_STEP)
    return (
        contributors <= sum_n <= contributors * max_samples
        and contributors * least <= steps <= contributors * most
        and sum_n * least <= weighted_steps <= sum_n * most
    )


def _recipient_masks(
    context: Context, state: Answered, planned: PlannedSum, contributors: Sequence[str]
) -> list[MaskKey]:
    session = state.uploaded.session
    masks = []
    for name in contributors:
        secret = session.recipient_secret(name)
        key = recipient_mask_key(secret, session.id, planned.id, name, context.name)
        masks.append(MaskKey(key, -1))
    return masks
