"""Vectors as they were sent: which coordinates of which sum a message carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.messages import (
    Delivery,
    DeliveryPart,
    MaskedInput,
    MaskedPart,
    MaskedVector,
    Message,
    OpenedSum,
    VectorSpan,
)
from protocols.parameters import AggregationParameters
from protocols.parts import length_of, span_length
from protocols.ring import Packed

Carried = VectorSpan | MaskedVector | OpenedSum
Words = NDArray[np.uint32]


def carried(message: Message | None) -> tuple[Carried, ...]:
    """Return the vectors, or parts of some, that a message carries."""
    match message:
        case MaskedPart(spans=spans) | DeliveryPart(spans=spans):
            return spans
        case MaskedInput(inputs=inputs):
            return inputs
        case Delivery(opened=opened, sealed=sealed):
            return (*opened, *([] if sealed is None else [sealed]))
    return ()


@dataclass(frozen=True)
class SentSpan:
    """Words of one sum from coordinate ``start`` on.

    ``packed`` is None where so many bytes are no span; ``scalars`` come with a sum's last one.
    """

    sum_id: str
    start: int
    size: int
    packed: Packed | None
    scalars: tuple[bytes, ...] | None


class Progress:
    """How far the vectors of one party have come, message by message."""

    def __init__(self, parameters: AggregationParameters) -> None:
        self._parameters = parameters
        self._known = {spec.id for spec in parameters.sums}
        self.ends: dict[str, int] = {}

    def take(self, message: Message | None) -> Iterator[SentSpan]:
        """Yield the spans of the next message; those of unknown sums have no words."""
        for item in carried(message):
            start = self.ends.get(item.sum_id, 0)
            length = None
            if item.sum_id in self._known:
                length = span_length(self._parameters, item.sum_id, start, len(item.packed))
            packed = None
            if length is not None:
                packed = Packed(self._parameters.ring_bits, length, item.packed)
                self.ends[item.sum_id] = start + length
            scalars = None if isinstance(item, VectorSpan) else item.scalars
            yield SentSpan(item.sum_id, start, len(item.packed), packed, scalars)


@dataclass(frozen=True)
class SentVector:
    """A whole vector: ``words`` [D] as they were sent, and its scalars."""

    words: Words
    scalars: tuple[bytes, ...]


def whole_vectors(
    parameters: AggregationParameters, messages: Iterable[Message | None]
) -> Mapping[str, SentVector]:
    """Return each sum's vector, put together from one party's messages; only whole ones."""
    words: dict[str, Words] = {}
    scalars: dict[str, tuple[bytes, ...]] = {}
    progress = Progress(parameters)
    for message in messages:
        for span in progress.take(message):
            if span.packed is None:
                continue
            if span.sum_id not in words:
                words[span.sum_id] = np.zeros(length_of(parameters, span.sum_id), np.uint32)
            stop = span.start + span.packed.length
            span.packed.add_to(0, words[span.sum_id][span.start : stop])
            if span.scalars is not None:
                scalars[span.sum_id] = span.scalars
    return {
        name: SentVector(vector, scalars[name])
        for name, vector in words.items()
        if name in scalars and progress.ends[name] == len(vector)
    }
