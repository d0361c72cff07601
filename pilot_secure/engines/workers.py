"""What engines with several workers share: each worker holds a host and some of the clients.

A worker is a process of its own, on this machine (`processes`) or wherever Ray puts it
(`ray_actors`); an engine says in a :class:`Link` how one is asked. Here is the rest: a thread per
worker carries its frames, so that a worker that stands still or dies holds up nobody else (its
clients have dropped out), and :class:`FarEnd` is what a worker does with what it is asked.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from pilot_secure.engines.transport import Host, Note, PhaseKey
from pilot_secure.errors import FederationError, ToldError, told_again

Build = Callable[[Any, Note], Host]
"""Makes a worker's host out of its picklable settings; a function of a module, by name."""


class WorkerFailed(RuntimeError):
    """A defect inside a worker; the text is its traceback."""


class WorkerLost(Exception):
    """A worker is gone, and why: raised by links, and a drop-out of its clients for the rest."""


@dataclass(frozen=True)
class Delivery:
    """A request to one client, and the number of the exchange that it belongs to."""

    exchange: int
    client: str
    phase: PhaseKey
    request: bytes


Ask = Delivery | Literal["start", "finish"]
"""What a worker is asked, one at a time, `start` first."""


@dataclass(frozen=True)
class Event:
    """What a worker says: a note, or the answer to what it was asked.

    Answers are ready (content: Ready), reply (bytes), finished (peak memory in bytes), told (exit
    code and text) and defect (traceback). `lost`, with the reason, is what its thread says when
    the worker is gone.
    """

    kind: Literal["note", "ready", "reply", "finished", "told", "defect", "lost"]
    content: Any = None
    delivery: tuple[int, str] = (0, "")
    """The exchange and client that a reply is for."""


@dataclass(frozen=True)
class Ready:
    """A worker's host was built: what it reports, its clients, the worker's process id."""

    report: Any
    names: tuple[str, ...]
    pid: int


class Link(Protocol):
    """The near end of one worker."""

    def converse(self, ask: Ask) -> Iterator[Event]:
        """Ask, and return what the worker says, up to and with its answer.

        Raises: WorkerLost.
        """
        ...

    def end(self) -> None:
        """Tell the worker to end, without waiting for it."""
        ...


@dataclass
class _Slot:
    link: Link
    thread: threading.Thread
    asks: queue.SimpleQueue[Ask | None] = field(default_factory=queue.SimpleQueue)
    alive: bool = True


class WorkersTransport:
    """Workers as their links reach them; returns from its constructor when all are ready.

    ``on_note`` is called in this thread, during an exchange, with whatever hosts tell besides their
    replies. A reply that comes after its exchange has ended is dropped, and the clients behind it
    at the same worker wait for it.

    Raises: ToldError that a host raised while it was built, FederationError if a worker died then,
    WorkerFailed for any other error of a host.
    """

    def __init__(self, links: Sequence[Link], on_note: Note) -> None:
        self._on_note = on_note
        self._events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._slots = [_Slot(link, self._thread(n)) for n, link in enumerate(links)]
        self._slot_of: dict[str, int] = {}
        self._exchange = 0
        self.reports: list[Any] = [None] * len(links)
        self.pids = [0] * len(links)
        try:
            for slot in self._slots:
                slot.thread.start()
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def _thread(self, number: int) -> threading.Thread:
        return threading.Thread(target=self._carry, args=(number,), daemon=True)

    def _carry(self, number: int) -> None:
        """Hand a worker its requests one at a time, and pass on what it says."""
        slot, ask = self._slots[number], cast("Ask | None", "start")
        try:
            while ask is not None:
                if not isinstance(ask, Delivery) or ask.exchange == self._exchange:
                    for event in slot.link.converse(ask):
                        self._events.put((number, event))
                ask = slot.asks.get()  # a delivery of an exchange that has ended is passed over
        except WorkerLost as lost:
            self._events.put((number, Event("lost", str(lost))))
        except Exception:
            self._events.put((number, Event("defect", traceback.format_exc())))

    def _await_ready(self) -> None:
        waiting = set(range(len(self._slots)))
        while waiting:
            number, event = self._events.get()
            if event.kind == "ready":
                ready: Ready = event.content
                self.reports[number], self.pids[number] = ready.report, ready.pid
                self._slot_of |= dict.fromkeys(ready.names, number)
                waiting.discard(number)
            elif event.kind == "lost":
                raise FederationError(
                    f"worker {number + 1} of {len(self._slots)} died while it started "
                    f"({event.content}): expected room in memory for the base model in each."
                )
            else:
                self._take(number, event)

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Deliver the requests to all workers at once and collect the replies."""
        self._exchange += 1
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        waiting: set[str] = set()
        for client, request in requests.items():
            slot = self._slots[self._slot_of[client]]
            if slot.alive:
                waiting.add(client)
                slot.asks.put(Delivery(self._exchange, client, phase, request))
        for _number, event in self._until(time.monotonic() + timeout_s):
            exchange, client = event.delivery
            if event.kind == "reply" and exchange == self._exchange:
                replies[client] = event.content
                waiting.discard(client)
            waiting = {c for c in waiting if self._slots[self._slot_of[c]].alive}
            if not waiting:
                break
        self._exchange += 1  # what has not been handed over by now never is
        return replies

    def _until(self, deadline: float) -> Iterator[tuple[int, Event]]:
        """Yield a note of nothing, then events as they come, until the deadline."""
        yield 0, Event("note")
        while (left := deadline - time.monotonic()) > 0:
            try:
                number, event = self._events.get(timeout=left)
            except queue.Empty:
                return
            self._take(number, event)
            yield number, event

    def _take(self, number: int, event: Event) -> None:
        match event.kind:
            case "note":
                self._on_note(event.content)
            case "lost":
                self._slots[number].alive = False
            case "told":
                raise told_again(*event.content)
            case "defect":
                raise WorkerFailed(f"worker {number + 1}:\n{event.content}")

    def finish(self, timeout_s: float) -> int:
        """Let every worker that is left finish; return their peak memory in bytes, summed."""
        waiting = {number for number, slot in enumerate(self._slots) if slot.alive}
        for number in waiting:
            self._slots[number].asks.put("finish")
        peak = 0
        for number, event in self._until(time.monotonic() + timeout_s):
            if event.kind == "finished":
                peak += event.content
            if event.kind in ("finished", "lost"):
                waiting.discard(number)
            if not waiting:
                break
        return peak

    def close(self) -> None:
        """End every worker."""
        for slot in self._slots:
            slot.asks.put(None)
            slot.link.end()

    def _join(self, timeout_s: float) -> None:
        """Wait for the threads, which end with their workers; for each no longer than this."""
        for slot in self._slots:
            if slot.thread.is_alive():
                slot.thread.join(timeout_s)


class FarEnd:
    """Inside a worker: a host, and what is said to whoever started the worker."""

    def __init__(self, build: Build, setting: Any, say: Callable[[Event], None]) -> None:
        self._build, self._setting, self._say = build, setting, say
        self._host: Host | None = None

    def take(self, ask: Ask) -> None:
        """Do what is asked and say the answer, after whatever notes belong to it."""
        try:
            self._say(self._answer(ask))
        except ToldError as error:
            self._say(Event("told", (error.exit_code, str(error))))
        except Exception:
            self._say(Event("defect", traceback.format_exc()))

    def _answer(self, ask: Ask) -> Event:
        if self._host is None:
            self._host = host = self._build(self._setting, lambda n: self._say(Event("note", n)))
            return Event("ready", Ready(host.report, tuple(host.names), os.getpid()))
        if isinstance(ask, Delivery):
            reply = self._host.handle(ask.client, ask.phase, ask.request)
            return Event("reply", reply, (ask.exchange, ask.client))
        self._host.finish()
        return Event("finished", _peak_memory_bytes())


def worker_environment(workers: int) -> dict[str, str]:
    """Return variables under which workers share the cores of a machine in good order.

    They have their parts of the threads of this process, and do not spin while they wait for them.
    """
    threads = max(1, _cores() // max(1, workers))
    return {
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "OMP_NUM_THREADS": str(threads),
    }


def _cores() -> int:
    """Threads that may be used in all: as OMP_NUM_THREADS says, else the cores of the machine."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else os.cpu_count() or 1


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
