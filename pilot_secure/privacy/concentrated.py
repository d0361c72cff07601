"""Noise shared among clients: its concentrated differential privacy, and how much each has to add.

The sum of h discrete Gaussians of deviation s on integers of sensitivity D in d coordinates is
rho-zCDP with rho = min(D^2 / (h s^2) + 2 tau d, (D / (sqrt(h) s) + tau sqrt(d))^2) / 2, where
tau = 10 sum_{k=1}^{h-1} exp(-2 pi^2 s^2 k / (k + 1)) is how far it is from a discrete Gaussian.

Source: Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated
Learning with Secure Aggregation" (ICML 2021), Proposition 14; to epsilon by Canonne, Kamath and
Steinke 2020, Proposition 12. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from protocols.ring import FixedPoint

FLOAT_MARGIN = 1 + 2.0**-20
"""A clipped norm and an encoded coordinate are off by float32's relative error, some 2^-22."""
_LARGEST_RHO = 1e6


ROUNDING_SHARE = 0.05
"""How much more rho than the target's noise gives may come from rounding, over all vectors."""


@dataclass(frozen=True)
class SummedNoise:
    """``terms`` discrete Gaussians of ``deviation`` on integers, in ``coordinates``.

    Their L2 sensitivity is ``norm``, what clipping bounds, plus ``rounding``.
    """

    terms: int
    deviation: int
    norm: float
    rounding: float
    coordinates: int

    @property
    def sensitivity(self) -> float:
        """The most that one client's term moves the sum, in steps."""
        return self.norm + self.rounding

    def rho(self, shift: float = 1.0) -> float:
        """The rho of zCDP; ``shift`` multiplies the sensitivity."""
        s, h, d = self.deviation, self.terms, self.coordinates
        ratio = shift * self.sensitivity / (math.sqrt(h) * s)
        tau = 10 * sum(math.exp(-2 * (math.pi * s) ** 2 * k / (k + 1)) for k in range(1, h))
        return min(ratio**2 + 2 * tau * d, (ratio + tau * math.sqrt(d)) ** 2) / 2

    def of_clipping(self, shift: float = 1.0) -> float:
        """The part of rho that is proportional to the squared norm before rounding."""
        return (shift * self.norm / self.deviation) ** 2 / self.terms / 2


@dataclass(frozen=True)
class JointNoise:
    """One update, clipped as a whole, whose vectors leave under noises of their own.

    ``local`` is the sum of 1/z^2 of the noise that the client adds to some by itself, ``sums`` the
    shared noise of each of the others. The squared norms of the parts add up to at most the clip's,
    so the part with the least noise stands for all, and only what rounding adds is added.
    """

    local: float
    sums: tuple[tuple[SummedNoise, ...], ...]

    def rho(self, shift: float = 1.0) -> float:
        """The rho of zCDP of all parts; ``shift`` multiplies the sensitivity."""
        parts = [sum(noise.of_clipping(shift) for noise in vector) for vector in self.sums]
        rounding = sum(n.rho(shift) - n.of_clipping(shift) for vector in self.sums for n in vector)
        return max([shift**2 * self.local / 2, *parts]) + rounding


def rounded_norms(
    steps_per_unit: float, norm: float, weight: float, length: int
) -> tuple[float, float]:
    """What bounds the L2 norm, in steps, of a term of ``norm`` rounded to integers: two addends.

    The first is the clip's (``weight`` is v/V), the second rounding's: half a step in each of
    ``length`` coordinates.
    """
    return FLOAT_MARGIN * steps_per_unit * norm * weight, math.sqrt(length) / 2


def concentrated_epsilon(rho: float, delta: float) -> float:
    """The epsilon at ``delta`` of rho-zCDP, the best over all orders."""
    from scipy.optimize import minimize_scalar

    if rho == 0:
        return 0.0
    if rho > _LARGEST_RHO:
        return math.inf

    def at(logarithm: float) -> float:
        less = math.exp(logarithm)  # the order less one
        order = 1 + less
        return order * rho + math.log(less / order) - (math.log(delta) + math.log(order)) / less

    middle = math.log(math.sqrt(math.log(1 / delta) / rho))  # the best order of the plain bound
    found = minimize_scalar(at, bounds=(middle - 5, middle + 5), method="bounded")
    return max(0.0, float(found.fun))


def concentrated_rho(epsilon: float, delta: float) -> float:
    """The largest rho whose epsilon at ``delta`` is at most ``epsilon``, to 1e-9 of it."""
    low, high = 0.0, 1.0
    while concentrated_epsilon(high, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if concentrated_epsilon(middle, delta) <= epsilon else (low, middle)
        )
    return low


class NoRoom(ValueError):
    """A ring in which no noise is large beside the rounding of its terms."""


def shared_deviation(
    noise_multiplier: float,
    fixed: FixedPoint,
    *,
    norm: float,
    length: int,
    honest: int,
    vectors: int = 1,
) -> float:
    """What each contributor adds, in the vector's unit, so that ``honest`` of them suffice.

    Their noise is ``noise_multiplier`` times a term's norm in a sum planned for
    ``fixed.contributors`` or fewer (``fixed.noise`` is not looked at), and rounding adds at most
    its share, of ``vectors``, of ``ROUNDING_SHARE``. Raises: NoRoom.
    """
    target = 1 / (2 * noise_multiplier**2)

    def enough(noise: float) -> bool:
        point = FixedPoint(fixed.bits, fixed.contributors, fixed.clip, fixed.max_weight, noise)
        if not point.noise_steps:
            return False
        terms = rounded_norms(point.scale, norm, 1.0, length)
        summed = SummedNoise(honest, point.noise_steps, *terms, length)
        of_clipping = summed.of_clipping()
        rounding = summed.rho() - of_clipping
        return of_clipping <= target and rounding <= ROUNDING_SHARE / vectors * target

    high = noise_multiplier * norm / math.sqrt(honest)
    for _ in range(20):
        if enough(high):
            break
        high *= 1.1
    else:
        raise NoRoom(
            f"noise of {noise_multiplier:.3g} times a term's norm is too small beside the rounding "
            f"of {length} coordinates"
        )
    low = high / 1.1
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def remaining_terms(weights: Mapping[str, float], max_colluders: int) -> int:
    """How many survivors' noise is left when ``max_colluders`` of them give theirs away."""
    return max(1, len(weights) - max_colluders)
