"""Who looks on while a run goes on, where asked for: a tracker and a structured log."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pilot_secure.config import SimulationConfig
from pilot_secure.engines import Transport
from pilot_secure.event_log import EventLog, LoggedTransport, say_attempt, say_record
from pilot_secure.summary import HistoryRecord, StartOfRun
from pilot_secure.tracking import Tracking, require_tracker
from protocols import AggregationReport


class Onlookers:
    """Look on and change nothing; a context around the run itself.

    The tracker starts with the context, since it may write into the run folder; what it is shown
    before, it tracks then.
    Raises: UsageError if the tracker's package is missing or the log cannot be written.
    """

    def __init__(self, config: SimulationConfig, folder: Path, started: StartOfRun) -> None:
        require_tracker(config)
        self._config, self._folder, self._started = config, folder, started
        path = config.run.event_log
        self._log = None if path is None else EventLog(path, config.run_name)
        self._tracking: Tracking | None = None
        self._early: list[HistoryRecord] = []

    def carry(self, transport: Transport) -> Transport:
        """Return the transport as it is to be used from here on."""
        return transport if self._log is None else LoggedTransport(transport, self._log.say)

    def take(self, record: HistoryRecord) -> None:
        """See a new record of the history."""
        if self._log is not None:
            say_record(self._log.say, record)
        if self._tracking is not None:
            self._tracking.take(record)
        else:
            self._early.append(record)

    def take_attempt(self, report: AggregationReport) -> None:
        """See the end of an attempt of an aggregation."""
        if self._log is not None:
            say_attempt(self._log.say, report)

    def __enter__(self) -> None:
        config = self._config
        if self._log is not None:
            self._log.say(
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
        if self._log is not None:
            ended = "finished" if error is None else "failed"
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else ended
            reason = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
            seconds = round(self._started.seconds_since(), 3)
            self._log.say(ended, seconds=seconds, reason=reason)
            self._log.close()
