"""Progress of a long run, with the time that is left.

Work is counted in expected seconds on a reference laptop, so that phases of different kinds add
up; the estimate of what is left scales them by how fast this machine has been so far.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pilot_secure.interruption import raise_if_interrupted

LINE_INTERVAL_S = 10.0


class RunProgress:
    """A progress bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._total: float | None = None
        self._done = 0.0
        self._what = "starting"
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<46}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(self._what, total=None)

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, seconds: float) -> None:
        """Say how much work there is, in expected seconds; the time left counts from here."""
        self._total = max(seconds, 1e-9)
        self._start = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    @property
    def done(self) -> float:
        """Expected seconds of the work that is finished."""
        return self._done

    def describe(self, what: str) -> None:
        """Say what is being done now.

        Raises: KeyboardInterrupt if the user interrupted, and whoever saw it swallowed it.
        """
        raise_if_interrupted()
        self._what = what
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def advance(self, expected_seconds: float) -> None:
        """Count finished work.

        Raises: KeyboardInterrupt if the user interrupted, and whoever saw it swallowed it.
        """
        raise_if_interrupted()
        total = self._total if self._total is not None else float("inf")
        self._done = min(self._done + expected_seconds, total)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            self._console.print(self._line(now), highlight=False)
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        if self._total is None:
            return self._what
        share = self._done / self._total
        left = (now - self._start) * (1 - share) / max(share, 1e-6)
        minutes, seconds = divmod(int(left), 60)
        return f"{share:4.0%}  about {minutes}:{seconds:02d} left  {self._what}"
