"""A run as several processes of `accelerate launch`: rank 0 is the run, the others train along."""

from __future__ import annotations

import os

from pilot_secure.config import SimulationConfig
from pilot_secure.errors import ConfigError


def launched_processes() -> int:
    """Return of how many processes this launch is, 1 outside of one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def launched_rank() -> int | None:
    """Return this process's rank in a launch of several processes, None outside of one."""
    return int(os.environ["RANK"]) if launched_processes() > 1 else None


def require_one_party(config: SimulationConfig) -> None:
    """Check that several processes can train this run's clients together.

    Raises: ConfigError
    """
    problems = []
    if config.run.engine != "in_process":
        problems.append(
            f"run.engine is {config.run.engine}: expected in_process under accelerate launch, "
            "which makes one party of all its processes."
        )
    if config.privacy.unit == "example":
        problems.append(
            "privacy.unit is example: expected none or client under accelerate launch, since the "
            "noise of a private step is drawn in one process."
        )
    if problems:
        raise ConfigError(problems)


def train_along(config: SimulationConfig) -> None:
    """Train what rank 0 tells, until it says that the run has ended."""
    from pilot_secure.federation.worker import Worker
    from pilot_secure.libraries import quieten_libraries

    quieten_libraries()
    worker = Worker(config.model, config.training, seed=config.run.seed)
    while (job := worker.ranks.told()) is not None:
        worker.train_along(job)
