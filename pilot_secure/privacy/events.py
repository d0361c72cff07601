"""From a ledger's releases to mechanisms that any accountant understands.

A mechanism is a Gaussian on a value of sensitivity 1, applied to a Poisson sample or to all, some
number of times; equal ones are counted together. Or it is one update under noise that clients share
in sums (`pilot_secure.privacy.concentrated`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pilot_secure.privacy.concentrated import (
    JointNoise,
    SummedNoise,
    remaining_terms,
    rounded_norms,
)
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
) -> list[Mechanism | JointNoise]:
    """The mechanisms that one client's data go through, largest sampling rate first.

    A noise multiplier of 0 is kept: it is up to the accountant to call that infinite.
    Raises: ValueError for a release without an accountant.
    """
    counts: Counter[tuple[float, float]] = Counter()
    given = list(releases)
    joint, merged = _joint(client, given, max_colluders)
    for release in given:
        if isinstance(release, DpSgd):
            rate = release.sampling_rate if release.sampling == "poisson" else 1.0
            counts[(rate, release.noise_multiplier)] += release.steps
        elif isinstance(release, LocalNoise):
            if id(release) not in merged:
                counts[(1.0, release.noise_multiplier)] += release.uploads
        elif not isinstance(release, SharedNoise):
            raise ValueError(release.reason)
    ordered = sorted(counts.items(), reverse=True)
    return [*(Mechanism(noise, rate, count) for (rate, noise), count in ordered), *joint]


def _joint(
    client: str, releases: Sequence[Release], max_colluders: int
) -> tuple[list[JointNoise], set[int]]:
    """The updates with shared noise, and the ids of the local releases that are parts of them."""
    places: dict[tuple[int, int], dict[str, list[SummedNoise]]] = {}
    for release in releases:
        if isinstance(release, SharedNoise):
            vectors = places.setdefault((release.round, release.stage), {})
            noise = summed_noise(client, release, max_colluders)
            vectors.setdefault(release.vector, []).append(noise)
    joint, merged = [], set()
    for place, vectors in places.items():
        local = 0.0
        for release in releases:
            if not isinstance(release, LocalNoise) or (release.round, release.stage) != place:
                continue
            if vectors.keys() <= set(release.without) and release.noise_multiplier:
                local += release.uploads / release.noise_multiplier**2
                merged.add(id(release))
        joint.append(JointNoise(local, tuple(map(tuple, vectors.values()))))
    return joint, merged


def summed_noise(client: str, release: SharedNoise, max_colluders: int) -> SummedNoise:
    """The noise on a sum beside one client's largest contribution to it.

    What remains is that of the survivors, the client among them, less ``max_colluders``. A client
    that is no survivor of the sum contributes nothing.
    """
    norm, rounding = 0.0, 0.0
    if client in release.weights:
        norm, rounding = rounded_norms(
            release.steps_per_unit,
            release.clipping_norm,
            release.weights[client],
            release.coordinates,
        )
    return SummedNoise(
        remaining_terms(release.weights, max_colluders),
        release.noise_steps,
        norm,
        rounding,
        release.coordinates if norm else 0,
    )
