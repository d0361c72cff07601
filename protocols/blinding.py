"""A secret isometry of sketches, so that a key holder who may decrypt reads no coordinate.

All clients apply the same map, from a secret that neither the server nor the key holder has:
three times random signs, a Walsh–Hadamard transform within blocks and a reflection across them.
Distances and norms stay as they are; the coordinates that the holder could decrypt are mixtures
of all true ones.

This hides coordinates heuristically: it is not a uniformly random rotation, and whoever knows
the secret (any client) can undo it. Norms and inner products of sketches stay visible to the
holder, as do distances, which are what it is for.

Source: structured orthogonal matrices (Ailon and Chazelle 2009; three rounds as in Yu et al. 2016).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from .distance_values import Vector
from .errors import ParameterError

ROUNDS = 3
BLOCK = 8192
MIN_SECRET_BYTES = 16


def blinded_length(length: int) -> int:
    """Numbers after blinding: a power of two, above 8192 a multiple of it."""
    return -(-length // BLOCK) * BLOCK if length > BLOCK else 1 << (length - 1).bit_length()


def blind(vector: Vector, secret: bytes) -> Vector:
    """Apply the isometry to a float64 vector, zero-padded to :func:`blinded_length`.

    Raises:
        ParameterError: a secret of less than 16 bytes.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise ParameterError(f"a blinding secret has at least {MIN_SECRET_BYTES} bytes")
    size = blinded_length(vector.size)
    mixed = np.zeros(size)
    mixed[: vector.size] = vector
    key = HKDFExpand(SHA256(), 32, b"pilot-secure sketch blinding v1").derive(secret)
    keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    for _ in range(ROUNDS):
        stream = np.frombuffer(keystream.update(bytes(-(-size // 8))), np.uint8)
        mixed *= 1.0 - 2.0 * np.unpackbits(stream, count=size)
        blocks = _walsh_hadamard(mixed.reshape(-1, min(size, BLOCK)))
        blocks -= 2 * blocks.mean(axis=0)  # the reflection I - 2/c: every block meets all others
        mixed = blocks.ravel()
    return mixed


def _walsh_hadamard(blocks: Vector) -> Vector:
    """The orthonormal transform of every row; rows have a power of two of numbers."""
    count, size = blocks.shape
    half = 1
    while half < size:
        pairs = blocks.reshape(count, -1, 2, half)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        blocks = np.stack([upper + lower, upper - lower], axis=2).reshape(count, size)
        half *= 2
    normalised: Vector = blocks / np.sqrt(size)
    return normalised
