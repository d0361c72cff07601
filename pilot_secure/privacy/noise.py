"""Randomness that protects: Gaussian noise and Poisson samples from a keyed stream.

torch seeds its CPU generator with 32 bits, which anybody can try out and then subtract the noise;
so the uniform bits come from AES-256-CTR under a fresh key. The Gaussian itself is a floating-
point one (Box-Muller in float64), whose low bits can betray values in theory (Mironov 2012);
Opacus's remedy needs a package that cannot be installed. `caveats` says so where epsilon is
printed.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from pilot_secure.privacy.ledger import Distribution
from protocols import Entropy

_FLOATING = "the noise is a floating-point Gaussian: its rounding is outside epsilon (Mironov 2012)"
_SHARED = (
    "the noise shared in the ring protects its sums from whoever sees the sums alone, colluders up "
    "to security.max_colluders counted"
)
CAVEATS = (
    "published scores and losses are computed without noise and are outside epsilon",
    "the number of each client's training examples is taken as public",
)
_BLOCK = 1 << 16


def caveats(distribution: Distribution) -> tuple[str, ...]:
    """What epsilon does not cover, under noise of this kind."""
    floating = (_FLOATING,) if distribution != "discrete_gaussian" else ()
    shared = (_SHARED,) if distribution != "floating_point_gaussian" else ()
    return (*floating, *shared, *CAVEATS)


class ProtectiveNoise:
    """A stream of uniform and Gaussian numbers under one key, never used again."""

    def __init__(self, entropy: Entropy) -> None:
        key = entropy.read(32)
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Numbers in (0, 1), multiples of 2^-53 plus a half; [count]."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8") >> np.uint64(11)
        return (words.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int) -> NDArray[np.float64]:
        """Standard normal numbers, [count]."""
        values = np.empty(count + count % 2)
        for start in range(0, len(values), _BLOCK):
            half = min(_BLOCK, len(values) - start) // 2
            radius = np.sqrt(-2 * np.log(self.uniform(half)))
            angle = 2 * math.pi * self.uniform(half)
            values[start : start + half] = radius * np.cos(angle)
            values[start + half : start + 2 * half] = radius * np.sin(angle)
        return values[:count]

    def sample(self, count: int, rate: float) -> list[int]:
        """A Poisson sample: each of ``range(count)`` by its own draw with chance ``rate``."""
        chosen: list[int] = np.flatnonzero(self.uniform(count) < rate).tolist()
        return chosen
