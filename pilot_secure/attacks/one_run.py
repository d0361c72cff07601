"""A lower bound of epsilon from guesses about canaries in one run of a mechanism.

Each of m canaries takes part by the toss of a coin. The attacker ranks them by a score, guesses
"in" for the highest and "out" for the lowest, and abstains on the rest. Under (epsilon, delta)
differential privacy the number of right guesses is hardly more than a binomial's.

Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023),
Theorem 5.2 and Algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.999
DELTA = 1e-7
"""At which mechanisms are audited: the bound loses 2 m delta times a share, so it must be small."""
_GUESS_SHARES = (0.05, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Audit:
    """What the attack on canaries found, beside the claim at the same ``delta``.

    ``lower_bound`` holds with ``confidence``, all shares of guesses tried and ``num_attacks``
    together counted; ``ceiling`` is what it would be with every guess right.
    """

    claimed: float
    delta: float
    lower_bound: float
    ceiling: float
    auc: float
    tpr_at_1_percent_fpr: float
    canaries: int
    confidence: float

    @property
    def passed(self) -> bool:
        """Whether the mechanism may keep its claim."""
        return self.lower_bound <= self.claimed

    @property
    def verdict(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.passed else "FAIL"


def audit(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    claimed: float,
    delta: float = DELTA,
    num_attacks: int = 1,
    confidence: float = CONFIDENCE,
) -> Audit:
    """Audit a mechanism by its canaries' scores [m] and whether each took part [m].

    The guesses' number is chosen among several, each paid for in confidence.
    """
    canaries = len(scores)
    failure = (1 - confidence) / (num_attacks * len(_GUESS_SHARES))
    order = np.argsort(-scores, kind="stable")
    bounds, ceilings = [], []
    for share in _GUESS_SHARES:
        half = max(1, round(canaries * share / 2))
        right = int(included[order[:half]].sum() + (~included[order[-half:]]).sum())
        bounds.append(epsilon_lower_bound(canaries, 2 * half, right, delta, failure))
        ceilings.append(epsilon_lower_bound(canaries, 2 * half, 2 * half, delta, failure))
    return Audit(
        claimed=claimed,
        delta=delta,
        lower_bound=max(bounds),
        ceiling=max(ceilings),
        auc=area_under_curve(scores, included),
        tpr_at_1_percent_fpr=true_positive_rate(scores, included, 0.01),
        canaries=canaries,
        confidence=confidence,
    )


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """A bound on the chance of so many right guesses under (epsilon, delta)."""
    from scipy.stats import binom

    rate = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, rate))
    masses = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, rate))
    alpha = float(np.max(masses / np.arange(1, right + 1))) if right else 0.0
    return min(1.0, beta + 2 * canaries * delta * alpha)


def epsilon_lower_bound(
    canaries: int, guesses: int, right: int, delta: float, failure: float
) -> float:
    """The largest epsilon (to 1e-3) that the guesses refute with a chance of error ``failure``."""
    if p_value(canaries, guesses, right, 0.0, delta) >= failure:
        return 0.0
    low, high = 0.0, 1.0
    while p_value(canaries, guesses, right, high, delta) < failure:
        low, high = high, 2 * high
    while high - low > 1e-3:
        middle = (low + high) / 2
        if p_value(canaries, guesses, right, middle, delta) < failure:
            low = middle
        else:
            high = middle
    return low


def area_under_curve(scores: NDArray[np.float64], included: NDArray[np.bool_]) -> float:
    """The chance that a canary that took part scores above one that did not."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    inside, outside = int(included.sum()), int((~included).sum())
    if not inside or not outside:
        return 0.5
    return float((ranks[included].sum() - inside * (inside + 1) / 2) / (inside * outside))


def true_positive_rate(
    scores: NDArray[np.float64], included: NDArray[np.bool_], false_positive_rate: float
) -> float:
    """The share of canaries found above the score that lets ``false_positive_rate`` through."""
    outside = np.sort(scores[~included])[::-1]
    if not len(outside) or included.sum() == 0:
        return 0.0
    threshold = outside[min(len(outside) - 1, int(false_positive_rate * len(outside)))]
    return float((scores[included] > threshold).mean())
