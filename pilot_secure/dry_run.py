"""What a run would need, told before any weight or sample is loaded: ``--dry-run``.

Parameters are counted on the base model's shapes. Bytes and seconds of the cryptography come from
real aggregations among the run's clients, here and now. Of vectors too long for that, shorter ones
are aggregated: bytes and seconds grow linearly with a vector's length. Memory is an estimate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from pilot_secure.config import SimulationConfig
from pilot_secure.config_rules import HIDDEN_UP_TO
from pilot_secure.federation.agreement import Agreement
from pilot_secure.federation.methods import METHODS
from pilot_secure.federation.parameter_counts import (
    ParameterCounts,
    StageCounts,
    count_parameters,
)
from pilot_secure.models.shapes import llava_config
from protocols import (
    SERVER,
    AggregationClient,
    AggregationKeyHolder,
    AggregationServer,
    ClientInputs,
    Entropy,
    Identity,
    MemoryGuard,
    Roster,
)
from protocols.identity import KEY_HOLDER

SHORT, LONG = 1 << 16, 1 << 20
"""Coordinates of the vectors that stand for longer ones when the cryptography is measured."""
WARM_UP = 1 << 10
"""Coordinates of the first aggregation, which pays for what is loaded once and is not counted."""
SHORT_SKETCH = 64
TEXT_TOKENS = 124
"""Tokens of a sample beside its image's, for the estimate of memory: 700 in all at LLaVA-1.5."""
TRAINED_BYTES = 16
"""Of a trained parameter: float32 value and gradient, and AdamW's two moments."""


@dataclass(frozen=True)
class Cost:
    """One aggregation: bytes and CPU seconds of one client (the median) and of the server.

    A key holder is one party among the clients, and does not move their median.
    """

    upload_bytes: float
    download_bytes: float
    client_seconds: float
    server_seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(float(x) for x in np.add(_tuple(self), _tuple(other))))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(float(x) for x in np.subtract(_tuple(self), _tuple(other))))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(x * factor for x in _tuple(self)))


def _tuple(cost: Cost) -> tuple[float, ...]:
    return cost.upload_bytes, cost.download_bytes, cost.client_seconds, cost.server_seconds


def print_dry_run(config: SimulationConfig, console: Console) -> None:
    """Print what the run would need. Raises: CheckpointError, ParameterError."""
    counts = count_parameters(config)
    console.print(parameters_table(counts))
    console.print(f"base model: {counts.base:,} parameters, frozen", highlight=False)
    for line in memory_lines(config, counts):
        console.print(line, highlight=False)
    for line in (*aggregation_lines(config, counts), *missing_lines(config)):
        console.print(line, highlight=False)


def missing_lines(config: SimulationConfig) -> list[str]:
    """Return what the run would read and is not on this machine; nothing is opened."""
    clients = config.data.clients
    named = [
        (f"data.clients[{place}].{field}", value)
        for place, client in enumerate(clients)
        for field, value in client
    ]
    named.append(("federation.replay_selection", config.federation.replay_selection))
    return [
        f"{name} is {value}: not on this machine, where a run would stop"
        for name, value in named
        if isinstance(value, Path) and not value.exists()
    ]


def parameters_table(counts: ParameterCounts) -> Table:
    """One row a stage, in millions."""
    table = Table(title="parameters of a client, in millions", box=box.SIMPLE_HEAD)
    table.add_column("stage")
    for name in ("trained", "activated", "communicated"):
        table.add_column(name, justify="right")
    for stage in counts.stages:
        numbers = (stage.trained, stage.activated, sum(stage.communicated.values()))
        table.add_row(str(stage.stage), *(f"{number / 1e6:,.2f}" for number in numbers))
    return table


def memory_lines(config: SimulationConfig, counts: ParameterCounts) -> list[str]:
    """Return the estimate of the memory where a client trains, stage by stage."""
    return [
        f"stage {stage.stage}: about {memory_bytes(config, counts, stage) / 2**30:.1f} GiB where a "
        f"client trains, at {config.training.batch_size} samples of {_tokens(config)} tokens"
        for stage in counts.stages
    ]


def memory_bytes(config: SimulationConfig, counts: ParameterCounts, stage: StageCounts) -> float:
    """Estimate weights, trained parameters with optimiser, and the activations of a step.

    A block of width H and inner width I keeps about 10 H + 3 I values a token for the backward
    pass, and H alone where activations are recomputed, but for the one block at hand. Frozen
    adapters count as float32. Fragmentation and libraries are not in it.
    """
    text: Any = llava_config(config.model.base).text_config
    value = 2 if config.model.mixed_precision == "bf16" else 4
    blocks, width = text.num_hidden_layers, text.hidden_size
    inner = 10 * width + 3 * text.intermediate_size
    kept = blocks * width + inner if config.training.gradient_checkpointing else blocks * inner
    return float(
        counts.base * value
        + stage.trained * TRAINED_BYTES
        + (stage.activated - stage.trained) * 4
        + config.training.batch_size * _tokens(config) * kept * value
    )


def _tokens(config: SimulationConfig) -> int:
    vision: Any = llava_config(config.model.base).vision_config
    return int((vision.image_size // vision.patch_size) ** 2) + TEXT_TOKENS


def aggregation_lines(config: SimulationConfig, counts: ParameterCounts) -> list[str]:
    """Return what the aggregation after each stage costs; nothing where nothing is exchanged."""
    lines, told = [], []
    for stage in counts.stages:
        if not stage.communicated or stage.communicated in told:
            continue
        told.append(stage.communicated)
        same = [str(s.stage) for s in counts.stages if s.communicated == stage.communicated]
        lines += _aggregation_lines(config, stage, f"aggregation after stage {' or '.join(same)}")
    return lines


def _aggregation_lines(config: SimulationConfig, stage: StageCounts, where: str) -> list[str]:
    if not config.security.secure_agg:
        size = 4 * sum(stage.communicated.values())
        return [f"{where}: a client uploads {size / 1e6:,.2f} MB in the clear"]
    cost = aggregation_cost(config, stage)
    measured = _measured_length(config)
    known = max(stage.communicated.values()) <= measured
    extrapolated = "" if known else f" (from what {measured:,} coordinates take)"
    return [
        f"{where}: a client uploads {cost.upload_bytes / 1e6:,.2f} MB and is sent "
        f"{cost.download_bytes / 1e6:,.2f} MB under secure aggregation",
        f"{where}: cryptography on one core of this machine {cost.client_seconds:,.1f} s at a "
        f"client, {cost.server_seconds:,.1f} s at the server{extrapolated}",
    ]


def aggregation_cost(config: SimulationConfig, stage: StageCounts) -> Cost:
    """Return the cost of one aggregation of vectors of a stage's lengths.

    What a coordinate of a long vector adds is measured beside short sketches: seconds of the
    distances, which do not depend on it, would blur it.
    """
    lengths, number, long = stage.communicated, stage.stage, _measured_length(config)
    _measure(config, number, dict.fromkeys(lengths, WARM_UP))
    if max(lengths.values()) <= long:
        return _measure(config, number, lengths)
    short = dict.fromkeys(lengths, SHORT)
    total = _measure(config, number, short)
    plain = _with_short_sketches(config)
    start = _measure(plain, number, short)
    for name, length in lengths.items():
        added = _measure(plain, number, {**short, name: long}) - start
        total += added * ((length - SHORT) / (long - SHORT))
    return total


def _measured_length(config: SimulationConfig) -> int:
    """Return the longest vector that is measured; shorter where each coordinate costs more."""
    exact, many = config.security.sketch_size is None, config.cohort_size > HIDDEN_UP_TO
    return LONG // 4 if exact or many else LONG


def _with_short_sketches(config: SimulationConfig) -> SimulationConfig:
    """Return the same run with distances that take hardly any time, unless they are exact."""
    if config.security.sketch_size is None:
        return config
    security = config.security.model_copy(update={"sketch_size": SHORT_SKETCH})
    return config.model_copy(update={"security": security})


def _measure(config: SimulationConfig, stage: int, lengths: Mapping[str, int]) -> Cost:
    """Carry out one aggregation of vectors of these lengths among a round's clients."""
    entropy, agreement, identities, server, holder = _parties(config, lengths)
    parameters = agreement.parameters(1, stage, 0, [identity.name for identity in identities])
    machine = AggregationServer(parameters, server, entropy, roster=agreement.roster)
    vectors = {name: {"flat": np.full(size, 1e-3, np.float32)} for name, size in lengths.items()}
    clients: dict[str, AggregationClient | AggregationKeyHolder] = {
        identity.name: AggregationClient(
            parameters,
            identity,
            ClientInputs(vectors=vectors, num_samples=1 + place),
            entropy,
            roster=agreement.roster,
            guard=MemoryGuard(),
        )
        for place, identity in enumerate(identities)
    }
    if holder is not None:
        clients[KEY_HOLDER] = AggregationKeyHolder(
            parameters,
            holder,
            entropy,
            roster=agreement.roster,
            guard=MemoryGuard(),
            max_releases=1,
        )
    seconds, up, down = (dict.fromkeys(clients, 0.0) for _ in range(3))
    began = time.process_time()
    while not machine.done:
        replies: dict[str, bytes | None] = {}
        for name, request in machine.requests().items():
            start = time.process_time()
            reply = clients[name].handle(request)
            seconds[name] += time.process_time() - start
            replies[name] = reply
            up[name] += len(reply)
            down[name] += len(request)
        machine.receive(replies)
    all_of_it = time.process_time() - began
    return Cost(
        upload_bytes=float(np.median(list(up.values()))),
        download_bytes=float(np.median(list(down.values()))),
        client_seconds=float(np.median(list(seconds.values()))),
        server_seconds=all_of_it - sum(seconds.values()),
    )


def _parties(
    config: SimulationConfig, lengths: Mapping[str, int]
) -> tuple[Entropy, Agreement, list[Identity], Identity, Identity | None]:
    """Return as many clients of each task as take part in a round, the server, a key holder."""
    entropy = Entropy()
    tasks: dict[str, str] = {}
    for task, size in config.task_sizes().items():
        for _ in range(config.federation.taking_part(size)):
            tasks[f"client-{len(tasks) + 1:02d}"] = task
    identities = [Identity.generate(name, entropy) for name in tasks]
    server = Identity.generate(SERVER, entropy)
    holder = Identity.generate(KEY_HOLDER, entropy) if config.has_key_holder else None
    given = config.security.max_samples
    agreement = Agreement(
        run_id="dry-run",
        config=config,
        method=METHODS[config.federation.method](config, tasks=tuple(config.task_sizes())),
        tasks=tasks,
        roster=Roster.of(server, identities, holder),
        vector_lengths=lengths,
        max_samples=len(tasks) if given == "auto" else given,
    )
    return entropy, agreement, identities, server, holder
