"""Accountants: from mechanisms to epsilon at a delta, and back to a noise multiplier.

The claim is dp-accounting's PLD accountant (Koskela et al. 2020; Doroshenko et al. 2022), an upper
bound; where nothing is sampled, the composition is one Gaussian and has a closed form
(Balle and Wang 2018, Theorem 8). Where clients share the noise of a sum, all is composed as
concentrated differential privacy (`pilot_secure.privacy.concentrated`). RDP (Mironov 2017) and the
PRV accountant (`pilot_secure.privacy.prv`) cross-check it. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from pilot_secure.privacy.concentrated import (
    ROUNDING_SHARE,
    JointNoise,
    concentrated_epsilon,
    concentrated_rho,
)
from pilot_secure.privacy.events import Mechanism
from pilot_secure.privacy.ledger import Adjacency

MAX_NOISE_MULTIPLIER = 100.0
"""Above it nothing is learned at any batch size that a client could have."""
_ROUGH, _COARSE, _FINE = 1e-2, 1e-3, 1e-4
_MAX_MU = 1e3


class Unreachable(ValueError):
    """A target epsilon that no noise multiplier up to the largest reaches."""

    def __init__(self, reached: float) -> None:
        super().__init__(f"epsilon {reached:.3g} at a noise multiplier of {MAX_NOISE_MULTIPLIER:g}")
        self.reached = reached


def epsilon(
    mechanisms: Sequence[Mechanism | JointNoise], delta: float, adjacency: Adjacency
) -> float:
    """The claim for a composition of mechanisms: infinity without noise, 0 without a release.

    Raises: ValueError for noise shared in a sum beside sampled mechanisms, which have another unit.
    """
    joint = [mechanism for mechanism in mechanisms if isinstance(mechanism, JointNoise)]
    gaussians = [mechanism for mechanism in mechanisms if isinstance(mechanism, Mechanism)]
    summed = [noise for update in joint for vector in update.sums for noise in vector]
    if any(m.noise_multiplier == 0 for m in gaussians) or any(n.deviation == 0 for n in summed):
        return math.inf
    if joint:
        return _of_joint(joint, gaussians, delta, adjacency)
    return _of_gaussians(gaussians, delta, adjacency)


def _of_joint(
    joint: Sequence[JointNoise],
    gaussians: Sequence[Mechanism],
    delta: float,
    adjacency: Adjacency,
) -> float:
    """Rhos add up; a Gaussian's is half of its mu squared."""
    if any(mechanism.sampling_rate < 1 for mechanism in gaussians):
        raise ValueError("noise shared in a sum, beside sampled mechanisms")
    rho = sum(update.rho(_shift(adjacency)) for update in joint)
    return concentrated_epsilon(rho + gaussian_mu(gaussians, adjacency) ** 2 / 2, delta)


def _shift(adjacency: Adjacency) -> float:
    return 2.0 if adjacency == "replace_one" else 1.0


def _of_gaussians(mechanisms: Sequence[Mechanism], delta: float, adjacency: Adjacency) -> float:
    if all(mechanism.sampling_rate == 1 for mechanism in mechanisms):
        return gaussian_epsilon(gaussian_mu(mechanisms, adjacency), delta)
    return pld_epsilon(mechanisms, delta, adjacency)


def gaussian_mu(mechanisms: Sequence[Mechanism], adjacency: Adjacency) -> float:
    """The mu of mu-GDP of unsampled Gaussians (Dong et al. 2022): mus add up in squares."""
    return _shift(adjacency) * math.sqrt(sum(m.count / m.noise_multiplier**2 for m in mechanisms))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian whose means differ by mu standard deviations, at ``delta``."""
    from scipy.optimize import brentq

    if mu > _MAX_MU:
        return math.inf
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    highest = mu * (mu / 2 + math.sqrt(2 * math.log(1 / delta)) + 1)
    return float(brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, highest, xtol=1e-9))


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Balle and Wang 2018, Theorem 8: Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)."""
    from scipy.stats import norm

    second = math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
    return float(norm.cdf(mu / 2 - epsilon / mu) - second)


@lru_cache(maxsize=256)
def _pld_epsilon(
    mechanisms: tuple[Mechanism, ...], delta: float, adjacency: Adjacency, interval: float
) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(_relation(adjacency), value_discretization_interval=interval)
    for mechanism in mechanisms:
        if not math.isinf(mechanism.noise_multiplier):
            event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
            if mechanism.sampling_rate < 1:
                event = dp_accounting.PoissonSampledDpEvent(mechanism.sampling_rate, event)
            accountant.compose(event, mechanism.count)
    return float(accountant.get_epsilon(delta))


def pld_epsilon(
    mechanisms: Sequence[Mechanism],
    delta: float,
    adjacency: Adjacency,
    *,
    interval: float | None = None,
) -> float:
    """Epsilon by privacy loss distributions, discretised at ``interval``: an upper bound.

    By default 1e-4 up to an epsilon of 20, and coarser above, where a finer grid takes minutes.
    """
    if interval is not None:
        return _pld_epsilon(tuple(mechanisms), delta, adjacency, interval)
    rough = _pld_epsilon(tuple(mechanisms), delta, adjacency, _ROUGH)
    if rough > 200:
        return rough
    return _pld_epsilon(tuple(mechanisms), delta, adjacency, _COARSE if rough > 20 else _FINE)


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float, adjacency: Adjacency) -> float:
    """Epsilon by Rényi differential privacy: looser, by another route.

    Raises: ValueError for sampled mechanisms under ``replace_one``, which it does not cover.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    if adjacency == "replace_one" and any(m.sampling_rate < 1 for m in mechanisms):
        raise ValueError("RDP covers no Poisson sampling under replace_one")
    orders = [1 + x / 10 for x in range(10, 100)] + list(range(11, 64)) + [128, 256, 512]
    shift = _shift(adjacency)
    accountant = RdpAccountant(orders, _relation("zero_out"))
    for mechanism in mechanisms:
        event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(
            mechanism.noise_multiplier / shift
        )
        if mechanism.sampling_rate < 1:
            event = dp_accounting.PoissonSampledDpEvent(mechanism.sampling_rate, event)
        accountant.compose(event, mechanism.count)
    return float(accountant.get_epsilon(delta))


def _relation(adjacency: Adjacency) -> object:
    from dp_accounting import NeighboringRelation

    if adjacency == "replace_one":
        return NeighboringRelation.REPLACE_ONE
    return NeighboringRelation.REPLACE_SPECIAL


@lru_cache(maxsize=256)
def calibrate(
    sampling_rate: float, count: int, target_epsilon: float, delta: float, adjacency: Adjacency
) -> float:
    """The least noise multiplier (to 0.1 %) that keeps ``count`` releases below ``target_epsilon``.

    Raises: Unreachable.
    """

    grid = _COARSE if target_epsilon <= 20 else _ROUGH

    def reached(noise_multiplier: float) -> float:
        released = [Mechanism(noise_multiplier, sampling_rate, count)]
        if sampling_rate == 1:
            return epsilon(released, delta, adjacency)
        return pld_epsilon(released, delta, adjacency, interval=grid)

    return _smallest(reached, target_epsilon)


def calibrate_concentrated(
    count: int, target_epsilon: float, delta: float, adjacency: Adjacency
) -> float:
    """The noise multiplier of ``count`` updates under shared noise that make up the target.

    What rounding may add (``ROUNDING_SHARE``) is counted. Raises: Unreachable.
    """
    squares = count * (1 + ROUNDING_SHARE) * _shift(adjacency) ** 2 / 2
    needed = math.sqrt(squares / concentrated_rho(target_epsilon, delta))
    if needed > MAX_NOISE_MULTIPLIER:
        raise Unreachable(concentrated_epsilon(squares / MAX_NOISE_MULTIPLIER**2, delta))
    return needed


def _smallest(reached: Callable[[float], float], target: float) -> float:
    """Bisect on the logarithm; ``reached`` falls with the noise multiplier."""
    if (least := reached(MAX_NOISE_MULTIPLIER)) > target:
        raise Unreachable(least)
    high = 1.0
    while reached(high) > target:
        high = min(2 * high, MAX_NOISE_MULTIPLIER)
    low = high / 2
    while low > 1e-2 and reached(low) <= target:
        low, high = low / 2, low
    while high - low > 1e-3 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) <= target else (middle, high)
    return high
