"""One process per slot: the clients of a run spread over the cores of a machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pilot_secure.engines.transport import Note
from pilot_secure.engines.workers import (
    Ask,
    Build,
    Event,
    FarEnd,
    WorkerLost,
    WorkersTransport,
    worker_environment,
)

JOIN_TIMEOUT_S = 5.0


class ProcessesTransport(WorkersTransport):
    """Worker processes, one per entry of ``settings``; each builds its host by ``build``.

    A process that dies takes its clients out of the run. ``devices`` are dealt out to the processes
    in turn, each of which sees its own alone (as CUDA_VISIBLE_DEVICES).

    Raises: as WorkersTransport.
    """

    def __init__(
        self,
        build: Build,
        settings: Sequence[Any],
        on_note: Note = lambda note: None,
        *,
        devices: Sequence[str] = (),
    ) -> None:
        self._links: list[_ProcessLink] = []
        variables = worker_environment(len(settings))
        try:
            for number, setting in enumerate(settings):
                if devices:
                    variables["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
                with _environment(variables):
                    self._links.append(_ProcessLink(build, setting))
        except BaseException:
            for link in self._links:
                link.kill()
            raise
        super().__init__(self._links, on_note)

    def close(self) -> None:
        """End every process."""
        super().close()
        for link in self._links:
            link.kill()


class _ProcessLink:
    """A process, as seen from the one that started it."""

    def __init__(self, build: Build, setting: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, build, setting), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def converse(self, ask: Ask) -> Iterator[Event]:
        """Send what is asked through the pipe, and return what comes out of it."""
        try:
            self._connection.send(ask)
            while (event := self._connection.recv()).kind == "note":
                yield event
        except (EOFError, OSError) as error:
            raise WorkerLost("the other end of its pipe is closed") from error
        yield event

    def end(self) -> None:
        """Ask the process to terminate."""
        self._process.terminate()

    def kill(self) -> None:
        """Ask the process to terminate, wait a little for it, then kill it."""
        self.end()
        self._process.join(JOIN_TIMEOUT_S)
        if self._process.is_alive():  # it stands still, and takes no other signal
            self._process.kill()
            self._process.join()
        self._connection.close()


def _serve(connection: Connection, build: Build, setting: Any) -> None:
    """Be a worker process: do what comes through the pipe, one after the other."""
    depend_on_the_starter()
    far_end = FarEnd(build, setting, connection.send)
    try:
        while True:
            far_end.take(connection.recv())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # whoever started this process is gone


def depend_on_the_starter() -> None:
    """Leave Ctrl-C to the process that started this one, and end when it ends, in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_the_starter()


def end_with_the_starter() -> None:
    """End when the process that started this one ends: a pool's would wait for work for ever."""
    threading.Thread(target=_end_after_the_starter, daemon=True).start()


def _end_after_the_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


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
