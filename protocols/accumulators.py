"""The server's running sums: memory grows with the sums, not with the contributors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protocols.masks import MaskKey, MaskStream, mask_scalars
from protocols.messages import scalars_from_wire, scalars_to_wire
from protocols.ring import CHUNK, SCALAR_MASK, Packed, packed_bytes
from protocols.storage import Allocate, Storage

BLOCK = 1 << 20  # coordinates that are read from storage, and written, at once


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """Yield (first coordinate, how many) of each block of a vector."""
    for start in range(0, length, BLOCK):
        yield start, min(BLOCK, length - start)


class Accumulator:
    """The sum of the masked terms of one sum, mod 2^32 (hence mod 2^b)."""

    def __init__(self, sum_id: str, bits: int, length: int, allocate: Allocate) -> None:
        self.sum_id, self.bits, self.length = sum_id, bits, length
        self._words = allocate(f"sum-{sum_id}", 4 * length)
        self._scalars: tuple[int, ...] = (0, 0, 0)
        self.contributors: list[str] = []

    def add(self, start: int, packed: Packed) -> None:
        """Add a span of one term's vector, from coordinate ``start`` on."""
        for first, size in blocks(packed.length):
            place = 4 * (start + first)
            stored = self._words.read(place, 4 * size)
            words = stored.view(np.uint32)
            for chunk in range(0, size, CHUNK):
                packed.add_to(first + chunk, words[chunk : chunk + CHUNK])
            self._words.write(place, stored)

    def add_scalars(self, contributor: str, scalars: Sequence[bytes]) -> None:
        """Add one term's scalars: all of its vector is in the sum."""
        pairs = zip(self._scalars, scalars_from_wire(scalars), strict=True)
        self._scalars = tuple((a + b) & SCALAR_MASK for a, b in pairs)
        self.contributors.append(contributor)

    def open(self, masks: Sequence[MaskKey], allocate: Allocate) -> OpenedVector:
        """Return the sum with the masks that cancel what is left; done once."""
        stream, scalars = MaskStream(masks), mask_scalars(masks, self._scalars)
        stored = allocate(f"opened-{self.sum_id}", packed_bytes(self.bits, self.length))
        opened = OpenedVector(self.sum_id, self.bits, self.length, scalars_to_wire(scalars), stored)
        for first, size in blocks(self.length):
            words, packed = self._words.read(4 * first, 4 * size), Packed(self.bits, size)
            for chunk in range(0, size, CHUNK):
                part = words.view(np.uint32)[chunk : chunk + CHUNK]
                stream.mask_chunk(part)
                packed.write(chunk, part)
            opened.store(first, packed)
        return opened


@dataclass(frozen=True)
class OpenedVector:
    """A sum without self and pairwise masks, packed as on the wire, in storage."""

    sum_id: str
    bits: int
    length: int
    scalars: tuple[bytes, ...]
    stored: Storage

    def store(self, start: int, packed: Packed) -> None:
        """Write a span."""
        for place, data in zip(self._places(start), packed.halves(), strict=True):
            self.stored.write(place, data)

    def span(self, start: int, stop: int) -> bytes:
        """Return a span as packed bytes; ``start`` is a multiple of four."""
        size = packed_bytes(self.bits, stop - start) - 2 * (stop - start)
        low, high = self._places(start)
        parts = self.stored.read(low, 2 * (stop - start)), self.stored.read(high, size)
        return b"".join(part.tobytes() for part in parts)

    def _places(self, start: int) -> tuple[int, int]:
        """Return where the low halves and the high parts from ``start`` on begin."""
        return 2 * start, 2 * self.length + start * (self.bits - 16) // 8
