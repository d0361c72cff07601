"""SEAL's byte streams, written here so that SEAL parses nothing that anybody else has written.

Every stream written here is uncompressed and of a length that follows from public parameters;
those that SEAL writes never left this process, and are Zstandard behind the header. Layout, all
little-endian, of the SEAL 4 that TenSEAL carries::

    header      = magic (u16) ‖ header size (u8) ‖ major (u8) ‖ minor (u8) ‖ compression (u8)
                  ‖ 0 (u16) ‖ length with header (u64)
    array       = header ‖ count (u64) ‖ count words (u64)
    ciphertext  = header ‖ level (4 u64) ‖ NTT form (u8) ‖ 2, N, primes (3 u64) ‖ scale (f64)
                  ‖ correction (u64) ‖ array ‖ [header ‖ generator (u8) ‖ seed (64)]
    plaintext   = header ‖ level ‖ count (u64) ‖ scale (f64) ‖ array
    keys        = header ‖ level ‖ 1 (u64) ‖ digits (u64) ‖ one ciphertext per digit

With a seed the array holds the first polynomial only. :mod:`protocols.ckks_check` verifies that
SEAL reads all this as it is meant.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import zstandard

from .residues import Residues

HEADER = struct.Struct("<HBBBBHQ")
UNCOMPRESSED, ZSTANDARD = 0, 2
MAX_STREAM = 1 << 26  # bytes: two polynomials of degree 2¹⁶ over many primes
GENERATOR_BLAKE2XB = 1
_SEED_LABEL = b"pilot-secure ckks uniform half v1"


def expand_seed(seed: bytes, domain: str, index: int) -> bytes:
    """The 64-byte generator seed of one uniform polynomial: a hash, so nobody can aim it."""
    encoded = domain.encode()
    framing = struct.pack("<BQQ", len(encoded), index, len(seed))
    return hashlib.sha512(_SEED_LABEL + framing + encoded + seed).digest()


def saved_residues(stream: bytes, count: int) -> Residues:
    """The [count] residues of the array with which SEAL's own stream of an object ends.

    Raises: ValueError if it is not such a stream.
    """
    *_, compression, _, length = HEADER.unpack(stream[: HEADER.size])
    if compression != ZSTANDARD or length != len(stream):
        raise ValueError(f"compression {compression} and a length of {length} bytes")
    try:
        body = zstandard.ZstdDecompressor().decompress(stream[HEADER.size :], MAX_STREAM)
    except zstandard.ZstdError as error:
        raise ValueError(f"no Zstandard: {error}") from error
    found = int.from_bytes(body[-8 * count - 8 : -8 * count], "little")
    if found != count:
        raise ValueError(f"{found} residues where it holds {count}")
    return np.frombuffer(body[-8 * count :], "<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True)
class StreamFormat:
    """Magic and version that this build of SEAL writes, and streams in that version."""

    magic: int
    header_bytes: int
    major: int
    minor: int

    def wrapped(self, body: bytes) -> bytes:
        """A body behind its header."""
        length = self.header_bytes + len(body)
        version = (self.magic, self.header_bytes, self.major, self.minor)
        return HEADER.pack(*version, UNCOMPRESSED, 0, length) + body

    def _array(self, residues: Residues) -> bytes:
        words = np.ascontiguousarray(residues, "<u8").ravel()
        return self.wrapped(struct.pack("<Q", words.size) + words.tobytes())

    def ciphertext(self, level: list[int], residues: Residues, seed: bytes | None) -> bytes:
        """A ciphertext (or public key) of two polynomials, scale 1, in NTT form.

        ``residues`` are [primes, N] of the first polynomial with a 64-byte generator ``seed`` for
        the second, or [2, primes, N] of both without one.
        """
        num_primes, degree = residues.shape[-2:]
        sizes = struct.pack("<QQQdQ", 2, degree, num_primes, 1.0, 1)
        body = struct.pack("<4Q", *level) + b"\x01" + sizes + self._array(residues)
        if seed is not None:
            body += self.wrapped(bytes([GENERATOR_BLAKE2XB]) + seed)
        return self.wrapped(body)

    def plaintext(self, level: list[int], residues: Residues) -> bytes:
        """A plaintext of scale 1 from [primes, N] residues in NTT form."""
        sizes = struct.pack("<4QQd", *level, residues.size, 1.0)
        return self.wrapped(sizes + self._array(residues))

    def switching_keys(self, level: list[int], bodies: list[Residues], seeds: list[bytes]) -> bytes:
        """Relinearisation keys, one seeded ciphertext per data prime."""
        digits = [
            self.ciphertext(level, body, seed) for body, seed in zip(bodies, seeds, strict=True)
        ]
        head = struct.pack("<4QQQ", *level, 1, len(digits))
        return self.wrapped(head + b"".join(digits))
