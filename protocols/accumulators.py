"""The server's running sums: memory grows with the sums, not with the contributors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protocols.masks import MaskKey, MaskStream, mask_scalars
from protocols.messages import scalars_from_wire, scalars_to_wire
from protocols.ring import CHUNK, SCALAR_MASK, Lanes, Packed, high_bytes, packed_bytes
from protocols.storage import Allocate, Bytes, Storage

BLOCK = 1 << 20  # coordinates that are read from storage, and written, at once


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """Yield (first coordinate, how many) of each block of a vector."""
    for start in range(0, length, BLOCK):
        yield start, min(BLOCK, length - start)


class Accumulator:
    """The sum of the masked terms of one sum, mod 2^b."""

    def __init__(self, sum_id: str, bits: int, length: int, allocate: Allocate) -> None:
        self.sum_id, self.bits, self.length = sum_id, bits, length
        self._high_bytes = high_bytes(bits)
        self._lanes = allocate(f"sum-{sum_id}", (2 + self._high_bytes) * length)
        self._scalars: tuple[int, ...] = (0, 0, 0)
        self.contributors: list[str] = []

    def add(self, start: int, packed: Packed) -> None:
        """Add a span of one term's vector, from coordinate ``start`` on."""
        for first, size in blocks(packed.length):
            low, high = self._read(start + first, size)
            lanes = Lanes(low, high, self.bits)
            for chunk in range(0, size, CHUNK):
                lanes.add(chunk, packed, first + chunk, min(CHUNK, size - chunk))
            for place, data in zip(self._places(start + first), (low, high), strict=True):
                self._lanes.write(place, data)

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
        words = np.empty(CHUNK, np.uint32)
        for first, size in blocks(self.length):
            lanes = Lanes(*self._read(first, size), self.bits)
            packed = opened.span(first, first + size)
            for chunk in range(0, size, CHUNK):
                part = words[: min(CHUNK, size - chunk)]
                lanes.read_into(chunk, part)
                stream.mask_chunk(part)
                packed.write(chunk, part)
            opened.store(first, packed)
        return opened

    def _read(self, start: int, size: int) -> tuple[Bytes, Bytes]:
        low, high = self._places(start)
        return self._lanes.read(low, 2 * size), self._lanes.read(high, self._high_bytes * size)

    def _places(self, start: int) -> tuple[int, int]:
        """Return where the low halves and the bytes above them from ``start`` on begin."""
        return 2 * start, 2 * self.length + self._high_bytes * start


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

    def span(self, start: int, stop: int) -> Packed:
        """Return the words of a span; ``start`` is a multiple of four."""
        size = packed_bytes(self.bits, stop - start) - 2 * (stop - start)
        low, high = self._places(start)
        halves = self.stored.read(low, 2 * (stop - start)), self.stored.read(high, size)
        return Packed.of_halves(self.bits, *halves)

    def _places(self, start: int) -> tuple[int, int]:
        """Return where the low halves and the high parts from ``start`` on begin."""
        return 2 * start, 2 * self.length + start * (self.bits - 16) // 8
