"""What a deployment on this machine is made of, without Flower: keys, processes, their end."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization.ssh import (
    load_ssh_private_key,
    load_ssh_public_key,
)
from rich.console import Console

from pilot_secure.errors import FederationError
from pilot_secure.flower import loopback
from pilot_secure.flower.credentials import CA, CERTIFICATE, KEY, make_credentials
from pilot_secure.flower.loopback import Deployment, deployed, free_ports, listens
from pilot_secure.simulate import main


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "credentials"
    make_credentials(folder, ["client-01", "client-02"])
    return folder


def test_the_certificate_holds_for_the_loopback_address_alone(credentials: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(credentials / CERTIFICATE, credentials / KEY)
    client = ssl.create_default_context(cafile=str(credentials / CA))
    for name, trusted in (("127.0.0.1", True), ("localhost", True), ("10.0.0.1", False)):
        ours, theirs = socket.socketpair()
        answer = threading.Thread(target=_shake, args=(server, theirs))
        answer.start()
        try:
            client.wrap_socket(ours, server_hostname=name).close()
            found = True
        except ssl.SSLCertVerificationError:
            found = False
        ours.close()
        answer.join()
        assert found is trusted, name


def _shake(context: ssl.SSLContext, connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        context.wrap_socket(connection, server_side=True).close()


def test_nodes_have_keys_of_their_own(credentials: Path) -> None:
    public = []
    for name in ("client-01", "client-02"):
        file = credentials / name
        assert oct(file.stat().st_mode & 0o777) == "0o600"
        secret = load_ssh_private_key(file.read_bytes(), None)
        assert isinstance(secret, ec.EllipticCurvePrivateKey)
        found = load_ssh_public_key((credentials / f"{name}.pub").read_bytes())
        assert found == secret.public_key()
        public.append(found)
    assert public[0] != public[1]
    assert oct((credentials / KEY).stat().st_mode & 0o777) == "0o600"


def test_without_flower_a_run_by_it_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loopback, "flower_is_installed", lambda: False)
    assert main(["--engine", "flower", "--out", str(tmp_path / "run")]) == 2
    (sentence,) = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error")]
    assert "run.engine is flower: expected the package flwr, which `pip install" in sentence
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_the_data_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loopback, "flower_is_installed", lambda: True)
    out = tmp_path / "run"
    assert main(["--engine", "flower", "--base", "no/such-model/here", "--out", str(out)]) == 2
    (sentence,) = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error")]
    assert "model.base: expected a LLaVA checkpoint" in sentence
    assert not out.exists()


STARTER = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
child, detached = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
print(child.pid, detached.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment's folder in which every command starts a process that starts another."""

    def stand_in(words: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", STARTER]

    (tmp_path / "parties" / "client-01").mkdir(parents=True)
    (tmp_path / "parties" / "server").mkdir()
    monkeypatch.setattr(loopback, "command", stand_in)
    return tmp_path


def children_of(deployment: Deployment, name: str) -> list[int]:
    """What the process has started: one in its group, one in a session of its own."""
    deadline = time.monotonic() + 30
    while not (text := deployment.log(name).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(word) for word in text.split()]


def runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def await_end(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_deployment_ends_all_that_its_processes_started(place: Path) -> None:
    deployment = Deployment(place)
    deployment.start_supernode("client-01", free_ports(1)[0])
    pids = [deployment.processes["client-01"].pid, *children_of(deployment, "client-01")]
    assert len(pids) == 3
    assert all(map(runs, pids))
    deployment.close()
    deployment.close()
    await_end(*pids)


def test_relative_paths_of_a_configuration_mean_what_they_mean_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data, base model and event log: a node's process has this working directory."""
    here = [sys.executable, "-c", "import os; print(os.getcwd(), flush=True)"]
    monkeypatch.setattr(loopback, "command", lambda words: here)
    deployment = Deployment(place)
    deployment.start_supernode("client-01", free_ports(1)[0])
    deployment.processes["client-01"].wait(30)
    assert deployment.log("client-01").read_text().strip() == os.getcwd() != str(place)
    deployment.close()


def test_a_killed_supernode_takes_its_processes_along(place: Path) -> None:
    deployment = Deployment(place)
    deployment.start_supernode("client-01", free_ports(1)[0])
    child, detached = children_of(deployment, "client-01")
    deployment.kill_supernode("client-01")
    await_end(deployment.processes["client-01"].pid, child)
    deployment.kill_supernode("client-01")
    deployment.close()
    os.kill(detached, signal.SIGKILL)


def test_a_failure_inside_ends_the_processes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "listens", lambda port: True)
    monkeypatch.setattr(Deployment, "_flwr", lambda self, *words: None)
    handler = signal.getsignal(signal.SIGTERM)
    pids: list[int] = []
    with (
        pytest.raises(KeyboardInterrupt),
        deployed(place, Console(file=io.StringIO())) as deployment,
    ):
        for name in ("superlink", "client-01"):
            pids += children_of(deployment, name)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    await_end(*pids)
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_supernode_that_ends_before_the_run_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run would wait for it until the phase's time is up."""
    monkeypatch.setattr(loopback, "command", lambda words: [sys.executable, "-c", "exit(1)"])
    monkeypatch.setattr(Deployment, "_flwr", lambda self, *words: None)
    deployment = Deployment(place)
    with pytest.raises(FederationError, match="client-01 ended before the run: see .*client-01"):
        deployment.start_supernodes()
    deployment.close()


def test_ports_are_no_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = free_ports(9)
    assert len(set(ports)) == 9 and max(ports) < 32_768
    with socket.create_server(("127.0.0.1", ports[0])):
        monkeypatch.setattr(loopback, "FREE_PORTS", range(ports[0], ports[0] + 1))
        with pytest.raises(FederationError, match="expected 1 free ports from .* there are 0"):
            free_ports(1)


def test_a_superlink_that_ends_at_once_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "command", lambda words: [sys.executable, "-c", "exit(1)"])
    with (
        pytest.raises(FederationError, match="superlink ended before the run: see .*superlink.log"),
        deployed(place, Console(file=io.StringIO())),
    ):
        raise AssertionError


def test_ports_are_free_until_somebody_listens() -> None:
    (port,) = free_ports(1)
    assert not listens(port)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", port))
        somebody.listen()
        assert listens(port)


def test_a_process_ends_with_whoever_started_the_deployment(place: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pilot_secure.flower import loopback
loopback.command = lambda words: [sys.executable, "-c", "import time; time.sleep(300)"]
deployment = loopback.Deployment(Path({str(place)!r}))
deployment.start_supernode("client-01", loopback.free_ports(1)[0])
print(deployment.processes["client-01"].pid, flush=True)
time.sleep(300)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert runs(pid)
    starter.kill()
    starter.wait()
    await_end(pid)
