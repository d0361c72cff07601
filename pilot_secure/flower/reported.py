"""What clients tell the server of themselves, beside the protocol: releases, metrics if they may.

A release says which noise protects an update, and belongs into the run's ledger; it is no secret.
Losses and scores stay with a client unless its own configuration sets ``run.report_metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from pilot_secure.federation.journal import Journal
from pilot_secure.metrics import MetricScore
from pilot_secure.summary import (
    HistoryRecord,
    ReleaseRecord,
    ScoreRecord,
    TrainingRecord,
    parse_history_record,
)

METRICS = (TrainingRecord, ScoreRecord)


def lines_to_report(records: Iterable[HistoryRecord], *, metrics: bool) -> tuple[str, ...]:
    """Return what of a client's history goes to the server, as JSON lines."""
    kinds = (ReleaseRecord, *METRICS) if metrics else (ReleaseRecord,)
    return tuple(record.model_dump_json() for record in records if isinstance(record, kinds))


def enter_reported(journal: Journal, client: str, lines: Iterable[str]) -> None:
    """Enter into the server's journal what a client reported.

    Raises: ValueError for a line that is no record, or another client's.
    """
    for line in lines:
        record = parse_history_record(line.encode())
        if record.client != client:
            raise ValueError(f"{client} reports a record of {record.client}")
        match record:
            case ReleaseRecord():
                journal.released(client, record.release)
            case TrainingRecord():
                means = {k: math.nan if v is None else v for k, v in record.losses.items()}
                journal.losses(
                    client, record.round, record.stage, record.epoch, record.steps, means
                )
            case ScoreRecord():
                score = MetricScore(record.metric, record.value, record.count, record.unparsed)
                journal.score(client, record.round, record.stage, record.moment, score)
