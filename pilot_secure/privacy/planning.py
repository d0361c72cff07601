"""Before a run: how much noise each client adds, or why no amount of it will do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pilot_secure.config import SimulationConfig
from pilot_secure.config_privacy import PrivacyConfig, sampling_problems
from pilot_secure.errors import ConfigError
from pilot_secure.privacy.accountants import (
    MAX_NOISE_MULTIPLIER,
    Unreachable,
    calibrate,
    calibrate_concentrated,
)
from pilot_secure.privacy.ledger import Adjacency, Distribution, Unit

TEXT_ADAPTER = "text_adapter"
"""What every method calls the vector of text adapters."""


@dataclass(frozen=True)
class NoisePlan:
    """What every client adds in a run; ``noise_multipliers`` by client, fixed before it.

    ``shared`` names the vectors whose noise the contributors of a sum share in the ring, each with
    the most contributors that a sum of it can have: the noise of the fewest that open a sum, less
    colluders, has the multiplier. ``local``: whether a client noises any vector by itself.
    """

    unit: Unit
    adjacency: Adjacency
    delta: float
    clipping_norm: float
    noise_multipliers: Mapping[str, float]
    batch_size: int
    mode: Literal["hooks", "ghost"] = "hooks"
    shared: Mapping[str, int] = field(default_factory=dict)
    local: bool = True

    @property
    def shared_multiplier(self) -> float:
        """Deviation of the noise on a sum over a client's largest contribution to it."""
        return max(self.noise_multipliers.values())

    @property
    def shift(self) -> float:
        """What replacing a unit moves, over what leaving it out does."""
        return 2.0 if self.adjacency == "replace_one" else 1.0

    @property
    def distribution(self) -> Distribution:
        """What the noise is drawn from."""
        if not self.shared:
            return "floating_point_gaussian"
        return "both" if self.local else "discrete_gaussian"


@dataclass(frozen=True)
class ExampleNoise:
    """What protects single examples: noise of ``noise_multiplier`` times the clipping norm.

    A Poisson batch has ``batch_size`` samples in the mean. ``mode`` says how per-sample gradients
    are clipped (`pilot_secure.privacy.dp_sgd`).
    """

    noise_multiplier: float
    clipping_norm: float
    batch_size: int
    mode: Literal["hooks", "ghost"] = "hooks"


def plan_noise(
    config: SimulationConfig,
    sizes: Mapping[str, int],
    *,
    trainings: int,
    aggregations: int,
    vectors: Mapping[str, int] | None = None,
) -> NoisePlan | None:
    """The noise of clients with ``sizes`` training examples; None where privacy.unit is none.

    A client is taken to join every one of the run's ``trainings`` and ``aggregations``; what it
    really joined stands in the ledger. ``vectors`` names what an aggregation sends, with the most
    contributors of a sum of it.
    Raises: ConfigError for a delta, a batch size or a target that cannot be.
    """
    privacy = config.privacy
    if privacy.unit == "none":
        return None
    problems = []
    if privacy.unit == "example":
        problems += sampling_problems(config.training.batch_size, dict(sizes))
    units = min(sizes.values()) if privacy.unit == "example" else len(sizes)
    delta = _delta(privacy, units)
    if delta * units >= 1:
        what = "the smallest client's examples" if privacy.unit == "example" else "clients"
        problems.append(
            f"privacy.delta is {delta:g}: expected less than 1/{units}, one over the number of "
            f"{what}; above it a mechanism may hand out one of them whole"
        )
    if problems:
        raise ConfigError([f"{problem}." for problem in problems])
    shared = _shared(privacy, vectors or {})
    local = not vectors or set(vectors) != set(shared)
    noise = {
        client: _noise_multiplier(
            config, delta, client, size, trainings, aggregations, bool(shared)
        )
        for client, size in sizes.items()
    }
    clipping_norm = privacy.clipping_norm
    assert clipping_norm is not None  # a rule of the configuration
    return NoisePlan(
        privacy.unit,
        privacy.adjacency,
        delta,
        clipping_norm,
        noise,
        config.training.batch_size,
        privacy.mode,
        shared,
        local,
    )


def _shared(privacy: PrivacyConfig, vectors: Mapping[str, int]) -> dict[str, int]:
    """The vectors whose noise is shared in the ring."""
    if privacy.distributed_noise == "none":
        return {}
    both = privacy.distributed_noise == "all"
    return {name: count for name, count in vectors.items() if both or name != TEXT_ADAPTER}


def steps_per_training(config: SimulationConfig, size: int) -> int:
    """Steps of one stage's local training on ``size`` examples."""
    return config.training.epochs * math.ceil(size / config.training.batch_size)


def _delta(privacy: PrivacyConfig, units: int) -> float:
    return 0.1 / units if privacy.delta == "auto" else privacy.delta


def _noise_multiplier(
    config: SimulationConfig,
    delta: float,
    client: str,
    size: int,
    trainings: int,
    aggregations: int,
    shared: bool,
) -> float:
    privacy = config.privacy
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    target = privacy.target_epsilon
    assert target is not None  # a rule of the configuration
    rate, count = 1.0, aggregations
    if privacy.unit == "example":
        rate = config.training.batch_size / size
        count = trainings * steps_per_training(config, size)
    try:
        if shared:
            return calibrate_concentrated(count, target, delta, privacy.adjacency)
        return calibrate(rate, count, target, delta, privacy.adjacency)
    except Unreachable as error:
        what = "steps" if privacy.unit == "example" else "uploads"
        raise ConfigError(
            [
                f"privacy.target_epsilon is {target:g}: expected at least {error.reached:.3g}, "
                f"which a noise multiplier of {MAX_NOISE_MULTIPLIER:g} reaches for {client} in "
                f"{count} {what} at a sampling rate of {rate:.3g}."
            ]
        ) from None
