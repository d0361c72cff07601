"""Differential privacy: its section of the configuration, and its rules across fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pilot_secure.config_section import Section

if TYPE_CHECKING:
    from pilot_secure.config import SimulationConfig

Positive = Annotated[float, Field(gt=0)]


def _named(option: str) -> dict[str, Any]:
    return {"option": f"privacy-{option}"}


class PrivacyConfig(Section):
    """Differential privacy."""

    unit: Literal["none", "example", "client"] = Field(
        "none",
        description="what noise protects: nothing, single training examples (DP-SGD), or a "
        "client's whole update",
        json_schema_extra=_named("unit"),
    )
    target_epsilon: Positive | None = Field(
        None,
        description="epsilon of the whole run, which chooses each client's noise multiplier",
        json_schema_extra=_named("target-epsilon"),
    )
    noise_multiplier: Positive | None = Field(
        None,
        description="standard deviation of the noise over the clipping norm, instead of a target",
        json_schema_extra=_named("noise-multiplier"),
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="delta of every epsilon; auto is a tenth of 1/N, N the smallest client's "
        "examples, or the clients",
        json_schema_extra=_named("delta"),
    )
    clipping_norm: Positive | None = Field(
        1.0,
        description="largest norm of one example's gradient, or of a client's whole update",
        json_schema_extra=_named("clipping-norm"),
    )
    adjacency: Literal["zero_out", "replace_one"] = Field(
        "zero_out",
        description="neighbouring inputs: one unit replaced by nothing, or by any other",
        json_schema_extra=_named("adjacency"),
    )
    mode: Literal["hooks", "ghost"] = Field(
        "hooks",
        description="per-sample gradients kept (hooks), or their norms only (ghost: less memory, "
        "a little slower)",
        json_schema_extra=_named("mode"),
    )
    distributed_noise: Literal["none", "connectors", "all"] = Field(
        "none",
        description="whose noise is shared by the clients of a sum, inside the ring, instead of "
        "added by each in full: of no vector, of connectors (task adapters), or of text adapters, "
        "too; under unit client and secure_agg, for vectors that are only seen as a sum",
        json_schema_extra=_named("distributed-noise"),
    )


def privacy_problems(config: SimulationConfig) -> list[str]:
    """Return what is wrong with the section as far as fields alone can tell."""
    privacy = config.privacy
    if privacy.unit == "none":
        return _distributed_problems(config) + [
            f"privacy.{name} is {getattr(privacy, name):g} but privacy.unit is none: expected "
            "example or client, what the noise is to protect"
            for name in ("target_epsilon", "noise_multiplier")
            if getattr(privacy, name) is not None
        ]
    return [
        *_noise_problems(config),
        *_fitting_problems(config),
        *_distributed_problems(config),
    ]


def _distributed_problems(config: SimulationConfig) -> list[str]:
    """Where shares of noise would protect nothing: only a sum holds more than one of them."""
    privacy, method = config.privacy, config.federation.method
    if privacy.distributed_noise == "none":
        return []
    given, problems = f"privacy.distributed_noise is {privacy.distributed_noise}", []
    if privacy.unit != "client":
        problems.append(
            f"{given}: expected none under privacy.unit {privacy.unit}, since clients share the "
            "noise of their whole updates"
        )
    if not config.security.secure_agg:
        problems.append(
            f"{given}: expected security.secure_agg, without which the server sees each client's "
            "vector with its small share of the noise"
        )
    if config.security.max_colluders == 0:
        problems.append(
            f"security.max_colluders is 0: expected at least 1 where {given[8:]}, since every "
            "client knows its own share of the noise in a sum"
        )
    if privacy.distributed_noise == "all" and config.selects_neighbours:
        problems.append(
            f"{given}: expected none or connectors where text adapters are compared by distance, "
            "since a distance or a personalised sum sees one client's vector, which a share of the "
            "noise does not protect"
        )
    if privacy.distributed_noise == "connectors" and method == "shepherd":
        problems.append(f"{given}: expected none or all for shepherd, which sends no connector")
    return problems


def _noise_problems(config: SimulationConfig) -> list[str]:
    privacy, problems = config.privacy, []
    if privacy.clipping_norm is None:
        problems.append(
            "privacy.clipping_norm is none: expected a number, since noise protects no "
            f"{privacy.unit} whose contribution is not bounded"
        )
    if (privacy.target_epsilon is None) == (privacy.noise_multiplier is None):
        given = "neither" if privacy.target_epsilon is None else "both"
        problems.append(
            f"privacy.unit is {privacy.unit} with {given} of privacy.target_epsilon and "
            "privacy.noise_multiplier: expected one of them"
        )
    return problems


def _fitting_problems(config: SimulationConfig) -> list[str]:
    """Settings elsewhere that no noise goes together with."""
    privacy, federation, problems = config.privacy, config.federation, []
    if privacy.unit == "client" and not config.exchanges:
        problems.append(
            f"privacy.unit is client: expected a method that sends an update, federation.method "
            f"is {federation.method}"
        )
    if privacy.unit == "example" and config.model.mixed_precision != "no":
        problems.append(
            f"model.mixed_precision is {config.model.mixed_precision}: expected no under "
            "privacy.unit example, whose per-sample norms must not be rounded to 8 bits"
        )
    if privacy.unit == "example" and config.training.gradient_accumulation > 1:
        problems.append(
            f"training.gradient_accumulation is {config.training.gradient_accumulation}: expected "
            "1 under privacy.unit example, whose steps take a sample whole"
        )
    if privacy.unit == "example" and config.training.gradient_checkpointing:
        problems.append(
            "training.gradient_checkpointing is true: expected false under privacy.unit example, "
            "whose per-sample gradients are taken in one backward pass"
        )
    if federation.method == "centralized":
        problems.append(
            f"privacy.unit is {privacy.unit}: expected none for federation.method centralized, "
            "which has no clients that could protect anything"
        )
    if federation.replay_selection is not None:
        problems.append(
            f"federation.replay_selection is {federation.replay_selection}: expected privacy.unit "
            "none, since noise is never the same twice"
        )
    data = config.data
    if privacy.unit == "example" and data.scenario != "files":
        problems += sampling_problems(config.training.batch_size, {"": data.samples_per_client})
    return problems


def sampling_problems(batch_size: int, sizes: dict[str, int]) -> list[str]:
    """A batch larger than a client's examples: they cannot be drawn with a chance above 1."""
    client, smallest = min(sizes.items(), key=lambda item: item[1])
    if batch_size <= smallest:
        return []
    whose = f"{client}'s" if client else "a client's"
    return [
        f"training.batch_size is {batch_size}: expected at most {whose} {smallest} training "
        "examples under privacy.unit example, which draws each with chance batch_size / examples"
    ]
