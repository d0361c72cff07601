"""From a ledger's releases to mechanisms that any accountant understands.

A mechanism is a Gaussian on a value of sensitivity 1, applied to a Poisson sample or to all, some
number of times. Equal mechanisms are counted together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pilot_secure.privacy.ledger import DpSgd, LocalNoise, Release, SharedNoise


@dataclass(frozen=True)
class Mechanism:
    """Gaussian noise of ``noise_multiplier`` times the sensitivity, ``count`` times.

    ``sampling_rate`` below 1 means that each unit takes part by an independent draw (Poisson).
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1


def mechanisms(
    client: str, releases: Iterable[Release], *, max_colluders: int = 0
) -> list[Mechanism]:
    """The mechanisms that one client's data go through, largest sampling rate first.

    A noise multiplier of 0 is kept: it is up to the accountant to call that infinite.
    Raises: ValueError for a release without an accountant.
    """
    counts: Counter[tuple[float, float]] = Counter()
    for release in releases:
        if isinstance(release, DpSgd):
            rate = release.sampling_rate if release.sampling == "poisson" else 1.0
            counts[(rate, release.noise_multiplier)] += release.steps
        elif isinstance(release, LocalNoise):
            counts[(1.0, release.noise_multiplier)] += release.uploads
        elif isinstance(release, SharedNoise):
            multiplier = shared_noise_multiplier(
                client, release.weights, release.noise_multiplier, max_colluders
            )
            counts[(1.0, multiplier)] += release.uploads
        else:
            raise ValueError(release.reason)
    ordered = sorted(counts.items(), reverse=True)
    return [Mechanism(noise, rate, count) for (rate, noise), count in ordered]


def shared_noise_multiplier(
    client: str, weights: Mapping[str, float], noise_multiplier: float, max_colluders: int
) -> float:
    """The noise on a weighted sum relative to one client's largest contribution to it.

    The client contributes w_k · C; the noise that remains is that of the survivors without the
    ``max_colluders`` others whose noise weighs most: z · C · sqrt(Σ w_j²). A client that is no
    survivor of the sum contributes nothing: infinite.
    """
    if client not in weights:
        return math.inf
    others = sorted((weight for name, weight in weights.items() if name != client), reverse=True)
    remaining = [weights[client], *others[max_colluders:]]
    return noise_multiplier * math.hypot(*remaining) / weights[client]
