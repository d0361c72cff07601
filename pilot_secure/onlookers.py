"""Who looks on while a run goes on, where asked for: a tracker and a structured log."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

from pilot_secure.config import SimulationConfig
from pilot_secure.engines import Transport
from pilot_secure.errors import RunFolderError
from pilot_secure.event_log import EventLog, LoggedTransport, say_attempt, say_record
from pilot_secure.summary import HistoryRecord, StartOfRun
from pilot_secure.tracking import Tracking, require_tracker
from protocols import AggregationReport


class Onlookers:
    """Look on and change nothing; a context around the run itself.

    The tracker starts with the context, since it may write into the run folder; what it is shown
    before, it tracks then. A log that can no longer be written (its reader is gone, the disk full)
    ends there, and ``notes`` says why; the run goes on.
    Raises: UsageError if the tracker's package is missing or the log cannot be written.
    """

    def __init__(self, config: SimulationConfig, folder: Path, started: StartOfRun) -> None:
        require_tracker(config)
        self._config, self._folder, self._started = config, folder, started
        path = config.run.event_log
        self._log = None if path is None else EventLog(path, config.run_name)
        self._tracking: Tracking | None = None
        self._early: list[HistoryRecord] = []
        self.notes: list[str] = []

    def carry(self, transport: Transport) -> Transport:
        """Return the transport as it is to be used from here on."""
        return transport if self._log is None else LoggedTransport(transport, self._say)

    def take(self, record: HistoryRecord) -> None:
        """See a new record of the history."""
        say_record(self._say, record)
        if self._tracking is not None:
            self._tracking.take(record)
        else:
            self._early.append(record)

    def take_attempt(self, report: AggregationReport) -> None:
        """See the end of an attempt of an aggregation."""
        say_attempt(self._say, report)

    def _say(self, event: str, **fields: Any) -> None:
        """Write to the log while there is one that takes it."""
        if self._log is None:
            return
        try:
            self._log.say(event, **fields)
        except RunFolderError as error:
            self.notes.append(f"run.event_log ends with {event!r}, the run went on: {error}")
            self._close_log()

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with contextlib.suppress(OSError):  # what a full disk could not take was told
                log.close()

    def __enter__(self) -> None:
        config = self._config
        self._say(
            "start",
            folder=str(self._folder),
            method=config.federation.method,
            scenario=config.data.scenario,
            engine=config.run.engine,
            secure_agg=config.security.secure_agg,
        )
        if config.run.tracker is not None:
            self._tracking = Tracking(config, self._folder)
            for record in self._early:
                self._tracking.take(record)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tracking is not None:
            self._tracking.close()
        ended = "finished" if error is None else "failed"
        ended = "interrupted" if isinstance(error, KeyboardInterrupt) else ended
        reason = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
        self._say(ended, seconds=round(self._started.seconds_since(), 3), reason=reason)
        self._close_log()
