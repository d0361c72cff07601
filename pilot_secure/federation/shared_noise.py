"""Noise that the clients of a sum share in the ring: each one's share, and what the ledger says.

A share is enough if the fewest contributors that open a sum, less colluders, all add theirs. What
was really added follows from the reports of the aggregations: the survivors of each opened sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilot_secure.config import SecurityConfig
from pilot_secure.privacy.concentrated import shared_deviation
from pilot_secure.privacy.events import summed_noise
from pilot_secure.privacy.ledger import Release, SharedNoise
from pilot_secure.privacy.planning import NoisePlan
from protocols import AggregationReport
from protocols.messages import PlannedSum
from protocols.ring import FixedPoint


def clip_of(security: SecurityConfig, noise: NoisePlan | None, vector: str) -> float:
    """The bound of a vector's coordinates: where its noise is shared, the joint clip's, if less."""
    if noise is None or vector not in noise.shared:
        return security.clip
    return min(security.clip, noise.clipping_norm)


def share_of_noise(security: SecurityConfig, noise: NoisePlan, vector: str, length: int) -> float:
    """What each contributor adds to its term of a vector, in the unit of its clip.

    Raises: NoRoom where the ring rounds it away.
    """
    clip = clip_of(security, noise, vector)
    return shared_deviation(
        noise.shared_multiplier,
        FixedPoint(security.ring_bits, noise.shared[vector], clip, 1.0),
        norm=noise.clipping_norm,
        length=length,
        honest=security.min_contributors - security.max_colluders,
        vectors=len(noise.shared),
    )


def releases_of_sums(
    reports: Sequence[AggregationReport], noise: NoisePlan | None, num_samples: Mapping[str, int]
) -> dict[str, list[Release]]:
    """By client, the opened sums that hold its term and shares of noise."""
    found: dict[str, list[Release]] = {}
    for report in reports:
        for planned in report.plan:
            release = _release_of_a_sum(report, planned, noise, num_samples)
            for client in report.opened.get(planned.id, ()) if release else ():
                assert release is not None
                found.setdefault(client, []).append(release)
    return found


def _release_of_a_sum(
    report: AggregationReport,
    planned: PlannedSum,
    noise: NoisePlan | None,
    num_samples: Mapping[str, int],
) -> SharedNoise | None:
    """None for a sum without shared noise, or one that was not opened."""
    parameters, contributors = report.parameters, report.opened.get(planned.id, ())
    vector = parameters.sum(planned.id).vector
    if noise is None or vector not in parameters.noise or not contributors:
        return None
    fixed = parameters.fixed_point(vector, len(planned.contributors))
    return SharedNoise(
        round=parameters.round,
        stage=parameters.stage,  # type: ignore[arg-type]
        draw=planned.id,
        sum=planned.id,
        vector=vector,
        noise_steps=fixed.noise_steps,
        steps_per_unit=fixed.scale,
        clipping_norm=noise.clipping_norm,
        coordinates=parameters.vector_lengths[vector],
        weights={name: num_samples[name] / parameters.max_samples for name in contributors},
    )


def noise_of_sums(
    report: AggregationReport, noise: NoisePlan | None, num_samples: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """By vector and client, the share of noise on a vector over its sensitivity.

    The client of the fewest examples, whose rounding weighs most, stands for all.
    """
    found: dict[str, dict[str, float]] = {}
    for planned in report.plan:
        release = _release_of_a_sum(report, planned, noise, num_samples)
        if release is None or noise is None:
            continue
        relative = max(
            summed_noise(name, release, 0).sensitivity / num_samples[name]
            for name in release.weights
        )
        of_vector = found.setdefault(report.parameters.sum(planned.id).vector, {})
        for name in release.weights:
            own = num_samples[name] * relative * noise.shift
            of_vector[name] = release.noise_steps / own
    return found
