"""A run's data and what follows from it before a model is loaded: bounds, checks, time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pilot_secure.config import SimulationConfig
from pilot_secure.data import ClientData, build_scenario
from pilot_secure.data.client_files import load_clients
from pilot_secure.data.client_sources import ClientFiles, SplitSettings
from pilot_secure.data.overlap import ImageOverlap, overlap_notes
from pilot_secure.data.samples import FileReport
from pilot_secure.errors import ConfigError
from pilot_secure.federation.methods import Method
from pilot_secure.federation.worker import ANSWER_SECONDS, STEP_SECONDS
from protocols.identity import KEY_HOLDER


@dataclass(frozen=True)
class DataReport:
    """What was left out of the files that were read, or asked for and not there, and the images
    that clients share.
    """

    files: list[FileReport] = field(default_factory=list)
    overlaps: list[ImageOverlap] = field(default_factory=list)
    shortages: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """One sentence for each that a person should know."""
        left_out = [str(report) for report in self.files if report.is_worth_telling]
        return [*left_out, *self.shortages, *overlap_notes(self.overlaps)]


def load_data(
    config: SimulationConfig, announce: Callable[[str], None] = lambda what: None
) -> tuple[list[ClientData], DataReport]:
    """Return the clients of an embedded scenario, or of the user's own files.

    `announce` is told what is being read. Raises: DataError naming the file.
    """
    data = config.data
    if data.scenario == "files":
        files = [ClientFiles(**entry.model_dump()) for entry in data.clients]
        settings = SplitSettings(
            test_share=data.test_share,
            split_alpha=data.split_alpha,
            max_broken_share=data.max_broken_share,
            drop_shared_images=data.drop_shared_images,
            seed=config.run.seed,
        )
        loaded = load_clients(files, settings, announce)
        return loaded.clients, DataReport(loaded.reports, loaded.overlaps, loaded.shortages)
    clients = build_scenario(
        data.scenario,
        clients_per_task=data.clients_per_task,
        samples_per_client=data.samples_per_client,
        test_samples=data.test_samples,
        seed=config.run.seed,
        look_strength=data.look_strength,
        convention_strength=data.convention_strength,
        domain_strength=data.domain_strength,
    )
    return clients, DataReport()


def check_drop_outs(config: SimulationConfig, data: list[ClientData]) -> None:
    """Raise ConfigError for a scheduled drop-out of a client that does not exist."""
    names = [client.name for client in data]
    names += [KEY_HOLDER] if config.has_key_holder else []
    problems = [
        f"security.dropouts names client {dropout.client}: expected one of {', '.join(names)}."
        for dropout in config.security.dropouts
        if dropout.client not in names
    ]
    if problems:
        raise ConfigError(problems)


def max_samples(config: SimulationConfig, data: list[ClientData]) -> int:
    """Return the public bound V on sample counts.

    ``auto`` is a power of two that holds the largest client: 1 bit of what the simulator knows.
    Raises: ConfigError if a client has more than a configured bound.
    """
    configured = config.security.max_samples
    largest = max(len(client.train) for client in data)
    if configured != "auto":
        if configured < largest and config.security.secure_agg:
            raise ConfigError(
                [
                    f"security.max_samples is {configured}: expected at least {largest}, the "
                    "training samples of the largest client."
                ]
            )
        return configured
    return 1 << (largest - 1).bit_length() if largest > 1 else 1


def expected_seconds(config: SimulationConfig, clients: list[ClientData], method: Method) -> float:
    """Return the expected time of a run on the reference laptop, for its progress bar."""
    training, federation = config.training, config.federation
    stages = sum(len(method.stages(number + 1)) for number in range(federation.rounds))
    steps = sum(math.ceil(len(client.train) / training.batch_size) for client in clients)
    present = config.cohort_size / len(clients)
    moments = 2 if config.exchanges else 1
    scorings = federation.score_base + moments * (
        1 if federation.evaluate == "last" else federation.rounds
    )
    answers = sum(len(client.test) for client in clients)
    return (
        stages * training.epochs * steps * present * STEP_SECONDS
        + scorings * answers * ANSWER_SECONDS
    )
