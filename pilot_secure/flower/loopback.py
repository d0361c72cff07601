"""A deployment on this machine: one SuperLink, one SuperNode for each client, TLS throughout.

Everything that it makes lies in the run folder's ``flower/``: parties, credentials, logs, Flower's
own home. Every process ends with the deployment, also where it fails or its starter is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from rich.console import Console

from pilot_secure.config import SimulationConfig
from pilot_secure.errors import ConfigError, FederationError
from pilot_secure.files import make_private_folder, write_atomically
from pilot_secure.flower.credentials import CA, CERTIFICATE, KEY, LOOPBACK, make_credentials
from pilot_secure.run_folder import RunFolder
from protocols.identity import SERVER

APP = Path(__file__).parent / "app"
CONNECTION = "loopback"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}
"""Nothing leaves the machine, nothing is installed, and no process waits for long or spins."""
START_TIMEOUT_S = 120.0
FREE_PORTS = range(20_000, 32_000)
END_TIMEOUT_S = 15.0
_PR_SET_PDEATHSIG = 1


def flower_is_installed() -> bool:
    """Return whether Flower can be imported."""
    return importlib.util.find_spec("flwr") is not None


def require_flower() -> None:
    """Raise ConfigError where Flower is not installed."""
    if not flower_is_installed():
        raise ConfigError(
            [
                "run.engine is flower: expected the package flwr, which "
                "`pip install 'pilot-secure[flower]'` installs (`make flower`: docs/flower.md)."
            ]
        )


def run_on_loopback(
    config: SimulationConfig,
    folder: RunFolder,
    console: Console,
    *,
    resume: bool = False,
    simulated: bool = False,
) -> None:
    """Carry out a run by a deployment of its own, and gather what its clients hold.

    Where it is ``simulated``, Flower's simulation engine stands for the SuperNodes.
    Raises: UsageError for what was asked for; FederationError if the run does not finish.
    """
    require_flower()
    from pilot_secure.flower.gather import gather
    from pilot_secure.flower.parties import make_parties

    place = (folder.path / "flower").resolve()
    if not resume:
        console.print("making the parties' folders")
        names = make_parties(config, place / "parties")
        make_credentials(place / "credentials", names)
    with deployed(place, console, simulated=simulated) as deployment:
        console.print(f"the run begins; logs: {place / 'logs'}", soft_wrap=True)
        deployment.run(folder.path.resolve(), resume=resume)
    summary = folder.path / "summary.json"
    if not summary.exists():
        raise FederationError(f"the run did not begin: see {place / 'logs'}.")
    status = folder.read_summary()
    if status.status != "finished":
        raise FederationError(f"the run {status.status}: {status.reason} (see {place / 'logs'}).")
    gather(folder, place / "parties")


@contextlib.contextmanager
def deployed(place: Path, console: Console, *, simulated: bool = False) -> Iterator[Deployment]:
    """Start SuperLink and SuperNodes in ``place``; end them all, whatever happens inside."""
    deployment = Deployment(place, simulated)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        console.print("starting a SuperLink")
        deployment.start_superlink()
        if not simulated:
            console.print(f"starting {len(deployment.names)} SuperNodes")
            deployment.start_supernodes()
        yield deployment
    finally:
        deployment.close()
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@dataclass
class Deployment:
    """The processes of one deployment; ``place`` holds its parties and credentials."""

    place: Path
    simulated: bool = False
    port: int = field(default_factory=lambda: free_ports(1)[0])
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The clients, each of which gets a SuperNode."""
        return sorted(p.name for p in (self.place / "parties").iterdir() if p.name != SERVER)

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"{LOOPBACK}:{self.port}"

    def _credential(self, name: str) -> str:
        return str(self.place / "credentials" / name)

    @property
    def _tls(self) -> list[str]:
        words = {"--ssl-certfile": CERTIFICATE, "--ssl-keyfile": KEY, "--ssl-ca-certfile": CA}
        return [word for o, name in words.items() for word in (o, self._credential(name))]

    def start_superlink(self) -> None:
        """Start the SuperLink, and wait until it listens."""
        home = self.place / "home"
        make_private_folder(home)
        connection = (
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{self.address}"\nroot-certificates = "{self._credential(CA)}"\n'
        )
        write_atomically(home / "config.toml", connection.encode())
        words = ["flower-superlink", *self._tls]
        words += ["--simulation"] if self.simulated else ["--enable-supernode-auth"]
        words += ["--host", LOOPBACK, "--port", str(self.port)]
        self._start("superlink", [*words, "--disable-runtime-dependency-installation"])
        self._await("superlink", self.port)

    def start_supernodes(self) -> None:
        """Register every client's node key with the SuperLink, start its SuperNode, and wait."""
        for name in self.names:
            self._flwr("supernode", "register", self._credential(f"{name}.pub"), CONNECTION)
        ports = dict(zip(self.names, free_ports(len(self.names)), strict=True))
        for name, port in ports.items():
            self.start_supernode(name, port)
        for name, port in ports.items():
            self._await(name, port)

    def start_supernode(self, name: str, port: int) -> None:
        """Start one client's SuperNode, which listens on a port."""
        words = ["flower-supernode", "--superlink", self.address, *self._tls]
        words += ["--root-certificates", self._credential(CA)]
        words += ["--auth-supernode-private-key", self._credential(name)]
        words += ["--host", LOOPBACK, "--port", str(port)]
        words += ["--node-config", f'party="{self.place / "parties" / name}"']
        self._start(name, words)

    def _await(self, name: str, port: int) -> None:
        """Wait until a process listens. Raises: FederationError if it ends or never does."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not listens(port):
            self._require_alive(name)
            if time.monotonic() > deadline:
                raise FederationError(f"{name} did not start: see {self.log(name)}.")
            time.sleep(0.2)

    def run(self, out: Path, *, resume: bool = False) -> None:
        """Have the server carry out a run into ``out``; return when it has ended.

        Raises: FederationError if the SuperLink ends before it.
        """
        parties = self.place / "parties"
        settings: dict[str, str | int] = {"party": str(parties / SERVER), "out": str(out)}
        settings |= {"parties": str(parties)} if self.simulated else {}
        self.run_app(APP, {**settings, "resume": resume})

    def run_app(self, app: Path, settings: Mapping[str, str | int]) -> None:
        """Hand an app and its settings to the SuperLink; return when its run has ended.

        Raises: FederationError if the SuperLink ends before it.
        """
        words = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
        command = ["flwr", "run", str(app), CONNECTION, "--run-config", words, "--stream"]
        if self.simulated:
            federation = f"num-supernodes={len(self.names)} client-resources-num-cpus=1"
            command += ["--federation-config", federation]
        run = self._start("run", command)
        while run.poll() is None:
            self._require_alive("superlink")
            time.sleep(0.5)

    def kill_supernode(self, name: str) -> None:
        """Kill a client's SuperNode and all that it started, as a failure would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.place / "logs" / f"{name}.log"

    def _require_alive(self, name: str) -> None:
        if self.processes[name].poll() is not None:
            raise FederationError(f"{name} ended before the run: see {self.log(name)}.")

    def _start(self, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a process at the head of a group, which can be ended as one."""
        self.log(name).parent.mkdir(exist_ok=True)
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command(words),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_the_starter,
            )
        self.processes[name] = process
        return process

    def _flwr(self, *words: str) -> None:
        done = subprocess.run(
            command(["flwr", *words]), env=self._environment(), capture_output=True, text=True
        )
        if done.returncode:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise FederationError(f"flwr {words[0]} {words[1]} failed: {' '.join(told)}")

    def _environment(self) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        own = {"FLWR_HOME": str(self.place / "home"), "PATH": path}
        return {**os.environ, "OMP_NUM_THREADS": "1", **QUIET, **own}

    def close(self) -> None:
        """End every process: asked first, then killed, with whatever it started."""
        started = [child for process in self.processes.values() for child in children_of(process)]
        for process in self.processes.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + END_TIMEOUT_S
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for process in self.processes.values():
            _signal_group(process, signal.SIGKILL)
            process.wait()
        for child in started:  # a SuperLink's are in groups of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def command(words: Sequence[str]) -> list[str]:
    """Return a command of this interpreter's environment."""
    beside = Path(sys.executable).parent / words[0]
    program = str(beside) if beside.exists() else shutil.which(words[0])
    if program is None:
        raise FederationError(f"{words[0]}: there is no such command; is flwr installed?")
    return [program, *words[1:]]


def children_of(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Return all that a process has started, and that they have; none if it has ended."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_group(process: subprocess.Popen[Any], what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, what)


def _end_with_the_starter() -> None:
    """Have Linux end the process when the one that started it ends, in whatever way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on, no two alike.

    They are below those that systems give to outgoing connections, one of which could take a port
    before the process that it is meant for listens.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind((LOOPBACK, port))
            found.append(port)
        if len(found) == count:
            return found
    raise FederationError(
        f"{LOOPBACK}: expected {count} free ports from {FREE_PORTS[0]} to {FREE_PORTS[-1]}, "
        f"there are {len(found)}."
    )


def listens(port: int) -> bool:
    """Return whether somebody listens on a port of the loopback address."""
    with socket.socket() as tried:
        tried.settimeout(1.0)
        return tried.connect_ex((LOOPBACK, port)) == 0
