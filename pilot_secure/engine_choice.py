"""From a configuration to the engine that it names, with the clients at its far end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from pilot_secure.client_host import ClientHost, Enrolment, build_host
from pilot_secure.config import SimulationConfig
from pilot_secure.data import ClientData
from pilot_secure.engines import Engine, InProcessTransport, ProcessesTransport
from pilot_secure.engines.ray_actors import RayTransport, require_ray
from pilot_secure.federation.journal import RunJournal, take_note
from pilot_secure.libraries import cuda_devices

Started = tuple[Engine, ClientHost | None]
"""An engine, and the host of all clients where it keeps them in this process."""


def require_engine(config: SimulationConfig) -> None:
    """Raises: UsageError if the configured engine needs a package that is not installed."""
    if config.run.engine == "ray":
        require_ray()


def start_engine(enrolment: Enrolment, data: list[ClientData], journal: RunJournal) -> Started:
    """Start the configured engine. Raises: UsageError."""
    return ENGINES[enrolment.config.run.engine](enrolment, data, journal)


def _in_process(enrolment: Enrolment, data: list[ClientData], journal: RunJournal) -> Started:
    host = ClientHost(enrolment, data, journal)
    return InProcessTransport(host), host


def _processes(enrolment: Enrolment, data: list[ClientData], journal: RunJournal) -> Started:
    settings = enrolment.split(enrolment.config.processes)
    take = partial(take_note, journal)
    return ProcessesTransport(build_host, settings, take, devices=cuda_devices()), None


def _ray(enrolment: Enrolment, data: list[ClientData], journal: RunJournal) -> Started:
    config = enrolment.config
    engine = RayTransport(
        build_host,
        enrolment.split(config.processes),
        partial(take_note, journal),
        address=config.run.ray_address,
        gpus=config.run.gpus_per_worker,
    )
    return engine, None


ENGINES: Mapping[str, Callable[[Enrolment, list[ClientData], RunJournal], Started]] = {
    "in_process": _in_process,
    "processes": _processes,
    "ray": _ray,
}
"""How each engine of `run.engine` starts."""
