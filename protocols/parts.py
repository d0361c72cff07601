"""How long vectors are cut into parts, each a frame of bounded size.

All sums of one vector advance together, so that the vector is read once and every mask of it in
order. A cut lies at a multiple of four coordinates: there a block of AES-CTR begins, and packed
words end with a whole byte. Who knows the parameters and the sums knows every part.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from protocols.errors import ParameterError
from protocols.parameters import MAX_PARTS, AggregationParameters
from protocols.ring import ALIGNMENT, packed_bytes


class Span(NamedTuple):
    """The coordinates from ``start`` up to ``stop`` of one sum."""

    sum_id: str
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many coordinates."""
        return self.stop - self.start


Part = tuple[Span, ...]


def cut(parameters: AggregationParameters, sum_ids: Collection[str]) -> tuple[Part, ...]:
    """Return the parts in which these sums' vectors are sent, each with its spans by sum id.

    Vectors follow each other by name; a part is filled up to ``part_bytes`` of packed words before
    the next begins. The last part names every sum, those that have ended before with an empty
    span. Without sums there is one part without spans.

    Raises:
        ParameterError: too many parts, which checked parameters never give.
    """
    by_vector: dict[str, list[str]] = {}
    for sum_id in sorted(sum_ids):
        by_vector.setdefault(parameters.sum(sum_id).vector, []).append(sum_id)
    parts, part = list[Part](), list[Span]()
    room, bits = parameters.part_bytes, parameters.ring_bits
    for vector, ids in sorted(by_vector.items()):
        start, length = 0, parameters.vector_lengths[vector]
        while start < length:
            fitting = 8 * room // (bits * len(ids)) // ALIGNMENT * ALIGNMENT
            if len(parts) >= MAX_PARTS:
                raise ParameterError(f"part_bytes: {parameters.part_bytes} cuts the sums too small")
            if fitting == 0 and part:
                parts.append(tuple(sorted(part)))
                part, room = [], parameters.part_bytes
                continue
            stop = min(length, start + max(fitting, ALIGNMENT))
            part += [Span(sum_id, start, stop) for sum_id in ids]
            room -= len(ids) * packed_bytes(bits, stop - start)
            start = stop
    lengths = {sum_id: length_of(parameters, sum_id) for sum_id in sum_ids}
    ended = set(sum_ids) - {span.sum_id for span in part}
    part += [Span(sum_id, lengths[sum_id], lengths[sum_id]) for sum_id in ended]
    return (*parts, tuple(sorted(part)))


def length_of(parameters: AggregationParameters, sum_id: str) -> int:
    """Return the coordinates of a sum's vector."""
    return parameters.vector_lengths[parameters.sum(sum_id).vector]


def span_length(
    parameters: AggregationParameters, sum_id: str, start: int, num_bytes: int
) -> int | None:
    """Return how many coordinates from ``start`` on so many packed bytes are; None if no span."""
    bits, left = parameters.ring_bits, length_of(parameters, sum_id) - start
    if num_bytes == packed_bytes(bits, left):
        return left
    length = 8 * num_bytes // bits
    whole = length % ALIGNMENT == 0 and packed_bytes(bits, length) == num_bytes
    return length if whole and length < left else None
