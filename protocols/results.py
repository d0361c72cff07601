"""What opened sums mean: how they are decoded, checked against public bounds, and hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.accumulators import OpenedVector, blocks
from protocols.codec import encode
from protocols.identity import sha256
from protocols.masks import MaskStream
from protocols.messages import PlannedSum, scalars_from_wire
from protocols.parameters import AggregationParameters
from protocols.ring import CHUNK, WEIGHT_STEP, FixedPoint, Packed


def fixed_point_of(parameters: AggregationParameters, planned: PlannedSum) -> FixedPoint:
    """Return the encoding of a planned sum's terms."""
    return parameters.fixed_point(parameters.sum(planned.id).vector, len(planned.contributors))


def mean_of(
    parameters: AggregationParameters, planned: PlannedSum, opened: OpenedVector
) -> NDArray[np.float32]:
    """Return the mean weighted by sample counts, [D] float32, of a sum opened for all."""
    mean, fixed_point = np.empty(opened.length, np.float32), fixed_point_of(parameters, planned)
    for start, size in blocks(opened.length):
        packed = opened.span(start, start + size)
        decode_span(fixed_point, packed, MaskStream([]), mean[start : start + size])
    return weighted_by(mean, scalars_from_wire(opened.scalars)[0])


def weighted_by(vector_sum: NDArray[np.float32], sum_n: int) -> NDArray[np.float32]:
    """Turn a sum of n x into the mean, in place."""
    vector_sum *= np.float32(1 / sum_n)
    return vector_sum


def decode_span(
    fixed_point: FixedPoint, packed: Packed, masks: MaskStream, out: NDArray[np.float32]
) -> None:
    """Write the float32 sum of packed words after adding ``masks``, chunk by chunk."""
    words = np.empty(CHUNK, np.uint32)
    for start in range(0, packed.length, CHUNK):
        part = words[: min(CHUNK, packed.length - start)]
        packed.read_into(start, part)
        masks.mask_chunk(part)
        fixed_point.decode(part, out[start : start + CHUNK])


def possible_samples(scalars: Sequence[bytes], contributors: int, max_samples: int) -> bool:
    """Return whether an opened sum's sample count can be that of its contributors.

    The scalars wear the same masks as the vector in a ring of 2^64, so a term that was masked
    with other keys than its owner dealt shares of fails here with probability 1 - 2^-40.
    """
    return contributors <= scalars_from_wire(scalars)[0] <= contributors * max_samples


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
