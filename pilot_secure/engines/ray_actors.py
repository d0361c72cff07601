"""Ray actors as workers: the clients of a run on the GPUs of one machine or of a cluster.

Ray is asked for processes and GPUs and for nothing else. It stands inside the trust domain of the
clients that it runs, whose identity keys reach an actor through it. Between machines, the working
directory, the run folder, the data and the base model lie at the same paths on all of them.

Ray is imported where a transport is made: what it reads from the environment has to be set first.
"""

from __future__ import annotations

import os
import queue
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import psutil

from pilot_secure.engines.transport import Host, Note
from pilot_secure.engines.workers import (
    Ask,
    Build,
    Event,
    FarEnd,
    WorkerLost,
    WorkersTransport,
    worker_environment,
)
from pilot_secure.errors import UsageError

PLACEMENT_TIMEOUT_S = 60.0
"""How long a cluster that is large enough may take to free what the actors need."""
JOIN_TIMEOUT_S = 5.0
KNOCK_TIMEOUT_S = 10.0

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""What keeps a Ray of our own to this machine (the first, on any system) and to this process."""


def require_ray() -> None:
    """Raises: UsageError if Ray is not installed."""
    if find_spec("ray") is None:
        raise UsageError(
            "run.engine is ray: expected the package ray to be installed "
            "(pip install 'pilot-secure[ray]')."
        )


class RayTransport(WorkersTransport):
    """Actors, one per entry of ``settings``; each builds its host by ``build``.

    ``address`` is that of a running cluster; without one a Ray of its own starts on this machine,
    on the loopback interface alone, and ends with the transport. An actor reserves one CPU and
    ``gpus`` (0 to 1) of a GPU, and sees no other; `auto` shares all GPUs out evenly. An actor that
    dies is not started again: its clients are gone. Usage statistics and the dashboard stay off.

    Raises: UsageError where Ray is not installed or the cluster cannot be reached or has too
    little; as WorkersTransport.
    """

    def __init__(
        self,
        build: Build,
        settings: Sequence[Any],
        on_note: Note = lambda note: None,
        *,
        address: str | None = None,
        gpus: float | Literal["auto"] = "auto",
    ) -> None:
        require_ray()
        self._on_this_machine = address is None
        _connect(address, len(settings))
        try:
            share = _share_of_a_gpu(len(settings)) if gpus == "auto" else gpus
            there = partial(_build_in, os.getcwd(), build)
            super().__init__(_actors(there, settings, share), on_note)
        except BaseException:
            _disconnect()
            raise

    def close(self) -> None:
        """End every actor, and the Ray that was started for them."""
        left = _processes(self.pids) if self._on_this_machine else []
        super().close()
        self._join(JOIN_TIMEOUT_S)
        _disconnect()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # where it stands still, it does not notice that Ray is gone


def _processes(pids: Sequence[int]) -> list[psutil.Process]:
    """Return those that are still there; 0 stands for one that never was."""
    return [psutil.Process(pid) for pid in pids if pid and psutil.pid_exists(pid)]


def _connect(address: str | None, workers: int) -> None:
    os.environ.update(_QUIET)
    if address is None:
        os.environ.update(_LOOPBACK)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    own = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    try:
        if address is not None:
            _knock(address)  # Ray itself tries for many minutes
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    except ConnectionError:
        raise UsageError(
            f"run.ray_address is {address}: expected auto or HOST:PORT of a Ray cluster, none "
            "answers."
        ) from None
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"run.engine is ray: Ray does not start ({reason}).") from error


def _knock(address: str) -> None:
    """Raise ConnectionError where no HOST:PORT takes a connection; `auto` is Ray's to find."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ConnectionError(address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from None


def _disconnect() -> None:
    """Leave Ray; what it reserved for this process is free again."""
    import ray

    ray.shutdown()


def _share_of_a_gpu(workers: int) -> float:
    """Return the largest share that all workers can have, 0 where there are no GPUs."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    return 1 / -(-workers // gpus) if gpus else 0.0


def _actors(build: Build, settings: Sequence[Any], share: float) -> list[_ActorLink]:
    """Start one actor for each of the settings, spread over the machines of the cluster.

    Raises: UsageError if the cluster has too little for them.
    """
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = {"CPU": 1.0, "GPU": share} if share else {"CPU": 1.0}
    total = ray.cluster_resources()
    fits = all(total.get(name, 0) >= need * len(settings) for name, need in needs.items())
    group = placement_group([needs] * len(settings), strategy="SPREAD")
    if not group.wait(PLACEMENT_TIMEOUT_S if fits else 0):
        raise UsageError(
            f"run.slots is {len(settings)}, with {share:g} of a GPU for each: expected a Ray that "
            f"has as much free, this one has {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs in all."
        )
    no_gpu = {} if share else {"CUDA_VISIBLE_DEVICES": ""}
    options = {
        "num_cpus": 1,
        "num_gpus": share,
        "max_restarts": 0,
        "runtime_env": {"env_vars": worker_environment(len(settings)) | no_gpu},
    }
    return [
        _ActorLink(
            ray.remote(_Actor)
            .options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=number
                ),
                **options,
            )
            .remote(build, setting)
        )
        for number, setting in enumerate(settings)
    ]


class _ActorLink:
    """An actor, as seen from the process that started it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def converse(self, ask: Ask) -> Iterator[Event]:
        """Call the actor, and return what it yields."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError

        try:
            for reference in self._actor.converse.remote(ask):
                yield ray.get(reference)
        except (RayActorError, ObjectLostError) as error:
            raise WorkerLost(str(error)) from error

    def end(self) -> None:
        """Have the actor killed."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)


class _Actor:
    """The far end as a Ray actor; one thread of it does all the work."""

    def __init__(self, build: Build, setting: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starter's to handle
        self._asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        far_end = FarEnd(build, setting, self._events.put)
        threading.Thread(target=self._work, args=(far_end,), daemon=True).start()

    def _work(self, far_end: FarEnd) -> None:
        while True:
            far_end.take(self._asks.get())

    def converse(self, ask: Ask) -> Iterator[Event]:
        """Yield notes as they come, and then the answer."""
        self._asks.put(ask)
        while (event := self._events.get()).kind == "note":
            yield event
        yield event


def _build_in(folder: str, build: Build, setting: Any, tell: Note) -> Host:
    """Build a host in this working directory. Raises: UsageError if it is not there."""
    try:
        os.chdir(folder)
    except OSError:
        raise UsageError(
            f"{folder}: expected this working directory on every machine of the Ray cluster, "
            f"{os.uname().nodename} has none."
        ) from None
    return build(setting, tell)
