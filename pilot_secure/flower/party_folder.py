"""A party's folder: who it is, whom it knows, and what was agreed on before the run.

    identity.json   its own long-term key, for its owner's eyes (0600)
    roster.json     everybody's public identities
    config.yaml     the configuration of the run
    terms.json      tasks, bounds and lengths (`pilot_secure.flower.terms`)
    run             the name of the run that it takes part in now
    runs/<name>/    what it keeps of a run: a run folder of its own, with state/ and adapters/

All but the identity are public and equal for everybody: each party has them before the run, from
its partners and not from the server.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from pilot_secure.errors import RunFolderError
from pilot_secure.files import make_private_folder, told_in_a_sentence, write_atomically
from protocols import Identity, ParameterError, Roster
from protocols.identity import NAME_PATTERN
from protocols.identity_command import identity_from_line, identity_line

IDENTITY, ROSTER, CONFIG, TERMS, RUN = (
    "identity.json",
    "roster.json",
    "config.yaml",
    "terms.json",
    "run",
)


class PartyFolder:
    """The files of one party. Raises: RunFolderError where one is missing or malformed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        with told_in_a_sentence(self.path / name):
            return (self.path / name).read_bytes()

    @cached_property
    def identity(self) -> Identity:
        """Its long-term identity. Secrecy: the party's."""
        try:
            return identity_from_line(self.read(IDENTITY).decode())
        except (ParameterError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self.path / IDENTITY}: {error}.") from None

    @cached_property
    def roster(self) -> Roster:
        """Everybody's public identities."""
        try:
            return Roster.model_validate_json(self.read(ROSTER))
        except ValidationError as error:
            reason = error.errors(include_input=False, include_url=False)[0]["msg"]
            raise RunFolderError(f"{self.path / ROSTER}: no roster ({reason}).") from None

    def keep_identity(self, identity: Identity) -> None:
        """Write the identity, for its owner's eyes."""
        make_private_folder(self.path)
        write_atomically(self.path / IDENTITY, f"{identity_line(identity)}\n".encode(), mode=0o600)

    def run_folder(self, run_id: str) -> Path:
        """Where the party keeps what belongs to a run, made if need be."""
        if not re.fullmatch(NAME_PATTERN, run_id):
            raise RunFolderError(f"{self.path}: {run_id!r} is no name of a run.")
        folder = self.path / "runs" / run_id
        make_private_folder(folder.parent)
        make_private_folder(folder)
        return folder

    @property
    def run_id(self) -> str | None:
        """The run that the party takes part in; None before the first."""
        if not (self.path / RUN).exists():
            return None
        return self.read(RUN).decode()

    def join(self, run_id: str) -> None:
        """Take part in a run from here on."""
        self.run_folder(run_id)
        write_atomically(self.path / RUN, run_id.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this party waiting: it answers one message after the other."""
        with told_in_a_sentence(self.path):
            descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
