"""A base model small enough to train in milliseconds, and whole runs on it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pilot_secure.config import SimulationConfig
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import Summary
from protocols import AggregationResult

Upload = dict[str, dict[str, np.ndarray]]

NINE = {
    "data": {"samples_per_client": 6, "test_samples": 1},
    "model": {"lora_rank": 2, "max_new_tokens": 1},
    "training": {"batch_size": 2},
    "federation": {"rounds": 2},
    "security": {"secure_agg": True, "sketch_size": 64, "distance_norm_bound": 1.0},
}
"""Settings of a tiny run with the default federation of nine clients."""
SIX = {
    "data": {"clients_per_task": 2},
    "federation": {"rounds": 1, "num_neighbours": 3},
    "security": {"max_colluders": 0, "min_contributors": 2},
}
"""What makes it six: threshold 4, and a task's mean opens with two."""


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, later ones on top."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = result.get(name)
            nested = isinstance(value, Mapping) and isinstance(before, Mapping)
            result[name] = merged(before, value) if nested else value
    return result


@dataclass
class FinishedRun:
    """A simulation that was carried out in this process, and what clients sent in it.

    ``uploads`` maps (round, stage, client) to the vectors' tensors, differences from the start;
    ``results`` to what the client took home.
    """

    simulation: Any
    path: Path
    uploads: dict[tuple[int, int, str], Upload]
    results: dict[tuple[int, int, str], AggregationResult]

    @property
    def summary(self) -> Summary:
        return RunFolder.open(self.path).read_summary()

    @property
    def config(self) -> SimulationConfig:
        return self.simulation.config

    def result(self, client: str, round_number: int = 1, stage: int = 1) -> AggregationResult:
        return self.results[(round_number, stage, client)]


def carry_out(path: Path, base: Path, *layers: Mapping[str, Any]) -> FinishedRun:
    """Run the settings into ``path`` as the command line does, without its tables."""
    from pilot_secure.federation.client import FederationClient
    from pilot_secure.progress import RunProgress
    from pilot_secure.simulation import prepare

    settings = merged(NINE, *layers, {"model": {"base": str(base)}, "run": {"out": path}})
    config = SimulationConfig.model_validate(settings)
    uploads: dict[tuple[int, int, str], Upload] = {}
    results: dict[tuple[int, int, str], AggregationResult] = {}
    upload, take_home = FederationClient._upload, FederationClient._take_home

    def noted(client: FederationClient) -> Upload:
        place = client._place
        uploads[(place.round, place.stage, client.name)] = upload(client)
        return upload(client)

    def taken(client: FederationClient, result: AggregationResult) -> None:
        place = client._place
        results[(place.round, place.stage, client.name)] = result
        take_home(client, result)

    folder = RunFolder.create(config.run.out, config.run_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FederationClient, "_upload", noted)
        patch.setattr(FederationClient, "_take_home", taken)
        progress = RunProgress(Console(file=io.StringIO()))
        simulation = prepare(config, folder, progress)
        folder.write_config(config, command="a test")
        with folder.recording(simulation.summary):
            simulation.run()
        simulation.forget()
    return FinishedRun(simulation, path, uploads, results)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained LLaVA with one narrow layer in each half."""
    from pilot_secure.libraries import quieten_libraries
    from pilot_secure.models.tiny import build_model, build_processor

    quieten_libraries()
    folder = tmp_path_factory.mktemp("base")
    build_model(hidden=16, layers=1, heads=2).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def secure_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Nine clients, two rounds, under secure aggregation."""
    return carry_out(tmp_path_factory.mktemp("runs") / "secure", tiny_base)


@pytest.fixture(scope="session")
def clear_run(secure_run: FinishedRun, tiny_base: Path) -> FinishedRun:
    """The same run in the clear, with the secure run's selection."""
    return carry_out(
        secure_run.path.parent / "clear",
        tiny_base,
        {"security": {"secure_agg": False}},
        {"federation": {"replay_selection": secure_run.path}},
    )


@pytest.fixture
def run_tiny(tiny_base: Path, tmp_path: Path) -> Callable[..., FinishedRun]:
    """Carry out nested settings on top of the tiny defaults; each call has its own folder."""
    count = 0

    def run(*layers: Mapping[str, Any]) -> FinishedRun:
        nonlocal count
        count += 1
        return carry_out(tmp_path / f"run-{count}", tiny_base, *layers)

    return run


@pytest.fixture(scope="session")
def public_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `data/` and `hub/`: small copies of the public datasets in both layouts."""
    import datasets
    from public_fixtures import make_all

    root = tmp_path_factory.mktemp("public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        make_all(root)
        yield root


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recorded aggregations of nine clients without a model: what an auditor reads."""
    from good_runs import make_good_run

    return make_good_run(tmp_path_factory.mktemp("audit") / "good")
