"""The errors that a person, rather than a program, has to put right.

    ToldError                    told in a sentence, without a traceback
    ├── UsageError               a mistake of whoever started the command: exit code 2
    │   ├── ConfigError          configuration file or command line (pilot_secure.command_line)
    │   ├── RunFolderError       a run folder that cannot be made, written or read (run_folder)
    │   │   └── TranscriptError  a transcript whose chain or payloads do not fit (transcript)
    │   ├── DataError            the user's own data (data.conversations, data.images)
    │   ├── CheckpointError      a base model that cannot be loaded (models.base)
    │   └── MetricError          a metric that does not fit its records (metrics)
    └── FederationError          a run that could not go on (federation.server): exit code 3

The text of a `UsageError` is one sentence (one line per problem where several are reported
together) that names the field or file, what it held and what was expected.
`pilot_secure.command_line.main` prints what a `ToldError` says and ends with its exit code.
"""

from __future__ import annotations

import errno
from typing import ClassVar

_SYSTEM_SENTENCES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "there is no such file or folder",
}


class ToldError(Exception):
    """What ends a command with one sentence and `exit_code`, and no traceback."""

    exit_code: ClassVar[int]


class UsageError(ToldError):
    """A mistake of the caller, told in one sentence: what was given and what was expected."""

    exit_code = 2


class FederationError(ToldError):
    """The run cannot go on: an aggregation failed in every attempt."""

    exit_code = 3


class ConfigError(UsageError):
    """One or more fields of the configuration are wrong.

    `problems` holds one sentence per field; the text of the error is these, one to a line.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class RunFolderError(UsageError):
    """A run folder that cannot be created, written or read."""


class TranscriptError(RunFolderError):
    """A transcript whose records do not follow from each other, or whose payloads differ."""


class DataError(UsageError):
    """The user's data files are missing, malformed or too often broken."""


class MetricError(UsageError):
    """A metric is unknown, or the records lack what it needs."""


def told_again(exit_code: int, text: str) -> ToldError:
    """An error that another process told, with its text and exit code."""
    kinds: tuple[type[ToldError], ...] = (UsageError, FederationError)
    return next(kind for kind in kinds if kind.exit_code == exit_code)(text)


def is_callers_mistake(error: OSError) -> bool:
    """Whether the disk, its permissions or a missing file caused it, rather than a defect."""
    return error.errno in _SYSTEM_SENTENCES


def os_sentence(error: OSError, path: object = None) -> str:
    """One sentence for an error of the operating system: the file, and what is wrong."""
    reason = _SYSTEM_SENTENCES.get(error.errno or 0) or error.strerror or "it cannot be used"
    where = path or error.filename
    return f"{where}: {reason}." if where else f"{reason[0].upper()}{reason[1:]}."
