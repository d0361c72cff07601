"""Residues modulo word-sized primes: canonical bytes and exact sums and products.

Arrays are uint64 of shape [primes, N]; primes have at most 60 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import ProtocolError

Residues = npt.NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF_WORD = np.uint64(32)


class ResidueError(ProtocolError):
    """Bytes that are not the canonical encoding of residues."""


def pack(residues: Residues, primes: Sequence[int]) -> bytes:
    """Serialise [primes, N] residues, little-endian, each in its prime's whole bytes."""
    parts = []
    for row, prime in zip(residues, primes, strict=True):
        width = -(-prime.bit_length() // 8)
        octets = np.ascontiguousarray(row, "<u8").view(np.uint8).reshape(-1, 8)
        parts.append(octets[:, :width].tobytes())
    return b"".join(parts)


def unpack(data: bytes, degree: int, primes: Sequence[int]) -> Residues:
    """Parse what :func:`pack` wrote; the inverse, and injective.

    Raises:
        ResidueError: another length, or a value that is not below its prime.
    """
    widths = [-(-prime.bit_length() // 8) for prime in primes]
    if len(data) != degree * sum(widths):
        raise ResidueError(f"{len(data)} bytes of residues, expected {degree * sum(widths)}")
    rows = np.zeros((len(primes), degree, 8), np.uint8)
    start = 0
    for row, width in zip(rows, widths, strict=True):
        octets = np.frombuffer(data, np.uint8, degree * width, start)
        row[:, :width] = octets.reshape(degree, width)
        start += degree * width
    residues = rows.view("<u8")[..., 0].astype(np.uint64)
    if np.any(residues >= np.array(primes, np.uint64)[:, None]):
        raise ResidueError("a residue is not below its prime")
    return residues


def sum_modulo(row: Residues, prime: int) -> int:
    """Exact sum of one row modulo its prime, as a Python integer."""
    high = int(np.sum(row >> _HALF_WORD))
    low = int(np.sum(row & _LOW))
    return ((high << 32) + low) % prime


def multiply_modulo(left: Residues, right: Residues, primes: Sequence[int]) -> Residues:
    """Exact elementwise products of [primes, N] residues.

    The quotient is estimated in double precision, which is off by at most one for primes of up
    to 50 bits; larger primes go through Python integers.
    """
    rows = []
    for a, b, prime in zip(left, right, primes, strict=True):
        if prime.bit_length() > 50:
            rows.append((a.astype(object) * b.astype(object) % prime).astype(np.uint64))
            continue
        quotient = (a.astype(np.float64) * b.astype(np.float64) / prime).astype(np.uint64)
        rest = (a * b - quotient * np.uint64(prime)).astype(np.int64)
        rest += np.where(rest < 0, prime, 0)
        rest -= np.where(rest >= prime, prime, 0)
        rows.append(rest)
    return np.stack([row.astype(np.uint64) for row in rows])


def add_modulo(left: Residues, right: Residues, primes: Sequence[int]) -> Residues:
    """Elementwise sums of [primes, N] residues."""
    return (left + right) % np.array(primes, np.uint64)[:, None]


def subtract_modulo(left: Residues, right: Residues, primes: Sequence[int]) -> Residues:
    """Elementwise differences of [primes, N] residues."""
    modulus = np.array(primes, np.uint64)[:, None]
    return (left + (modulus - right)) % modulus


def conjugate(residues: Residues) -> Residues:
    """The automorphism X -> 1/X on residues in NTT form: conjugates all slots.

    In SEAL's bit-reversed order place i holds the value at ψ^(2 br(i) + 1), whose inverse is at
    place N - 1 - i.
    """
    return np.ascontiguousarray(residues[..., ::-1])
