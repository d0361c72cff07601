"""Worker processes: what they carry, and what is left of a run when one of them is gone."""

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

from pilot_secure.engines import PhaseKey, ProcessesTransport, ProcessFailed
from pilot_secure.errors import FederationError, UsageError

PHASE = PhaseKey("train", 1, 1)
SLOTS = [("a", "b"), ("c",)]
REQUESTS = {"a": b"1", "b": b"2", "c": b"3"}


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
            case [b"threads"]:
                return os.environ["OMP_NUM_THREADS"].encode()
            case [b"device"]:
                return os.environ["CUDA_VISIBLE_DEVICES"].encode()
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


@pytest.fixture
def transport() -> Iterator[ProcessesTransport]:
    NOTES.clear()
    transport = ProcessesTransport(obeying, SLOTS, NOTES.append)
    yield transport
    transport.close()


def ask(transport: ProcessesTransport, timeout_s: float = 30.0, **requests: bytes) -> Any:
    return transport.exchange(PHASE, {**REQUESTS, **requests}, timeout_s)


ANSWERS = {"a": b"a train 1", "b": b"b train 2", "c": b"c train 3"}


def test_every_client_answers_from_its_process(transport: ProcessesTransport) -> None:
    assert transport.reports == list(transport.pids)
    assert len({*transport.pids, os.getpid()}) == 3
    assert ask(transport) == ANSWERS
    assert transport.exchange(PHASE, {"b": b"x"}, 30.0) == {"b": b"b train x"}
    large = bytes(3 << 20)
    assert ask(transport, a=large)["a"] == b"a train " + large


def test_notes_come_before_the_reply_that_they_belong_to(transport: ProcessesTransport) -> None:
    ask(transport, a=b"tell one", b=b"tell two")
    assert NOTES == [("a", "one"), ("b", "two")]
    assert transport.finish(30.0) > 1 << 20  # bytes of two processes
    assert {note[1] for note in NOTES[2:]} == set(SLOTS)


def test_processes_share_the_threads(transport: ProcessesTransport) -> None:
    given = os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1
    threads = str(max(1, int(given) // 2)).encode()
    assert set(ask(transport, a=b"threads", b=b"threads", c=b"threads").values()) == {threads}


def test_devices_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    slots = [("a",), ("b",), ("c",)]
    transport = ProcessesTransport(obeying, slots, devices=["4", "GPU-7"])
    try:
        replies = ask(transport, a=b"device", b=b"device", c=b"device")
    finally:
        transport.close()
    assert replies == {"a": b"4", "b": b"GPU-7", "c": b"4"}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_process_that_dies_takes_its_clients_along(transport: ProcessesTransport) -> None:
    start = time.monotonic()
    assert ask(transport, 300.0, a=b"die") == {**ANSWERS, "a": None, "b": None}
    assert ask(transport, 300.0) == {**ANSWERS, "a": None, "b": None}
    assert transport.finish(300.0) > 0
    assert NOTES == [("finished", ("c",))]
    assert time.monotonic() - start < 30


def test_a_process_that_stands_still_runs_out_of_time(transport: ProcessesTransport) -> None:
    assert ask(transport, 1.0, c=b"stand still") == {**ANSWERS, "c": None}
    os.kill(transport.pids[1], signal.SIGCONT)
    assert ask(transport) == ANSWERS  # and not the answer to the first request


def test_what_was_not_handed_over_in_time_never_is(transport: ProcessesTransport) -> None:
    replies = ask(transport, 0.5, a=b"sleep 1.5", b=b"tell nothing")
    assert replies == {**ANSWERS, "a": None, "b": None}
    assert ask(transport) == ANSWERS
    assert NOTES == []


def test_mistakes_and_defects_come_out_here(transport: ProcessesTransport) -> None:
    with pytest.raises(FederationError, match=r"^too few are left\.$"):
        ask(transport, a=b"mistake")
    with pytest.raises(ProcessFailed, match="ZeroDivisionError: a defect"):
        ask(transport, c=b"defect")


def test_a_mistake_at_the_start_is_told_and_ends_the_others() -> None:
    with pytest.raises(UsageError, match=r"^model\.base: expected a LLaVA checkpoint\.$"):
        ProcessesTransport(refusing, SLOTS)
    with pytest.raises(ProcessFailed, match="worker process [12] died while it started"):
        ProcessesTransport(dying, SLOTS)


def test_closing_ends_every_process_even_one_that_stands_still() -> None:
    transport = ProcessesTransport(obeying, SLOTS)
    pids = transport.pids
    ask(transport, 0.5, c=b"stand still")
    os.kill(pids[1], signal.SIGCONT)
    transport.close()
    transport.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


ORPHANS = """
import sys, time
sys.path.insert(0, {folder!r})
from test_processes import SLOTS, obeying
from pilot_secure.engines import ProcessesTransport, PhaseKey
if __name__ == "__main__":
    transport = ProcessesTransport(obeying, SLOTS)
    print(*transport.pids, flush=True)
    transport.exchange(PhaseKey("train", 1, 1), {{"a": b"sleep 60"}}, 60.0)
"""


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(ORPHANS.format(folder=str(Path(__file__).parent)))
    starter = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pids = [int(pid) for pid in starter.stdout.readline().split()]
    assert len(pids) == 2
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
