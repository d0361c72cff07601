"""Lines for a terminal that hold what others wrote: nothing in them may steer it.

A name in a hostile message could hold escape sequences or line breaks, and so write verdicts of
its own over those of a report.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Self

READER_GONE = 141
"""Exit code where the reader of a pipe has stopped: 128 + SIGPIPE, as of other commands."""


def printable(text: str) -> str:
    r"""Return the text with all that is not printable escaped, such as ``\n`` and ``\x1b``."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def say(text: str) -> None:
    """Print one line; what the terminal's encoding cannot hold is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding))


class Counter:
    """Shows on a terminal how many messages were read, in one line that goes when it is done."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._on = sys.stderr.isatty()

    def __call__(self, count: int) -> None:
        """``count`` messages were read."""
        if self._on and time.monotonic() - self._shown > 0.5:
            self._shown = time.monotonic()
            print(f"\r{count} messages read", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def leave_pipe() -> int:
    """Let go of a standard output that nobody reads; returns the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return READER_GONE
