"""The configuration of a simulation: one pydantic tree, from which the command line is made.

Every field is written down once, here and in ``config_data``; YAML files under ``configs/`` and
command-line options are two ways to set it. Cross-field rules are checked when the configuration
is built, and all problems are reported together.

The defaults are the embedded scenario's; the paper's own values (Xiong et al., AAAI 2025) are
named in the descriptions where they differ.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pilot_secure.config_data import DataConfig
from pilot_secure.config_privacy import PrivacyConfig
from pilot_secure.config_rules import problems_across_fields
from pilot_secure.config_section import Bound, PositiveInt, Section, Share

Phase = Literal[
    "train",
    "convene",
    "advertise",
    "share",
    "distance_upload",
    "distance_reply",
    "distance_release",
    "select",
    "masked_input",
    "consistency",
    "unmask",
    "deliver",
    "clear_update",
    "clear_deliver",
]

MethodName = Literal[
    "pilot",
    "local",
    "centralized",
    "fedavg",
    "task_fedavg",
    "fedprox",
    "fedadam",
    "shepherd",
    "feddpa",
]

EMBEDDED_TASKS = 3


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
    cross_task_adapter: bool = Field(
        True, description="mix in cross-task adapters beside the other tasks' (Table 3)"
    )
    ct_clip: bool = Field(
        False,
        description="treat all MLP layers of the vision tower as the connector (Table 4): they are "
        "adapted, trained and sent along with it",
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
    gradient_accumulation: PositiveInt = Field(
        1, description="parts that a step's samples are taken in, one after the other"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
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
        0.1, description="λ0 of the difference loss (Eq. 3-4); 0 leaves it out"
    )
    normalise_difference: bool = Field(
        True, description="centre and L2-normalise rows before the difference loss"
    )
    load_balancing_weight: Annotated[float, Field(ge=0)] = Field(
        0.1, description="λ1 of the router's load-balancing loss (Eq. 7); 0 leaves it out"
    )
    router_z_weight: Annotated[float, Field(ge=0)] = Field(
        0.01, description="λ2 of the router z-loss (Eq. 8); 0 leaves it out"
    )


class FederationConfig(Section):
    """Federation."""

    method: MethodName = Field(
        "pilot",
        description="what clients train, send and combine (local: nothing is exchanged; "
        "centralized: all data in one place; task_fedavg: FedAvg within each task)",
    )
    rounds: PositiveInt = Field(3, description="communication rounds R")
    schedule: Literal["stage1_once", "both_stages"] = Field(
        "stage1_once",
        description="stage 1 in round 1 and stage 2 after it, or both stages in every round",
    )
    participation: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of each task's clients taking part in a round, at least one"
    )
    text_aggregation: Literal["adaptive", "same_task", "all", "none"] = Field(
        "adaptive",
        description="whose text adapters pilot combines: the nearest (Eq. 11-12), the mean of the "
        "own task's, the mean of all, or nobody's (Tables 3 and 5)",
    )
    num_neighbours: PositiveInt | Literal["auto"] = Field(
        6,
        description="M, text adapters that a client's own is combined with (Eq. 11); auto cuts the "
        "client's distances at their largest gap, never below min_contributors - 1",
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
    score_base: bool = Field(True, description="score the base model as it is before training")

    def taking_part(self, clients: int) -> int:
        """How many of a task's clients take part in a round, at least one."""
        return max(1, round(clients * self.participation))


class MethodsConfig(Section):
    """Rival methods: settings that one method alone has."""

    proximal_weight: Annotated[float, Field(gt=0)] = Field(
        0.01, description="μ of fedprox's proximal term"
    )
    server_learning_rate: Annotated[float, Field(gt=0)] = Field(
        1e-2, description="η of fedadam's step towards the mean"
    )
    server_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="β1 of fedadam's momentum"
    )
    server_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="β2 of fedadam's second moment"
    )
    server_tau: Annotated[float, Field(gt=0)] = Field(
        1e-3, description="τ of fedadam, added to the root of the second moment"
    )

    feddpa_variant: Literal["training", "fine_tuning"] = Field(
        "training",
        description="when feddpa trains the personal adapter: in every round after the first "
        "(FedDPA-T), or after the last (FedDPA-F)",
    )
    feddpa_update_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="α, feddpa's weight of the personal adapter while it is trained (FedDPA-T)"
    )
    feddpa_max_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="λ, feddpa's largest instance-wise weight in answering"
    )
    feddpa_references: PositiveInt = Field(
        5, description="S, training instances that feddpa compares a test instance to"
    )
    feddpa_weighs: Literal["personal", "shared"] = Field(
        "personal",
        description="the adapter that feddpa's instance-wise weight belongs to (personal: as the "
        "paper words it; shared: as its public code does)",
    )


class DropoutConfig(Section):
    """One client vanishing before one phase, or answering it too late (YAML only).

    ``client`` may be the key holder, too: then the attempt is aborted. ``part`` is that of its
    upload or delivery where long vectors go in parts (see ``part_bytes``), counted from 0.
    """

    client: str
    round: PositiveInt
    stage: Literal[1, 2]
    phase: Phase
    part: Annotated[int, Field(ge=0)] = 0
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
    distance_trust: Literal["peer", "key_holder"] = Field(
        "peer",
        description="who can open distances: each client its own row, or a party of its own that "
        "colludes neither with the server nor with a client, and learns all of them",
    )
    sketch_size: Annotated[int, Field(ge=64, le=1 << 22, multiple_of=8)] | None = Field(
        16384,
        description="coordinates of the sketch that distances are computed on; null is exact "
        "(65536 for a LoRA of 10^8 parameters)",
    )
    ckks_parameters: Literal["auto", "peer-4096", "peer-8192", "holder-8192"] = Field(
        "auto",
        description="named CKKS parameter set; auto is peer-4096, or holder-8192 with a key holder",
    )
    distance_norm_bound: Bound = Field(
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
    part_bytes: Annotated[int, Field(ge=64, le=1 << 31)] = Field(
        1 << 26,
        description="longest packed vectors of one message; longer uploads and deliveries go in "
        "parts, so that nobody holds more than a few of them at once",
    )
    clip: Bound = Field(
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
    insecure_escrow: bool = Field(
        False,
        description="for audits of test runs: write escrow.json, from which anybody opens every "
        "upload, so that masks, sums and distances can be computed again",
    )
    keep_payloads: bool = Field(
        True, description="keep every message's bytes beside the transcript, not only its hash"
    )

    @property
    def ckks_set(self) -> str:
        """The name of the CKKS parameter set in use."""
        if self.ckks_parameters != "auto":
            return self.ckks_parameters
        return "peer-4096" if self.distance_trust == "peer" else "holder-8192"


class RunConfig(Section):
    """Run."""

    name: str | None = Field(None, description="name of the run; default: scenario and method")
    out: Path | None = Field(None, description="run folder; default runs/<time>-<name>")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="seed of data, initialisation and batches, never of cryptographic keys"
    )
    resume: Path | None = Field(
        None,
        description="folder of a run that was killed or interrupted, to go on with; takes no "
        "other option",
    )
    dry_run: bool = Field(
        False,
        description="say what the run would need (parameters, memory, bytes and cryptography of a "
        "round), without weights or data, and do nothing else",
    )
    engine: Literal["in_process", "processes", "ray", "flower"] = Field(
        "in_process",
        description="what carries messages: every client in this process, clients spread over "
        "`slots` processes or Ray actors, or Flower with a SuperNode for each (docs/flower.md)",
    )
    slots: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="processes of engine `processes`, actors of engine `ray`; auto: one per core "
        "of this machine and client",
    )
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        "auto",
        description="share of a GPU that an actor of engine `ray` reserves (0.5 puts two on one); "
        "auto: all GPUs, shared out evenly",
    )
    ray_address: str | None = Field(
        None,
        description="the Ray cluster to use, `auto` or HOST:PORT, whose machines have this working "
        "directory and what lies in it; default: a Ray of the run's own on this machine",
    )
    phase_timeout_s: Annotated[float, Field(gt=0)] = Field(
        3600.0,
        description="seconds after which a client that has not answered a phase has dropped out",
    )
    report_metrics: bool = Field(
        False,
        description="let clients of engine `flower` send losses and scores to the server; "
        "otherwise these stay with them",
    )
    tracker: (
        Literal[
            "aim",
            "clearml",
            "comet_ml",
            "dvclive",
            "mlflow",
            "swanlab",
            "tensorboard",
            "trackio",
            "wandb",
        ]
        | None
    ) = Field(
        None,
        description="tracker, by accelerate, of every client's losses and scores; one that writes "
        "files has them in the run folder, others may take them off this machine (default: none)",
    )
    event_log: Path | None = Field(
        None,
        description="file to append a JSON line to for each event, or /dev/stderr (default: none)",
    )


class SimulationConfig(Section):
    """A federated run: data, model, training, federation, rival methods, secure aggregation."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    methods: MethodsConfig = MethodsConfig()
    security: SecurityConfig = SecurityConfig()
    privacy: PrivacyConfig = PrivacyConfig()

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
    def exchanges(self) -> bool:
        """Whether the method sends anything."""
        return self.federation.method not in ("local", "centralized")

    @property
    def selects_neighbours(self) -> bool:
        """Whether the method compares text adapters by distance."""
        return self.federation.method == "pilot" and self.federation.text_aggregation == "adaptive"

    @property
    def sums_within_tasks(self) -> bool:
        """Whether the method has sums over one task's clients alone."""
        return self.federation.method in ("pilot", "task_fedavg")

    @property
    def num_clients(self) -> int:
        """Clients of the federation, K."""
        return sum(self.task_sizes().values())

    @property
    def cohort_size(self) -> int:
        """Clients that take part in a round."""
        return sum(map(self.federation.taking_part, self.task_sizes().values()))

    @property
    def processes(self) -> int:
        """Processes that clients are spread over."""
        if self.run.engine == "in_process":
            return 1
        if self.run.engine == "flower":
            return self.num_clients
        cores = os.cpu_count() or 1
        return min(self.num_clients, cores if self.run.slots == "auto" else self.run.slots)

    @property
    def has_key_holder(self) -> bool:
        """Whether a key holder takes part: distances are encrypted, and trusted to one."""
        security = self.security
        trusted = security.secure_agg and security.distance_trust == "key_holder"
        return trusted and self.selects_neighbours

    @property
    def run_name(self) -> str:
        """The run's name: as given, else scenario and method."""
        return self.run.name or f"{self.data.scenario}-{self.federation.method}"
