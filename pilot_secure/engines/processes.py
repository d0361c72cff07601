"""One process per slot: the clients of a run spread over the cores of a machine.

Each process holds one base model and serves its clients one after the other. A thread per process
carries its frames, so that a process that stands still or dies holds up nobody else: its clients
have dropped out.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from pilot_secure.engines.transport import Host, Note, PhaseKey
from pilot_secure.errors import ToldError, told_again

Build = Callable[[Any, Note], Host]
"""Makes a process's host out of its picklable settings; a function of a module, by name."""

JOIN_TIMEOUT_S = 5.0
_FINISH = "finish"
QUIET_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""Processes that share cores must not spin while they wait for their own threads."""


class ProcessFailed(RuntimeError):
    """A defect inside a worker process; the text is its traceback."""


@dataclass(frozen=True)
class _Ask:
    exchange: int
    client: str
    phase: PhaseKey
    request: bytes


@dataclass(frozen=True)
class _Event:
    """What a process's thread passes on: ready, reply, note, finished, told, defect or lost."""

    slot: int
    kind: str
    content: Any = None
    exchange: int = 0
    client: str = ""


@dataclass
class _Slot:
    """A process, as seen from the one that started it."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    asks: queue.SimpleQueue[_Ask | str | None] = field(default_factory=queue.SimpleQueue)
    alive: bool = True


class ProcessesTransport:
    """Worker processes, one per entry of ``settings``; each builds its host by ``build``.

    Returns from its constructor when all are ready. ``on_note`` is called in this thread, during
    an exchange, with whatever hosts tell besides their replies. A process that dies takes its
    clients out of the run; a reply that comes after its exchange has ended is dropped, and the
    clients behind it in the same process wait for it. ``devices`` are dealt out to the processes in
    turn, each of which sees its own alone (as CUDA_VISIBLE_DEVICES).

    Raises: ToldError that a host raised while it was built, ProcessFailed for any other error of
    a host.
    """

    def __init__(
        self,
        build: Build,
        settings: Sequence[Any],
        on_note: Note = lambda note: None,
        *,
        devices: Sequence[str] = (),
    ) -> None:
        self._on_note = on_note
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._slot_of: dict[str, int] = {}
        self._exchange = 0
        self.reports: list[Any] = [None] * len(settings)
        threads = max(1, _cores() // max(1, len(settings)))
        variables = {**QUIET_THREADS, "OMP_NUM_THREADS": str(threads)}
        try:
            for number, setting in enumerate(settings):
                if devices:
                    variables["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
                with _environment(variables):
                    self._slots.append(self._start(number, build, setting))
            self._await_ready()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The processes' ids, in the order of their settings."""
        return tuple(slot.process.pid for slot in self._slots)

    def _start(self, number: int, build: Build, setting: Any) -> _Slot:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, build, setting), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        slot = _Slot(process, ours)
        carry = threading.Thread(target=self._carry, args=(number, slot), daemon=True)
        carry.start()
        return slot

    def _carry(self, number: int, slot: _Slot) -> None:
        """Hand a process its requests one at a time, and pass on what it says."""
        try:
            self._pass_on(number, slot)  # until it is ready
            while (ask := slot.asks.get()) is not None:
                if isinstance(ask, _Ask) and ask.exchange != self._exchange:
                    continue  # its exchange ended while it waited
                slot.connection.send(ask)
                self._pass_on(number, slot)
        except (EOFError, OSError):
            self._events.put(_Event(number, "lost"))

    def _pass_on(self, number: int, slot: _Slot) -> None:
        """Pass on notes, up to and with the answer."""
        while True:
            event: _Event = slot.connection.recv()
            self._events.put(
                _Event(number, event.kind, event.content, event.exchange, event.client)
            )
            if event.kind != "note":
                return

    def _await_ready(self) -> None:
        waiting = set(range(len(self._slots)))
        while waiting:
            event = self._events.get()
            if event.kind == "ready":
                self.reports[event.slot], names = event.content
                self._slot_of |= dict.fromkeys(names, event.slot)
                waiting.discard(event.slot)
            elif event.kind == "lost":
                raise ProcessFailed(f"worker process {event.slot + 1} died while it started")
            else:
                self._take(event)

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Deliver the requests to all processes at once and collect the replies."""
        self._exchange += 1
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        waiting: set[str] = set()
        for client, request in requests.items():
            slot = self._slots[self._slot_of[client]]
            if slot.alive:
                waiting.add(client)
                slot.asks.put(_Ask(self._exchange, client, phase, request))
        for event in self._until(time.monotonic() + timeout_s):
            if event is not None and event.kind == "reply" and event.exchange == self._exchange:
                replies[event.client] = event.content
                waiting.discard(event.client)
            waiting = {c for c in waiting if self._slots[self._slot_of[c]].alive}
            if not waiting:
                break
        self._exchange += 1  # what has not been handed over by now never is
        return replies

    def _until(self, deadline: float) -> Iterator[_Event | None]:
        """Yield None once, then events as they come, until the deadline."""
        yield None
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                return
            self._take(event)
            yield event

    def _take(self, event: _Event) -> None:
        match event.kind:
            case "note":
                self._on_note(event.content)
            case "lost":
                self._slots[event.slot].alive = False
            case "told":
                raise told_again(*event.content)
            case "defect":
                raise ProcessFailed(f"worker process {event.slot + 1}:\n{event.content}")

    def finish(self, timeout_s: float) -> int:
        """Let every process that is left finish; return their peak memory in bytes, summed."""
        waiting = {number for number, slot in enumerate(self._slots) if slot.alive}
        for number in waiting:
            self._slots[number].asks.put(_FINISH)
        peak = 0
        for event in self._until(time.monotonic() + timeout_s):
            if event is not None and event.kind in ("finished", "lost"):
                waiting.discard(event.slot)
                peak += event.content or 0
            if not waiting:
                break
        return peak

    def close(self) -> None:
        """End every process."""
        for slot in self._slots:
            slot.asks.put(None)
            slot.process.terminate()
        for slot in self._slots:
            slot.process.join(JOIN_TIMEOUT_S)
            if slot.process.is_alive():  # it stands still, and takes no other signal
                slot.process.kill()
                slot.process.join()
            slot.connection.close()


def _serve(connection: Connection, build: Build, setting: Any) -> None:
    """Be a worker process: build a host, then answer one request after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starter's to handle
    threading.Thread(target=_end_with_the_starter, daemon=True).start()

    def say(kind: str, content: Any = None, exchange: int = 0, client: str = "") -> None:
        connection.send(_Event(0, kind, content, exchange, client))

    try:
        host = build(setting, lambda note: say("note", note))
        say("ready", (host.report, tuple(host.names)))
        while True:
            ask = connection.recv()
            if ask == _FINISH:
                host.finish()
                say("finished", _peak_memory_bytes())
                continue
            reply = host.handle(ask.client, ask.phase, ask.request)
            say("reply", reply, ask.exchange, ask.client)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # whoever started this process is gone
    except ToldError as error:
        with suppress(OSError):
            say("told", (error.exit_code, str(error)))
    except Exception:
        with suppress(OSError):
            say("defect", traceback.format_exc())


def _end_with_the_starter() -> None:
    """End at once when the process that started this one ends, in whatever way."""
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cores() -> int:
    """Threads that may be used in all: as OMP_NUM_THREADS says, else the cores of the machine."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else os.cpu_count() or 1


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
