"""The server's running sums: memory grows with the sums, not with the contributors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from protocols.masks import MaskKey, MaskStream
from protocols.messages import MaskedVector, OpenedSum, scalars_from_wire, scalars_to_wire
from protocols.ring import CHUNK, SCALAR_MASK, Packed, Words

Allocate = Callable[[str, int], Words]


def allocate_in_memory(_sum_id: str, length: int) -> Words:
    """Return zeroed words in memory; a driver may hand in memory-mapped ones instead."""
    return np.zeros(length, np.uint32)


class Accumulator:
    """The sum of the masked terms of one sum, mod 2^32 (hence mod 2^b)."""

    def __init__(self, sum_id: str, bits: int, length: int, allocate: Allocate) -> None:
        self.sum_id, self.bits, self.length = sum_id, bits, length
        self._words = allocate(sum_id, length)
        self._scalars: tuple[int, ...] = (0, 0, 0)
        self.contributors: list[str] = []

    def parse(self, term: MaskedVector) -> Packed:
        """Return the term's packed words.

        Raises:
            ValueError: the wrong length, or padding that is not zero.
        """
        packed = Packed(self.bits, self.length, term.packed)
        if not packed.padding_is_zero():
            raise ValueError("padding that is not zero")
        return packed

    def add(self, contributor: str, packed: Packed, term: MaskedVector) -> None:
        """Add one parsed term."""
        self.add_packed(contributor, packed)
        pairs = zip(self._scalars, scalars_from_wire(term.scalars), strict=True)
        self._scalars = tuple((a + b) & SCALAR_MASK for a, b in pairs)

    def add_packed(self, contributor: str, packed: Packed) -> None:
        """Add one term's vector, chunk by chunk."""
        for start in range(0, self.length, CHUNK):
            packed.add_to(start, self._words[start : start + CHUNK])
        self.contributors.append(contributor)

    def open(self, masks: Sequence[MaskKey]) -> OpenedSum:
        """Add the masks that cancel what is left, and return the packed sum; done once."""
        stream = MaskStream(masks)
        scalars = stream.mask_scalars(self._scalars)
        packed = Packed(self.bits, self.length)
        for start in range(0, self.length, CHUNK):
            part = self._words[start : start + CHUNK]
            stream.mask_chunk(part)
            packed.write(start, part)
        return OpenedSum(
            sum_id=self.sum_id, packed=packed.to_bytes(), scalars=scalars_to_wire(scalars)
        )
