"""Masks: AES-256-CTR keystreams added to vectors in place, a chunk that stays in cache at a time.

The first 64 bytes of a keystream mask the scalars (eight 64-bit words), the rest the vector, four
bytes a coordinate. Keys come from :mod:`protocols.keys` and serve one sum of one session only, so
the counter starts at zero. A vector that is sent in parts is masked from any block on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from protocols.ring import ALIGNMENT, CHUNK, SCALAR_MASK, Words

_SCALAR_WORDS = 8
_SCALAR_BLOCKS = 4
_COMBINE = {1: np.add, -1: np.subtract}
_ZEROS = memoryview(bytes(4 * CHUNK))


@dataclass(frozen=True)
class MaskKey:
    """One mask: its key and whether it is added (+1) or subtracted (-1)."""

    key: bytes = field(repr=False)
    sign: int


class MaskStream:
    """The sum of several masks, read in order from coordinate ``start`` on."""

    def __init__(self, keys: Sequence[MaskKey], start: int = 0) -> None:
        """``start`` is a multiple of four: the first coordinate of a block."""
        self._streams = [
            (_keystream(mask, _SCALAR_BLOCKS + start // ALIGNMENT), _COMBINE[mask.sign])
            for mask in keys
        ]
        self._buffer = memoryview(bytearray(4 * CHUNK))
        self._keystream = np.frombuffer(self._buffer, "<u4")

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


def mask_scalars(keys: Sequence[MaskKey], scalars: Sequence[int]) -> tuple[int, ...]:
    """Return the scalars plus the masks, mod 2^64."""
    masked = list(scalars)
    for mask in keys:
        words = np.frombuffer(_keystream(mask, 0).update(bytes(8 * _SCALAR_WORDS)), "<u8")
        masked = [
            (value + mask.sign * int(word)) & SCALAR_MASK
            for value, word in zip(masked, words, strict=False)
        ]
    return tuple(masked)


def _keystream(mask: MaskKey, block: int) -> CipherContext:
    """Return the keystream of a mask from a block of 16 bytes on."""
    counter = block.to_bytes(16, "big")
    return Cipher(algorithms.AES(mask.key), modes.CTR(counter)).encryptor()
