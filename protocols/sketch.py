"""A linear sketch that shrinks a vector and keeps squared distances, on average exactly.

The vector is cut into rows of ``size`` numbers; every number gets a random sign, every row a
random rotation, and the rows are added up. Signs and rotations come from AES under keys that are
derived from a public seed, so that all clients of an aggregation apply the same map and nobody
sends it. For vectors fixed before the seed is known, E‖S(x − y)‖² = ‖x − y‖², with relative
standard deviation about sqrt(2 / size).

Source: count sketch (Charikar, Chen, Farach-Colton 2002), with blockwise rotations in place of
independent buckets: two numbers of one row never meet, two of different rows meet with
probability 1 / size, as in the original.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .errors import InputError

MIN_SIZE = 64
MAX_SIZE = 1 << 22
MIN_SEED_BYTES = 16

_BLOCK_NUMBERS = 1 << 16
_SIGN_BIT = np.uint32(31)

FloatVector = npt.NDArray[np.float32]


def sketch_length(length: int, size: int | None) -> int:
    """Numbers in the sketch of a vector of ``length``: a short vector is its own sketch."""
    return length if size is None or length <= size else size


def relative_error(length: int, size: int | None) -> float:
    """Standard deviation of a sketched squared distance, relative to the true one."""
    return 0.0 if size is None or length <= size else math.sqrt(2 / size)


def sketch_norm_bound(norm_bound: float, length: int, size: int | None) -> float:
    """A bound on sketch norms for vectors of norm at most ``norm_bound``.

    Five standard deviations are allowed for. A vector at the bound whose norm lies in few numbers,
    under a small sketch, exceeds it now and then (20 numbers of 3200 and size 64: 5 of 20 000
    seeds; the tail is no Gaussian's), and then meets a clear error.
    """
    return norm_bound * math.sqrt(1 + 5 * relative_error(length, size))


def sketch(
    vector: npt.ArrayLike | Iterable[FloatVector], seed: bytes, size: int | None
) -> npt.NDArray[np.float64]:
    """Sketch a vector, given whole or as an iterable of float32 chunks of any lengths.

    Args:
        vector: float32 vector, or chunks whose concatenation is the vector; read once, with
            memory for some rows only.
        seed: at least 16 bytes, the same for all clients of an aggregation, fresh in each.
        size: numbers in the sketch (64 to 2^22, a multiple of 8), or None for the vector itself.

    Returns:
        float64 [size], or the vector itself as float64 if ``size`` is None or not below its
        length.

    Raises:
        InputError: a size or seed out of range, an empty vector, NaN or infinity in it.
    """
    if size is not None and (not MIN_SIZE <= size <= MAX_SIZE or size % 8):
        raise InputError(
            f"a sketch size is a multiple of 8 from {MIN_SIZE} to {MAX_SIZE}, or none; not {size}"
        )
    if len(seed) < MIN_SEED_BYTES:
        raise InputError(f"a sketch seed has at least {MIN_SEED_BYTES} bytes")
    chunks = [np.asarray(vector)] if isinstance(vector, np.ndarray) else vector
    reader = _Reader(_as_float32(chunks))  # type: ignore[arg-type]
    if size is None:
        result = reader.rest().astype(np.float64)
    else:
        first = reader.read(size + 1)
        short = first.size <= size
        result = first.astype(np.float64) if short else _sketch_rows(reader, first, seed, size)
    if result.size == 0:
        raise InputError("an empty vector has no sketch")
    if not np.all(np.isfinite(result)):
        raise InputError("the vector to be sketched contains NaN or infinity")
    return result


def _sketch_rows(
    reader: _Reader, first: FloatVector, seed: bytes, size: int
) -> npt.NDArray[np.float64]:
    """Sum of signed, rotated rows; ``first`` has been read ahead."""
    signs, rotations = _keystream(seed, b"signs"), _keystream(seed, b"rotations")
    reader.unread(first)
    block = size * max(1, _BLOCK_NUMBERS // size)
    total = np.zeros(size)
    while (numbers := reader.read(block)).size:
        rows = -(-numbers.size // size)
        padded = numbers
        if numbers.size < rows * size:
            padded = np.zeros(rows * size, np.float32)
            padded[: numbers.size] = numbers
        flipped = _with_signs(padded, signs).reshape(rows, size)
        offsets = np.frombuffer(rotations.update(bytes(4 * rows)), "<u4") % np.uint32(size)
        for row, offset in zip(flipped, offsets.tolist(), strict=True):
            total[offset:] += row[: size - offset]
            total[:offset] += row[size - offset :]
    return total


def _with_signs(numbers: FloatVector, signs: CipherContext) -> FloatVector:
    """Flip the sign bit of each number by the next bits of the keystream."""
    stream = np.frombuffer(signs.update(bytes(-(-numbers.size // 8))), np.uint8)
    bits = np.unpackbits(stream, count=numbers.size).astype(np.uint32)
    bits <<= _SIGN_BIT
    bits ^= numbers.view(np.uint32)
    return bits.view(np.float32)


def _keystream(seed: bytes, use: bytes) -> CipherContext:
    """AES-256-CTR under a key derived from the seed for one use."""
    derived = HKDFExpand(SHA256(), 32, b"pilot-secure sketch v1 " + use).derive(seed)
    return Cipher(algorithms.AES(derived), modes.CTR(bytes(16))).encryptor()


def _as_float32(chunks: Iterable[npt.ArrayLike]) -> Iterator[FloatVector]:
    for chunk in chunks:
        array = np.asarray(chunk)
        if array.ndim != 1:
            raise InputError("a vector to be sketched is one-dimensional")
        yield np.ascontiguousarray(array, np.float32)


class _Reader:
    """Cuts a stream of arrays into pieces of a wanted length."""

    def __init__(self, chunks: Iterator[FloatVector]) -> None:
        self._chunks = chunks
        self._waiting: list[FloatVector] = []

    def unread(self, numbers: FloatVector) -> None:
        """Put numbers back in front."""
        self._waiting.insert(0, numbers)

    def read(self, count: int) -> FloatVector:
        """The next ``count`` numbers, fewer at the end; a view where no join is needed."""
        pieces: list[FloatVector] = []
        missing = count
        while missing:
            piece = self._waiting.pop(0) if self._waiting else next(self._chunks, None)
            if piece is None:
                break
            if piece.size > missing:
                self.unread(piece[missing:])
                piece = piece[:missing]
            pieces.append(piece)
            missing -= piece.size
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)

    def rest(self) -> FloatVector:
        """Everything that is left."""
        pieces = [*self._waiting, *self._chunks]
        self._waiting = []
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)
