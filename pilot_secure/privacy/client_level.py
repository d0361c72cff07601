"""Client-level noise: a whole update is clipped once, and noised before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from pilot_secure.privacy.noise import ProtectiveNoise

Vector = dict[str, NDArray[np.float32]]


def joint_norm(update: Mapping[str, Vector]) -> float:
    """The Euclidean norm of all vectors of an update together, in float64."""
    squares = [
        float(np.square(array.astype(np.float64)).sum())
        for vector in update.values()
        for array in vector.values()
    ]
    return math.sqrt(sum(squares))


def noised(
    update: Mapping[str, Vector],
    *,
    clipping_norm: float,
    noise_multiplier: float,
    noise: ProtectiveNoise,
    shared: Collection[str] = (),
) -> dict[str, Vector]:
    """The update scaled to at most ``clipping_norm``, plus Gaussian noise on every coordinate.

    The noise's standard deviation is ``noise_multiplier * clipping_norm``. The vectors ``shared``
    get none here, but their share of a sum's noise in the ring. Raises: ValueError
    for an update that is not finite.
    """
    norm = joint_norm(update)
    if not math.isfinite(norm):
        raise ValueError("an update is infinite or undefined")
    factor = min(1.0, clipping_norm / norm) if norm else 1.0
    deviation = noise_multiplier * clipping_norm

    def protect(array: NDArray[np.float32]) -> NDArray[np.float32]:
        drawn = noise.normal(array.size).reshape(array.shape) * deviation
        return (array.astype(np.float64) * factor + drawn).astype(np.float32)

    def scale(array: NDArray[np.float32]) -> NDArray[np.float32]:
        return (array.astype(np.float64) * factor).astype(np.float32)

    return {
        name: {
            key: scale(array) if name in shared else protect(array) for key, array in vector.items()
        }
        for name, vector in update.items()
    }
