"""What is encrypted and what is released: checked sketches, slots, flooding, the release rule."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import BadDistance, InputError
from .parameter_sets import ParameterSet

Vector = npt.NDArray[np.float64]

MAX_SKETCH_LENGTH = 1 << 22
PHASE = "distances"


class RandomSource(Protocol):
    """What this file needs of an entropy source."""

    def read(self, num_bytes: int) -> bytes:
        """Return ``num_bytes`` fresh random bytes."""


class NormBoundExceeded(InputError):
    """A sketch longer than the public bound: it would wrap around or leave the error bound.

    ``norm`` and ``norm_bound`` are in the units of the vector; the message names the bound only.
    """

    def __init__(self, norm: float, norm_bound: float) -> None:
        super().__init__(
            f"the sketch's norm is above {norm_bound:g}, the public bound on sketches that follows "
            "from distance_norm_bound; clip the update or raise that bound for every client"
        )
        self.norm = norm
        self.norm_bound = norm_bound


def checked_sketch(sketch: npt.ArrayLike, norm_bound: float) -> Vector:
    """The sketch in units of the norm bound, as float64.

    Raises:
        InputError: not a finite vector of 1 to 2^22 numbers, or a bound that is no positive
            number.
        NormBoundExceeded: the norm is above the bound.
    """
    vector = np.asarray(sketch, np.float64)
    if vector.ndim != 1 or not 1 <= vector.size <= MAX_SKETCH_LENGTH:
        raise InputError(f"a sketch is a vector of 1 to {MAX_SKETCH_LENGTH} numbers")
    if not (math.isfinite(norm_bound) and norm_bound > 0):
        raise InputError("the norm bound must be a positive finite number")
    if not np.all(np.isfinite(vector)):
        raise InputError("the sketch contains NaN or infinity")
    norm = float(np.linalg.norm(vector))
    if norm > norm_bound * (1 + 1e-9):
        raise NormBoundExceeded(norm, norm_bound)
    return vector / norm_bound


def slot_chunks(vector: Vector, degree: int) -> npt.NDArray[np.complex128]:
    """Pack a vector into [chunks, N/2] complex slots, two numbers a slot, zero-padded."""
    chunks = -(-vector.size // degree)
    padded = np.zeros(chunks * degree)
    padded[: vector.size] = vector
    pairs = padded.reshape(chunks, degree // 2, 2)
    slots: npt.NDArray[np.complex128] = pairs[..., 0] + 1j * pairs[..., 1]
    return slots


def uniform_flood(entropy: RandomSource, width_bits: int) -> int:
    """A uniform integer on [-2^w, 2^w)."""
    num_bits = width_bits + 1
    drawn = int.from_bytes(entropy.read(-(-num_bits // 8)), "little")
    return (drawn & ((1 << num_bits) - 1)) - (1 << width_bits)


def released(squared: float, own_norm: float, parameters: ParameterSet, sender: str) -> float:
    """Range-check and round a decrypted squared distance, all in units of the norm bound.

    The triangle inequality with the peer's norm at most 1 gives 0 ≤ d² ≤ (own_norm + 1)², widened
    by the error bound.

    Raises:
        BadDistance: outside that range.
    """
    slack = parameters.error_bound
    if not -slack <= squared <= (own_norm + 1) ** 2 + slack:
        raise BadDistance(sender, PHASE, "the opened distance is impossible under the norm bound")
    return max(0.0, round(squared / parameters.resolution) * parameters.resolution)
