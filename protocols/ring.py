"""Fixed point in Z_2^b and the packed form on the wire.

A coordinate x, clipped to [-clip, clip], is weighted by v / V (V: the public maximum weight) and
becomes round(x v/V S) in Z_2^b. With c contributors each may use ``levels`` = floor((2^(b-1) - 1)
/ c) steps either way, so that no sum of c terms leaves the ring. S keeps one level and a factor
1 - 2^-20 below levels / clip: the float32 products (relative error at most 3 * 2^-24) and the
rounding to the nearest integer then stay within ``levels`` for every input, which is the proof of
headroom that each client repeats when the plan is made.

Where each contributor adds discrete Gaussian noise of deviation σ (in the vector's unit) to its
term, the ring leaves it room as well: S is smaller by the factor clip / (clip + 10 σ / sqrt(c)).
The sum of c noises is subgaussian with variance c σ^2 S^2 (Canonne et al. 2020, Corollary 17), so
one of at most 2^31 coordinates leaves the ring with a chance below 2^31 · 2 e^-50 < 2^-40. If it
does, a coordinate of the mean is wrong by the ring's range; what noise protects stays protected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import InputError, ParameterError

ALIGNMENT = 4  # coordinates: whole bytes of every ring, one block of AES-CTR
CHUNK = 1 << 16  # coordinates: buffers of 256 KiB stay in the second cache, and calls are few
SCALAR_MASK = (1 << 64) - 1
NOISE_REACH = 10.0  # deviations of noise that the ring has room for
WEIGHT_STEP = 2.0**-20  # weights are multiples of it, so numerators and denominators agree

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FixedPoint:
    """The encoding of one vector for a sum of at most ``contributors`` terms.

    ``noise`` is the deviation of the noise on each term v/V x, in the unit of ``clip``.
    """

    bits: int
    contributors: int
    clip: float
    max_weight: float
    noise: float = 0.0

    @property
    def levels(self) -> int:
        """The largest absolute value of one encoded coordinate."""
        return int((2 ** (self.bits - 1) - 1) // self.contributors)

    @property
    def scale(self) -> float:
        """Steps per unit, S."""
        if self.levels < 2:
            raise ParameterError(
                f"{self.bits} bits do not hold the sum of {self.contributors} contributors"
            )
        reach = self.clip + NOISE_REACH * self.noise / math.sqrt(self.contributors)
        return (self.levels - 1) * (1 - 2.0**-20) / reach

    @property
    def noise_steps(self) -> int:
        """The deviation of each term's noise in steps, 0 without noise."""
        return math.floor(self.noise * self.scale)

    def encode(self, clipped: Floats, weight: float, floats: Floats, out: Words) -> None:
        """Write round(x v/V S) mod 2^32 for clipped coordinates into ``out``.

        ``clipped``, ``floats`` (scratch) and ``out`` have one length. Time does not depend on
        ``weight``: zero takes the same path.
        """
        np.multiply(clipped, np.float32(self.scale * weight / self.max_weight), out=floats)
        np.rint(floats, out=floats)
        np.copyto(out.view(np.int32), floats, casting="unsafe")

    def decode(self, words: Words, out: Floats) -> None:
        """Write the float32 sums of v x that the words of an opened sum stand for."""
        shift = 32 - self.bits
        np.copyto(out, (words << np.uint32(shift)).view(np.int32), casting="unsafe")
        out *= np.float32(self.max_weight / self.scale) * np.float32(2.0**-shift)

    def error_bound(self, total_weight: float) -> float:
        """Return the largest error of one coordinate of the mean of ``contributors`` terms.

        Half a step each from rounding, and the float32 product's relative error of the whole.
        """
        rounding = 0.5 * self.contributors * self.max_weight / self.scale / total_weight
        return rounding + 4 * 2.0**-24 * self.clip


class FlatVector:
    """Named float32 tensors read as one vector, in their given order, without copying them."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], where: str) -> None:
        self._parts: list[tuple[str, Floats]] = []
        self.where = where
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32:
                raise InputError(f"{where}: tensor {name} is {tensor.dtype}, not float32")
            self._parts.append((name, np.ascontiguousarray(tensor).reshape(-1)))
        self._starts = [0]
        for _name, part in self._parts:
            self._starts.append(self._starts[-1] + len(part))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, out: Floats) -> None:
        """Copy ``len(out)`` coordinates from ``start`` on."""
        stop = start + len(out)
        for (_name, part), first in zip(self._parts, self._starts, strict=False):
            low, high = max(start, first), min(stop, first + len(part))
            if low < high:
                out[low - start : high - start] = part[low - first : high - first]

    def read_checked(self, start: int, out: Floats) -> None:
        """Like :meth:`read`; raises InputError that names the tensor of a NaN or infinity."""
        self.read(start, out)
        with np.errstate(over="ignore", invalid="ignore"):
            quick = math.isfinite(float(np.dot(out, out)))
        if quick or bool(np.isfinite(out).all()):
            return
        position = start + int(np.argmin(np.isfinite(out)))
        for (name, part), first in zip(self._parts, self._starts, strict=False):
            if first <= position < first + len(part):
                raise InputError(
                    f"{self.where}: tensor {name} holds {part[position - first]} at flat index "
                    f"{position - first}"
                )


def clip_in_place(chunk: Floats, bound: float) -> int:
    """Clip to [-bound, bound]; return how many coordinates were outside (stays local)."""
    limit = np.float32(bound)
    outside = 0
    if float(chunk.max()) > limit or float(chunk.min()) < -limit:
        outside = int(np.count_nonzero(np.abs(chunk) > limit))
        np.clip(chunk, -limit, limit, out=chunk)
    return outside


class Packed:
    """A vector of b-bit words as bytes: all low halves, then all high parts (little-endian).

    20 bits: D uint16, then ceil(D/2) bytes with the odd word's nibble above the even one's.
    24 bits: D uint16, then D bytes. 32 bits: D uint16, then D uint16. 16 bits: D uint16 only.
    """

    def __init__(self, bits: int, length: int, data: bytes | None = None) -> None:
        self.bits, self.length = bits, length
        if data is None:
            raw = np.zeros(packed_bytes(bits, length), np.uint8)
        else:
            if len(data) != packed_bytes(bits, length):
                raise ValueError(f"{len(data)} bytes for {length} words of {bits} bits")
            raw = np.frombuffer(data, np.uint8)
        self.low, self._high = raw[: 2 * length].view("<u2"), raw[2 * length :]

    @classmethod
    def of_halves(cls, bits: int, low: NDArray[np.uint8], high: NDArray[np.uint8]) -> Packed:
        """Return the words of which these are the halves; nothing is copied."""
        packed = cls(bits, 0)
        packed.length, packed.low, packed._high = len(low) // 2, low.view("<u2"), high
        return packed

    def to_bytes(self) -> bytes:
        """Return the packed bytes."""
        return b"".join(half.data for half in self.halves())

    def halves(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the bytes of the low halves and of the high parts."""
        return self.low.view(np.uint8), self._high

    def write(self, start: int, words: Words) -> None:
        """Pack words at ``start`` (even, as chunks are); bits above b are dropped."""
        stop = start + len(words)
        np.copyto(self.low[start:stop], words, casting="unsafe")
        if self.bits == 32:
            np.copyto(self._high.view("<u2")[start:stop], words >> np.uint32(16), casting="unsafe")
        elif self.bits == 24:
            np.copyto(self._high[start:stop], words >> np.uint32(16), casting="unsafe")
        elif self.bits == 20:
            nibbles = np.zeros(len(words) + len(words) % 2, np.uint8)
            np.copyto(nibbles[: len(words)], words >> np.uint32(16), casting="unsafe")
            nibbles &= np.uint8(15)
            pairs = nibbles.view("<u2")
            out = self._high[start // 2 : (stop + 1) // 2]
            np.copyto(out, pairs | (pairs >> np.uint16(4)), casting="unsafe")

    def read_into(self, start: int, words: Words) -> None:
        """Unpack the words from ``start`` on."""
        stop = start + len(words)
        np.copyto(words, self.low[start:stop])
        if self.bits > 16:
            high = self.high_parts(start, stop).astype(np.uint32)
            high <<= np.uint32(16)
            words |= high

    def add_to(self, start: int, words: Words) -> None:
        """Add the packed words from ``start`` on to ``words`` (mod 2^32, hence mod 2^b)."""
        unpacked = np.empty(len(words), np.uint32)
        self.read_into(start, unpacked)
        words += unpacked

    def high_parts(self, start: int, stop: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return the parts above the low halves, one number a word."""
        if self.bits == 32:
            return self._high.view("<u2")[start:stop]
        if self.bits == 24:
            return self._high[start:stop]
        pairs = self._high[start // 2 : (stop + 1) // 2].astype("<u2")
        pairs |= pairs << np.uint16(4)
        pairs &= np.uint16(0x0F0F)
        return pairs.view(np.uint8)[: stop - start]

    def padding_is_zero(self) -> bool:
        """Whether the unused half of the last byte is zero (one vector, one encoding)."""
        return self.bits != 20 or self.length % 2 == 0 or int(self._high[-1]) < 16


class Lanes:
    """A running sum: the low halves of its words, and whole bytes for what is above them.

    Three bytes a word at 20 and 24 bits, and no word is put together to add a packed one: the
    additions are those of short integers, of which a processor does many at once.
    """

    def __init__(self, low: NDArray[np.uint8], high: NDArray[np.uint8], bits: int) -> None:
        """``low`` has two bytes a word, ``high`` as many as :func:`high_bytes` says; kept."""
        self.low = low.view("<u2")
        self.high: NDArray[Any] = high.view("<u2") if bits == 32 else high
        self.bits = bits

    def add(self, start: int, packed: Packed, first: int, size: int) -> None:
        """Add ``size`` packed words from ``first`` on to those from ``start`` on (mod 2^b)."""
        low, added = self.low[start : start + size], packed.low[first : first + size]
        low += added
        if self.bits > 16:
            high = self.high[start : start + size]
            high += packed.high_parts(first, first + size)
            high += (low < added).view(np.uint8)  # the carry

    def read_into(self, start: int, words: Words) -> None:
        """Put the words from ``start`` on together; bits above b are undefined."""
        stop = start + len(words)
        np.copyto(words, self.low[start:stop])
        if self.bits > 16:
            high = self.high[start:stop].astype(np.uint32)
            high <<= np.uint32(16)
            words |= high


def high_bytes(bits: int) -> int:
    """Return how many bytes a word's part above the low half has in a lane."""
    return (bits - 9) // 8


def packed_bytes(bits: int, length: int) -> int:
    """Return the bytes of ``length`` packed words of ``bits`` bits."""
    return 2 * length + ((bits - 16) * length + 7) // 8
