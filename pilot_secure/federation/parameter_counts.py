"""How many parameters a run trains, activates and sends: counted on shapes, without weights.

Source: Xiong et al., AAAI 2025, Table 4 (activated and communicated parameters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.methods import METHODS
from pilot_secure.federation.state import ClientState
from pilot_secure.federation.worker import Worker
from pilot_secure.models import Connector
from pilot_secure.models.shapes import meta_llava


@dataclass(frozen=True)
class StageCounts:
    """One stage at one client, in parameters.

    Attributes:
        trained: what the optimiser moves.
        activated: every adapter's that takes part in a forward pass, trained or frozen: the text
            adapter's and the connector's. The base model's are not among them.
        communicated: coordinates of each vector that the client uploads, by name.
    """

    stage: int
    trained: int
    activated: int
    communicated: Mapping[str, int]


@dataclass(frozen=True)
class ParameterCounts:
    """A run's parameters; ``base`` is the model without any adapter."""

    base: int
    connector: int
    stages: tuple[StageCounts, ...]


def meta_worker(config: SimulationConfig) -> Worker:
    """A worker around shapes without weights. Raises: CheckpointError."""
    with torch.device("meta"):
        return Worker(
            config.model,
            config.training,
            seed=config.run.seed,
            load=lambda base, **_options: (meta_llava(base), None),
        )


def count_parameters(config: SimulationConfig) -> ParameterCounts:
    """Count what each stage of a run trains, activates and sends.

    Raises: CheckpointError if the base model's configuration cannot be found.
    """
    worker, tasks = meta_worker(config), tuple(config.task_sizes())
    method = METHODS[config.federation.method](config, tasks=tasks)
    state = ClientState(text_adapter=worker.initial_text_adapter())
    text = sum(tensor.numel() for tensor in state.text_adapter.values())
    sent = {name: sum(map(torch.numel, v.values())) for name, v in method.start(worker).items()}
    rounds = range(1, config.federation.rounds + 1)
    counts = []
    for stage in sorted({stage for number in rounds for stage in method.stages(number)}):
        method.begin_stage(state, stage, worker, tasks[0])
        connector = state.connector
        assert isinstance(connector, Connector)
        trained = sum(p.numel() for p in connector.train_own_parts().values())
        counts.append(
            StageCounts(
                stage=stage,
                trained=text + trained,
                activated=text + _size(connector),
                communicated=sent
                if method.sums(dict.fromkeys(tasks, tasks[0]), tasks, stage)
                else {},
            )
        )
    return ParameterCounts(
        base=_size(worker.model) - text,
        connector=_size(worker.base_connector),
        stages=tuple(counts),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
