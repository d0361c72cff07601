"""The `state/` of a run folder: what a run needs to go on after it was killed.

    state/server/enrolment      who takes part, with everybody's identity keys
    state/server/checkpoint     where the server stands, and what it has noted so far
    state/client-NN/            what a client must not forget (`federation.kept_client`)

All of it is for the owner's eyes (0700) and is deleted when the run is finished; what a client's
guard claimed stays. Whoever runs or hosts clients of a run holds a lock on its folder, so that
nobody goes on with a run whose processes are still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot_secure.errors import RunFolderError
from pilot_secure.federation import checkpoint
from pilot_secure.federation.kept_client import ADAPTERS, MEMORY
from pilot_secure.files import sweep, told_in_a_sentence
from protocols.identity import SERVER

STATE = "state"
ENROLMENT, CHECKPOINT = "enrolment", "checkpoint"
_WRITTEN_TO = (f"{STATE}/*", "payloads", "parameters", "adapters/*", "adapters/*/*")
LOCK_TIMEOUT_S = 10.0
"""How long to wait for the processes of a run that was killed to end."""


class RunState:
    """The state of one run; `take` it before anything of the run is built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = folder / STATE / SERVER

    @classmethod
    def take(cls, folder: Path) -> RunState:
        """Take the run for this process alone, and for those that it starts.

        What a killed process left unfinished, secrets among it, is deleted.
        Raises: RunFolderError if another process still runs it.
        """
        _lock(folder, fcntl.LOCK_EX)
        for pattern in _WRITTEN_TO:
            for place in folder.glob(pattern):
                sweep(place)
        sweep(folder)
        return cls(folder)

    def keep_enrolment(self, enrolment: Any) -> None:
        """Write down who takes part. Raises: RunFolderError."""
        checkpoint.save(self._server / ENROLMENT, enrolment)

    def enrolment(self) -> Any:
        """Read who takes part.

        Raises: RunFolderError if the run was killed before it began, or has ended.
        """
        path = self._server / ENROLMENT
        if not path.exists():
            raise RunFolderError(
                f"{self._folder}: there is nothing to go on with; expected a run that was killed "
                "or interrupted after it began."
            )
        return checkpoint.load(path)

    def keep(self, content: Any, left_out: Mapping[str, object]) -> None:
        """Replace the checkpoint. Raises: RunFolderError."""
        checkpoint.save(self._server / CHECKPOINT, content, left_out)

    def kept(self, left_out: Mapping[str, object]) -> Any:
        """Read the checkpoint; None if the run was killed before its first.

        Raises: RunFolderError.
        """
        path = self._server / CHECKPOINT
        return checkpoint.load(path, left_out) if path.exists() else None

    def forget(self) -> None:
        """Delete what a finished run needs no more. Raises: RunFolderError."""
        for name in (ENROLMENT, CHECKPOINT, MEMORY, ADAPTERS.format("*")):
            checkpoint.delete(self._folder / STATE, f"*/{name}")
        for folder in (*(self._folder / STATE).glob("*"), self._folder / STATE):
            with contextlib.suppress(OSError):  # a guard's claims are still there
                folder.rmdir()


def share_run(folder: Path) -> None:
    """Hold the run as one of its worker processes, until this process ends."""
    _lock(folder, fcntl.LOCK_SH)


_HELD: dict[Path, int] = {}


def _lock(folder: Path, kind: int) -> None:
    """Lock the folder for as long as this process lives, then admit worker processes to it."""
    path, deadline = folder.resolve(), time.monotonic() + LOCK_TIMEOUT_S
    with told_in_a_sentence(folder):
        held = _HELD.pop(path, None)
        if held is not None:
            os.close(held)
        descriptor = os.open(path, os.O_RDONLY)
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise RunFolderError(
                        f"{folder}: expected a run that has ended, it is still running."
                    ) from None
                time.sleep(0.05)
        _HELD[path] = descriptor
