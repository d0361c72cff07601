"""Masks: AES-256-CTR keystreams added to vectors in place, a chunk that stays in cache at a time.

The first 64 bytes of a keystream mask the scalars (eight 64-bit words), the rest the vector, four
bytes a coordinate. Keys come from :mod:`protocols.keys` and serve one sum of one session only, so
the counter starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.ring import CHUNK, SCALAR_MASK, Words

_SCALAR_WORDS = 8
_ZEROS = memoryview(bytes(4 * CHUNK))


@dataclass(frozen=True)
class MaskKey:
    """One mask: its key and whether it is added (+1) or subtracted (-1)."""

    key: bytes = field(repr=False)
    sign: int


class MaskStream:
    """The sum of several masks, read once from scalars to the end of the vector."""

    def __init__(self, keys: Sequence[MaskKey]) -> None:
        self._streams = []
        self._scalars = [0] * _SCALAR_WORDS
        for mask in keys:
            stream = Cipher(algorithms.AES(mask.key), modes.CTR(bytes(16))).encryptor()
            words = np.frombuffer(stream.update(bytes(8 * _SCALAR_WORDS)), "<u8")
            for place, word in enumerate(words):
                self._scalars[place] = (self._scalars[place] + mask.sign * int(word)) & SCALAR_MASK
            self._streams.append((stream, np.add if mask.sign > 0 else np.subtract))
        self._buffer = memoryview(bytearray(4 * CHUNK))
        self._keystream = np.frombuffer(self._buffer, "<u4")

    def mask_scalars(self, scalars: Sequence[int]) -> tuple[int, ...]:
        """Return the scalars plus the masks, mod 2^64."""
        return tuple(
            (value + mask) & SCALAR_MASK
            for value, mask in zip(scalars, self._scalars, strict=False)
        )

    def mask_chunk(self, words: Words) -> None:
        """Add the masks of the next ``len(words)`` coordinates in place (mod 2^32)."""
        size = 4 * len(words)
        keystream, buffer, zeros = (
            self._keystream[: len(words)],
            self._buffer[:size],
            _ZEROS[:size],
        )
        for stream, combine in self._streams:
            stream.update_into(zeros, buffer)
            combine(words, keystream, out=words)
