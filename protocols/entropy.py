"""The source of randomness of every party, with one exception.

Every X25519 key, seed, polynomial coefficient and flooding term comes from an :class:`Entropy` that
the caller hands in, so that a test vector can fix all of it and an auditor can see where it enters.
The exception is encryption under CKKS: SEAL draws its secret keys and error terms from its own
generator, seeded by the operating system, and takes no seed from outside.
"""

from __future__ import annotations

import os
from typing import Self

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256, Hash

_BLOCK_BYTES = 1 << 16


class Entropy:
    """Cryptographic randomness from the operating system."""

    def read(self, num_bytes: int) -> bytes:
        """Return ``num_bytes`` fresh random bytes.

        Secrecy: the caller's; nothing is kept here.
        """
        return os.urandom(num_bytes)


class DeterministicEntropy(Entropy):
    """Randomness expanded from a seed: for test vectors and escrowed audits only.

    The stream is AES-256-CTR under SHA-256(label, seed), counter from zero. Two parties must
    never share one seed.
    """

    _LABEL = b"pilot-secure deterministic entropy"

    def __init__(self, seed: bytes) -> None:
        digest = Hash(SHA256())
        digest.update(self._LABEL + len(seed).to_bytes(8, "big") + seed)
        key = digest.finalize()
        self._keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._seed, self._read_bytes = seed, 0

    def __reduce__(self) -> tuple[type[Self], tuple[bytes], int]:
        return type(self), (self._seed,), self._read_bytes

    def __setstate__(self, read_bytes: int) -> None:
        self.read(read_bytes)

    def read(self, num_bytes: int) -> bytes:
        """Return the next ``num_bytes`` of the stream."""
        parts = []
        self._read_bytes += num_bytes
        while num_bytes > 0:
            size = min(num_bytes, _BLOCK_BYTES)
            parts.append(self._keystream.update(bytes(size)))
            num_bytes -= size
        return b"".join(parts)
