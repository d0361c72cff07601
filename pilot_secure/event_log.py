"""Structured logs: one JSON line for each event of a run.

    {"utc": "2026-01-31T12:00:00.123+00:00", "run": "general-vqa-pilot", "event": "phase", ...}

`start`, `phase` (an exchange: seconds, bytes, who did not answer), `attempt` (of an aggregation),
`training`, `score`, and how it ended: `finished`, `interrupted` or `failed`, with the reason.
Secrecy: a simulation's log holds what every party notes; no frame, key or coordinate.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pilot_secure.engines import PhaseKey, Transport
from pilot_secure.files import told_in_a_sentence, write_all
from pilot_secure.summary import HistoryRecord, ScoreRecord, TrainingRecord
from protocols import AggregationReport

Say = Callable[..., None]
"""Takes the name of an event, and its fields by name."""


class EventLog:
    """Appends to a file, a pipe or a terminal such as `/dev/stderr`; several runs may share it.

    Raises: RunFolderError if it cannot be written.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path, self._run = path, run
        with told_in_a_sentence(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def say(self, event: str, **fields: Any) -> None:
        """Write one event. Raises: RunFolderError."""
        utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"utc": utc, "run": self._run, "event": event, **fields}
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with told_in_a_sentence(self._path):
            write_all(self._descriptor, line.encode())

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class LoggedTransport:
    """Says what every exchange took, and who did not answer."""

    def __init__(self, inner: Transport, say: Say) -> None:
        self._inner, self._say = inner, say

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Carry the exchange."""
        start = time.perf_counter()
        replies = self._inner.exchange(phase, requests, timeout_s)
        self._say(
            "phase",
            phase=phase.name,
            round=phase.round,
            stage=phase.stage,
            attempt=phase.attempt,
            seconds=round(time.perf_counter() - start, 6),
            download_bytes=sum(map(len, requests.values())),
            upload_bytes=sum(len(reply) for reply in replies.values() if reply is not None),
            asked=len(requests),
            lost=[client for client, reply in replies.items() if reply is None],
        )
        return replies


def say_record(say: Say, record: HistoryRecord) -> None:
    """Say a training or a score; selections and releases have files of their own."""
    if isinstance(record, TrainingRecord | ScoreRecord):
        fields = record.model_dump(mode="json")
        say(fields.pop("kind"), **fields)


def say_attempt(say: Say, report: AggregationReport) -> None:
    """Say how an attempt of an aggregation ended."""
    parameters = report.parameters
    say(
        "attempt",
        round=parameters.round,
        stage=parameters.stage,
        attempt=parameters.attempt,
        aborted=report.aborted,
        left_out=dict(report.faults),
        opened=len(report.opened),
        sums=len(parameters.sums),
    )
