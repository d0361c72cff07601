"""The configuration of a simulation: one pydantic tree, from which the command line is made.

Every field is written down here once; YAML files under ``configs/`` and command-line options
are two ways to set it. Cross-field rules are checked when the configuration is built, and all
problems are reported together.

The defaults are the embedded scenario's; the paper's own values (Xiong et al., AAAI 2025) are
named in the descriptions where they differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pilot_secure.config_rules import problems_across_fields
from pilot_secure.metrics import METRICS
from protocols.identity import NAME_PATTERN, SERVER

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Phase = Literal[
    "train",
    "advertise",
    "share",
    "distance_upload",
    "distance_reply",
    "select",
    "masked_input",
    "consistency",
    "unmask",
    "deliver",
    "clear_update",
    "clear_deliver",
]

EMBEDDED_TASKS = 3
LONGEST_NAME = 56
"""Of a client or task: `text.<client>-<number>` is a name of the protocol, at most 64 long."""


def _party_name(name: str) -> str:
    """Names go into messages and file names. Raises: ValueError, saying what was expected."""
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > LONGEST_NAME or name == SERVER:
        raise ValueError(
            "lower-case letters, digits, `.`, `_` or `-`, beginning with a letter or a digit, "
            f"at most {LONGEST_NAME} characters, other than `{SERVER}`"
        )
    return name


def _task_name(name: str) -> str:
    """A task's adapters are modules, whose names torch wants without dots."""
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > LONGEST_NAME or "." in name:
        raise ValueError(
            "lower-case letters, digits, `_` or `-`, beginning with a letter or a digit, at most "
            f"{LONGEST_NAME} characters"
        )
    return name


def _metric_name(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"one of {', '.join(METRICS)}")
    return name


PartyName = Annotated[str, AfterValidator(_party_name)]
TaskName = Annotated[str, AfterValidator(_task_name)]
MetricName = Annotated[str, AfterValidator(_metric_name)]


class Section(BaseModel):
    """A frozen group of fields; an unknown field or a number that is not finite is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClientFilesConfig(Section):
    """One client's own data (YAML only): LLaVA conversation JSON and a folder of images.

    Paths are relative to the working directory.
    """

    name: PartyName | None = Field(None, description="client id; default client-01, client-02, …")
    task: TaskName = Field(description="task the client belongs to; adapters are averaged per task")
    metric: MetricName = Field(description="how answers are scored")
    train: Path = Field(description="LLaVA conversation JSON to train on")
    test: Path | None = Field(None, description="JSON to score on; default: part of `train`")
    images: Path = Field(description="folder that image paths are relative to")
    split_into: PositiveInt = Field(1, description="number of clients this file is divided among")
    split_by: str | None = Field(
        None, description="key of the rows that a Dirichlet split groups by; default: IID"
    )
    box_order: Literal["xyxy", "yxyx"] = Field(
        "xyxy", description="order in which answers give the corners of a box"
    )


class DataConfig(Section):
    """Data."""

    scenario: Literal["visual-understanding", "general-vqa", "files"] = Field(
        "visual-understanding",
        description="embedded scenario, or `files` for the user's own data given under `clients`",
    )
    clients: tuple[ClientFilesConfig, ...] = Field(
        (), description="the user's own clients (YAML only; scenario `files`)"
    )
    clients_per_task: PositiveInt = Field(3, description="clients of each task")
    samples_per_client: PositiveInt = Field(64, description="training samples of each client")
    test_samples: PositiveInt = Field(200, description="test samples of each client")
    look_strength: Share = Field(1.0, description="how far each task's images differ in look")
    convention_strength: Share = Field(
        1.0, description="share of samples that follow the task's own answer convention"
    )
    domain_strength: Share = Field(
        0.25, description="how far clients of one task differ in what they see; 0 is IID"
    )
    test_share: Share = Field(
        0.2, description="share of a client's own file held out for the test (scenario `files`)"
    )
    split_alpha: Annotated[float, Field(gt=0)] = Field(
        0.5, description="concentration of a Dirichlet split; small is uneven"
    )
    max_broken_share: Share = Field(
        0.05, description="share of missing or broken images above which loading stops"
    )


class ModelConfig(Section):
    """Model."""

    base: str = Field(
        "tiny-llava", description="`tiny-llava` (embedded), a folder, or a llava-hf hub id"
    )
    lora_rank: PositiveInt = Field(8, description="rank of the text adapter (paper: 64)")
    lora_alpha: PositiveInt = Field(16, description="scale numerator of LoRA (paper: 128)")
    lora_dropout: Share = Field(0.0, description="dropout inside LoRA (paper: 0.05)")
    adapter_init_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="output scale of the task and client adapters at the start (paper: 1)"
    )
    cross_task_init: Literal["task_adapter", "random"] = Field(
        "task_adapter", description="initialisation of the cross-task adapters (Table 6)"
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="accelerate's mixed precision (paper: bf16)"
    )
    max_length: PositiveInt = Field(
        2048,
        description="longest prompt with its answer, in tokens; answers are cut off there",
    )
    max_new_tokens: PositiveInt = Field(24, description="longest generated answer, in tokens")


class TrainingConfig(Section):
    """Local training."""

    epochs: PositiveInt = Field(1, description="local epochs E of each stage")
    batch_size: PositiveInt = Field(8, description="samples of a step (paper: 16 per GPU)")
    learning_rate_stage1: Annotated[float, Field(gt=0)] = Field(
        6e-3, description="LoRA learning rate of stage 1 (paper: 2e-5)"
    )
    learning_rate_stage2: Annotated[float, Field(gt=0)] = Field(
        6e-3, description="LoRA learning rate of stage 2 (paper: 4e-5)"
    )
    connector_rate_factor: Annotated[float, Field(gt=0)] = Field(
        0.3, description="adapters' learning rate as a multiple of LoRA's (paper: 1)"
    )
    warmup_share: Share = Field(0.03, description="linear warm-up, share of a stage's steps")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW weight decay")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradient clipping norm")
    difference_weight: Annotated[float, Field(ge=0)] = Field(
        0.1, description="λ0 of the difference loss (Eq. 3-4)"
    )
    normalise_difference: bool = Field(
        True, description="centre and L2-normalise rows before the difference loss"
    )
    load_balancing_weight: Annotated[float, Field(ge=0)] = Field(
        0.1, description="λ1 of the router's load-balancing loss (Eq. 7)"
    )
    router_z_weight: Annotated[float, Field(ge=0)] = Field(
        0.01, description="λ2 of the router z-loss (Eq. 8)"
    )


class FederationConfig(Section):
    """Federation."""

    method: Literal["pilot", "local"] = Field(
        "pilot", description="what clients train, send and combine"
    )
    rounds: PositiveInt = Field(3, description="communication rounds R")
    schedule: Literal["stage1_once", "both_stages"] = Field(
        "stage1_once",
        description="stage 1 in round 1 and stage 2 after it, or both stages in every round",
    )
    participation: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of each task's clients taking part in a round, at least one"
    )
    num_neighbours: PositiveInt = Field(
        6, description="M, text adapters that a client's own is combined with (Eq. 11)"
    )
    eq12: Literal["normalised", "literal"] = Field(
        "normalised", description="denominator of Eq. 12: weights summing to one, or as printed"
    )
    replay_selection: Path | None = Field(
        None, description="run folder whose neighbours and weights are used again"
    )
    evaluate: Literal["last", "every_round"] = Field(
        "last", description="when the clients' models are scored"
    )

    def taking_part(self, clients: int) -> int:
        """How many of a task's clients take part in a round, at least one."""
        return max(1, round(clients * self.participation))


class DropoutConfig(Section):
    """One client vanishing before one phase, or answering it too late (YAML only)."""

    client: str
    round: PositiveInt
    stage: Literal[1, 2]
    phase: Phase
    fault: Literal["vanished", "late"] = "vanished"


class SecurityConfig(Section):
    """Secure aggregation."""

    secure_agg: bool = Field(
        False, description="aggregate under masks and CKKS; off: the server sees every adapter"
    )
    neighbour_visibility: Literal["auto", "hidden", "visible"] = Field(
        "auto",
        description="whether the server may learn who is whose neighbour; auto is hidden for up "
        "to 16 clients a round, above which it must be stated (hidden costs every client a term "
        "in every sum)",
    )
    distance_trust: Literal["peer"] = Field(
        "peer", description="who can open distances: each client its own row"
    )
    sketch_size: Annotated[int, Field(ge=64, multiple_of=8)] | None = Field(
        16384,
        description="coordinates of the sketch that distances are computed on; null is exact "
        "(65536 for a LoRA of 10^8 parameters)",
    )
    ckks_parameters: Literal["peer-4096", "peer-8192"] = Field(
        "peer-4096", description="named CKKS parameter set"
    )
    distance_norm_bound: Annotated[float, Field(gt=0)] = Field(
        16.0,
        description="largest norm of a text adapter's difference from its start that may be "
        "encrypted; distances are rounded relative to it",
    )
    threshold: PositiveInt | Literal["auto"] = Field(
        "auto", description="shares that open a mask; auto is the smallest t with 2t > n + c_max"
    )
    max_colluders: Annotated[int, Field(ge=0)] = Field(
        1, description="clients that may collude with the server or each other (c_max)"
    )
    min_contributors: PositiveInt = Field(
        3, description="fewest surviving contributors for which a sum is opened"
    )
    ring_bits: Literal[16, 20, 24, 32] = Field(20, description="bits of a masked coordinate")
    clip: Annotated[float, Field(gt=0)] = Field(
        1.0, description="largest absolute coordinate of an update; what exceeds it is clipped"
    )
    max_samples: Annotated[int, Field(ge=1, le=1 << 24)] | Literal["auto"] = Field(
        "auto", description="public upper bound of a client's sample count; auto: a power of two"
    )
    max_attempts: PositiveInt = Field(2, description="attempts of an aggregation before it fails")
    dropout_probability: Share = Field(
        0.0, description="chance that a client vanishes before a phase (simulated)"
    )
    straggler_probability: Share = Field(
        0.0, description="chance that a client answers a phase too late to be heard (simulated)"
    )
    dropouts: tuple[DropoutConfig, ...] = Field(
        (), description="fixed schedule of simulated drop-outs (YAML only)"
    )
    keep_payloads: bool = Field(
        True, description="keep every message's bytes beside the transcript, not only its hash"
    )


class RunConfig(Section):
    """Run."""

    name: str | None = Field(None, description="name of the run; default: scenario and method")
    out: Path | None = Field(None, description="run folder; default runs/<time>-<name>")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="seed of data, initialisation and batches, never of cryptographic keys"
    )


class SimulationConfig(Section):
    """A federated run: data, model, training, federation, secure aggregation."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    security: SecurityConfig = SecurityConfig()

    @model_validator(mode="after")
    def _check_across_fields(self) -> SimulationConfig:
        problems = problems_across_fields(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def task_sizes(self) -> dict[str, int]:
        """Clients of each task, by task name (positions ``task-1``… for embedded scenarios)."""
        if self.data.scenario != "files":
            return {f"task-{i}": self.data.clients_per_task for i in range(1, EMBEDDED_TASKS + 1)}
        sizes: dict[str, int] = {}
        for client in self.data.clients:
            sizes[client.task] = sizes.get(client.task, 0) + client.split_into
        return sizes

    @property
    def num_clients(self) -> int:
        """Clients of the federation, K."""
        return sum(self.task_sizes().values())

    @property
    def cohort_size(self) -> int:
        """Clients that take part in a round."""
        return sum(map(self.federation.taking_part, self.task_sizes().values()))

    @property
    def run_name(self) -> str:
        """The run's name: as given, else scenario and method."""
        return self.run.name or f"{self.data.scenario}-{self.federation.method}"
