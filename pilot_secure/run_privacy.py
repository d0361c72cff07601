"""A run's privacy, put together: its noise before it starts, its ledger and summary after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pilot_secure.config import SimulationConfig
from pilot_secure.data import ClientData
from pilot_secure.errors import ConfigError
from pilot_secure.federation.methods import Method
from pilot_secure.federation.shared_noise import releases_of_sums, share_of_noise
from pilot_secure.privacy.concentrated import NoRoom
from pilot_secure.privacy.ledger import ClientLedger, Distribution, Ledger, Release
from pilot_secure.privacy.noise import caveats
from pilot_secure.privacy.planning import NoisePlan, plan_noise
from pilot_secure.privacy.recompute import with_claims
from pilot_secure.summary import PrivacySummary
from protocols import AggregationReport
from protocols.sketch import MAX_SIZE, sketch_length

_HEADROOM = 6.0
"""Standard deviations of noise on one coordinate that the ring has to hold."""


def noise_of_a_run(
    config: SimulationConfig, data: Sequence[ClientData], method: Method
) -> NoisePlan | None:
    """What every client adds, for the rounds and stages of the method.

    Raises: ConfigError where no noise fits.
    """
    tasks = {client.name: client.task for client in data}
    largest: dict[str, int] = {}
    places = [
        (round_number, stage)
        for round_number in range(1, config.federation.rounds + 1)
        for stage in method.stages(round_number)
    ]
    sums = [method.sums(tasks, list(tasks), stage) for _, stage in places]
    for spec in (spec for of_a_stage in sums for spec in of_a_stage):
        named = len(tasks) if spec.contributors == "selected" else len(spec.contributors)
        largest[spec.vector] = max(largest.get(spec.vector, 0), named)
    return plan_noise(
        config,
        {client.name: len(client.train) for client in data},
        trainings=len(places),
        aggregations=sum(map(bool, sums)),
        vectors=largest,
    )


def check_room(
    config: SimulationConfig, noise: NoisePlan | None, vector_lengths: Mapping[str, int]
) -> None:
    """Raise ConfigError where updates, noised or not, would not fit the ring or the sketch."""
    security = config.security
    length = vector_lengths.get("text_adapter", 0)
    if (
        security.secure_agg
        and config.selects_neighbours
        and sketch_length(length, security.sketch_size) > MAX_SIZE
    ):
        raise ConfigError(
            [
                f"security.sketch_size is null (exact): expected a number for text adapters of "
                f"{length} numbers, since at most {MAX_SIZE} can be encrypted."
            ]
        )
    if noise is None or noise.unit != "client" or not security.secure_agg:
        return
    problems = _problems_in_the_ring(config, noise, vector_lengths)
    local = {name: n for name, n in vector_lengths.items() if name not in noise.shared}
    deviation = max(noise.noise_multipliers.values()) * noise.clipping_norm
    clip = noise.clipping_norm + _HEADROOM * deviation
    if local and security.clip < clip:
        problems.append(
            f"security.clip is {security.clip:g}: expected at least {clip:.3g}, which holds a "
            "coordinate with its noise"
        )
    norm = noise.clipping_norm + deviation * math.sqrt(max(local.values(), default=0))
    if config.selects_neighbours and security.distance_norm_bound < 1.1 * norm:
        problems.append(
            f"security.distance_norm_bound is {security.distance_norm_bound:g}: expected at least "
            f"{1.1 * norm:.4g}, which holds an update with its noise"
        )
    if problems:
        raise ConfigError([f"{problem}." for problem in problems])


def _problems_in_the_ring(
    config: SimulationConfig, noise: NoisePlan, vector_lengths: Mapping[str, int]
) -> list[str]:
    """Shared noise that no ring of this width holds beside the rounding."""
    problems = []
    for vector in noise.shared:
        try:
            share_of_noise(config.security, noise, vector, vector_lengths[vector])
        except NoRoom as error:
            problems.append(
                f"security.ring_bits is {config.security.ring_bits}: expected more for "
                f"privacy.distributed_noise of {vector}, where {error}"
            )
    return problems


def ledger_of_a_run(
    config: SimulationConfig,
    data: Sequence[ClientData],
    noise: NoisePlan | None,
    releases: Mapping[str, Sequence[Release]],
    reports: Sequence[AggregationReport] = (),
) -> Ledger:
    """The ledger of what was released so far, claims included.

    ``releases`` are what clients noted, ``reports`` the aggregations, whose sums hold shared noise.
    """
    samples = {client.name: len(client.train) for client in data}
    sums = releases_of_sums(reports, noise, samples)
    smallest = min(len(client.train) for client in data)
    distribution: Distribution = "floating_point_gaussian" if noise is None else noise.distribution
    return with_claims(
        Ledger(
            unit="example" if noise is None else noise.unit,
            adjacency="zero_out" if noise is None else noise.adjacency,
            delta=0.1 / smallest if noise is None else noise.delta,
            max_colluders=config.security.max_colluders,
            clients=tuple(
                ClientLedger(
                    client=client.name,
                    task=client.task,
                    num_examples=len(client.train),
                    releases=(*releases.get(client.name, ()), *sums.get(client.name, ())),
                )
                for client in data
            ),
            accountant="zcdp" if noise is not None and noise.shared else "pld",
            noise=distribution,
            caveats=caveats(distribution),
        )
    )


def privacy_summary(ledger: Ledger, noise: NoisePlan | None) -> PrivacySummary | None:
    """What the summary says of it; None without noise."""
    if noise is None:
        return None
    return PrivacySummary(
        unit=ledger.unit,
        adjacency=ledger.adjacency,
        delta=ledger.delta,
        clipping_norm=noise.clipping_norm,
        noise_multiplier=dict(noise.noise_multipliers),
        epsilon={entry.client: entry.epsilon for entry in ledger.clients},
        reasons={entry.client: entry.reason for entry in ledger.clients if entry.reason},
        caveats=ledger.caveats,
    )


def local_noise(noise: NoisePlan | None) -> dict[str, float]:
    """Each client's noise on its update over the update's sensitivity; empty without any."""
    if noise is None or noise.unit != "client":
        return {}
    return {client: value / noise.shift for client, value in noise.noise_multipliers.items()}
