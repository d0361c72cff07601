"""What every engine with workers keeps to: a suite that each engine's tests inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot_secure.engines import PhaseKey, WorkerFailed
from pilot_secure.engines.workers import WorkersTransport
from pilot_secure.errors import FederationError, UsageError

PHASE = PhaseKey("train", 1, 1)
SLOTS = [("a", "b"), ("c",)]
REQUESTS = {"a": b"1", "b": b"2", "c": b"3"}
ANSWERS = {"a": b"a train 1", "b": b"b train 2", "c": b"c train 3"}


class Obeying:
    """A host that does what a request says, and otherwise answers by client, phase and request."""

    def __init__(self, names: tuple[str, ...], tell: Callable[[Any], None]) -> None:
        self.names, self.report, self._tell = names, os.getpid(), tell

    def handle(self, client: str, phase: PhaseKey, request: bytes) -> bytes:
        match request.split(b" "):
            case [b"die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case [b"stand", b"still"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            case [b"sleep", seconds]:
                time.sleep(float(seconds))
            case [b"tell", what]:
                self._tell((client, what.decode()))
            case [b"variable", name]:
                return os.environ[name.decode()].encode()
            case [b"folder"]:
                return os.getcwd().encode()
            case [b"mistake"]:
                raise FederationError("too few are left.")
            case [b"defect"]:
                raise ZeroDivisionError("a defect")
        return f"{client} {phase.name} ".encode() + request

    def finish(self) -> None:
        self._tell(("finished", self.names))


def obeying(names: tuple[str, ...], tell: Callable[[Any], None]) -> Obeying:
    return Obeying(names, tell)


def refusing(names: tuple[str, ...], tell: Callable[[Any], None]) -> Obeying:
    raise UsageError("model.base: expected a LLaVA checkpoint.")


def dying(names: tuple[str, ...], tell: Callable[[Any], None]) -> Obeying:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


NOTES: list[Any] = []


def ask(transport: WorkersTransport, timeout_s: float = 60.0, **requests: bytes) -> Any:
    return transport.exchange(PHASE, {**REQUESTS, **requests}, timeout_s)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


ORPHANS = """
import sys
sys.path.insert(0, {folder!r})
from worker_contract import SLOTS, PHASE, obeying
from {engine.__module__} import {engine.__name__} as Engine
if __name__ == "__main__":
    transport = Engine(obeying, SLOTS)
    print(*transport.pids, flush=True)
    transport.exchange(PHASE, {{"a": b"sleep 60"}}, 60.0)
"""


class WorkerContract:
    """Tests of one engine, whose transport takes ``(build, settings, on_note)``."""

    engine: Callable[..., WorkersTransport]

    @pytest.fixture
    def transport(self) -> Iterator[WorkersTransport]:
        NOTES.clear()
        transport = type(self).engine(obeying, SLOTS, NOTES.append)
        yield transport
        transport.close()

    def test_every_client_answers_from_its_worker(self, transport: WorkersTransport) -> None:
        assert transport.reports == transport.pids
        assert len({*transport.pids, os.getpid()}) == 3
        assert ask(transport) == ANSWERS
        assert transport.exchange(PHASE, {"b": b"x"}, 30.0) == {"b": b"b train x"}
        large = bytes(3 << 20)
        assert ask(transport, a=large)["a"] == b"a train " + large
        folders = ask(transport, a=b"folder", b=b"folder", c=b"folder")
        assert set(folders.values()) == {os.getcwd().encode()}

    def test_notes_come_before_the_reply_that_they_belong_to(
        self, transport: WorkersTransport
    ) -> None:
        ask(transport, a=b"tell one", b=b"tell two")
        assert NOTES == [("a", "one"), ("b", "two")]
        assert transport.finish(30.0) > 1 << 20  # bytes of two processes
        assert {note[1] for note in NOTES[2:]} == set(SLOTS)

    def test_workers_share_the_threads(self, transport: WorkersTransport) -> None:
        given = os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1
        threads = str(max(1, int(given) // 2)).encode()
        asked = b"variable OMP_NUM_THREADS"
        assert set(ask(transport, a=asked, b=asked, c=asked).values()) == {threads}

    def test_a_worker_that_dies_takes_its_clients_along(self, transport: WorkersTransport) -> None:
        start = time.monotonic()
        assert ask(transport, 300.0, a=b"die") == {**ANSWERS, "a": None, "b": None}
        assert ask(transport, 300.0) == {**ANSWERS, "a": None, "b": None}
        assert transport.finish(300.0) > 0
        assert NOTES == [("finished", ("c",))]
        assert time.monotonic() - start < 30

    def test_a_worker_that_stands_still_runs_out_of_time(self, transport: WorkersTransport) -> None:
        assert ask(transport, 3.0, c=b"stand still") == {**ANSWERS, "c": None}
        os.kill(transport.pids[1], signal.SIGCONT)
        assert ask(transport) == ANSWERS  # and not the answer to the first request

    def test_what_was_not_handed_over_in_time_never_is(self, transport: WorkersTransport) -> None:
        replies = ask(transport, 1.0, a=b"sleep 3", b=b"tell nothing")
        assert replies == {**ANSWERS, "a": None, "b": None}
        assert ask(transport) == ANSWERS
        assert NOTES == []

    def test_mistakes_and_defects_come_out_here(self, transport: WorkersTransport) -> None:
        with pytest.raises(FederationError, match=r"^too few are left\.$"):
            ask(transport, a=b"mistake")
        with pytest.raises(WorkerFailed, match="ZeroDivisionError: a defect"):
            ask(transport, c=b"defect")

    def test_a_mistake_at_the_start_is_told_and_ends_the_others(self) -> None:
        with pytest.raises(UsageError, match=r"^model\.base: expected a LLaVA checkpoint\.$"):
            type(self).engine(refusing, SLOTS)
        with pytest.raises(FederationError, match="worker [12] of 2 died while it started"):
            type(self).engine(dying, SLOTS)

    def test_closing_ends_every_worker_even_one_that_stands_still(self) -> None:
        transport = type(self).engine(obeying, SLOTS)
        pids = [*transport.pids]
        ask(transport, 3.0, c=b"stand still")
        transport.close()
        transport.close()
        wait_for_the_end_of(pids)

    def test_workers_end_when_the_process_that_started_them_is_killed(self, tmp_path: Path) -> None:
        script = tmp_path / "starter.py"
        script.write_text(
            ORPHANS.format(folder=str(Path(__file__).parent), engine=type(self).engine)
        )
        starter = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        starter.kill()
        starter.wait()
        wait_for_the_end_of(pids)
