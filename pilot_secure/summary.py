"""What a run tells afterwards: `summary.json` and the lines of `history.jsonl`.

Scores are in percent (CIDEr times 100), times in seconds, sizes in bytes.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pilot_secure.privacy.ledger import Release

REPORTED_PACKAGES = (
    "pilot-secure",
    "torch",
    "transformers",
    "peft",
    "datasets",
    "numpy",
    "cryptography",
    "tenseal",
    "dp-accounting",
    "opacus",
)

Status = Literal["running", "finished", "interrupted", "failed"]
Moment = Literal["before", "after_local", "after_aggregation"]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ClientSummary(_Record):
    """One client's scores; null where a run ended before they were known.

    `before` is the bare base model, `after_local` the client's model after its last local
    training, `after_aggregation` after the last aggregation (equal for methods without one). A
    client that the last cohort left out, or that dropped out, is told the means that it missed
    before it is scored; its own text adapter is combined with nobody's then (Pilot).
    `unparsed` answers, misses among the `test_samples`, had not the form that the metric needs.
    """

    client: str
    task: str
    samples: Count
    test_samples: Count
    metric: str
    before: float | None = None
    after_local: float | None = None
    after_aggregation: float | None = None
    unparsed: dict[Moment, Count] = Field(default_factory=dict)


class TaskSummary(_Record):
    """The means over a task's clients; null where one is null, or where their metrics differ."""

    task: str
    metric: str | None
    clients: Count
    before: float | None = None
    after_local: float | None = None
    after_aggregation: float | None = None
    unparsed: dict[Moment, Count] = Field(default_factory=dict)


class PhaseSummary(_Record):
    """What a phase cost over the whole run; bytes are summed over the clients."""

    phase: str
    seconds: Seconds
    upload_bytes: Count = 0
    download_bytes: Count = 0


class DropOut(_Record):
    """A client that did not answer: it vanished before the phase, or answered too late.

    Both are simulated; a client that was lost gave the engine no answer (its process died, or the
    phase's time was out).
    """

    client: str
    fault: Literal["vanished", "late", "lost"] = "vanished"
    round: Count
    stage: Literal[1, 2]
    attempt: Count
    phase: str


class ImageOverlapSummary(_Record):
    """Images of a client's test that some client, perhaps itself, also trained on.

    `samples` are the training samples about these images.
    """

    train_client: str
    train_task: str
    test_client: str
    test_task: str
    images: Count
    samples: Count


class ChangedNeighbour(_Record):
    """A neighbour that encrypted distances chose and exact ones would not have, and the other.

    Both distances are exact, between the vectors that were uploaded.
    """

    round: Count
    stage: Literal[1, 2]
    client: str
    chosen: str
    chosen_distance: float
    passed_over: str
    passed_over_distance: float


class SelectionCheck(_Record):
    """How many selections of a simulation exact distances would have made too, and the others."""

    selections: Count
    unchanged: Count
    changed: tuple[ChangedNeighbour, ...] = ()


class PrivacySummary(_Record):
    """What differential privacy the run's noise gives; `ledger.json` holds what it follows from.

    `epsilon` and `noise_multiplier` are by client; an epsilon of null is infinite, and `reasons`
    says why.
    """

    unit: Literal["example", "client"]
    adjacency: Literal["zero_out", "replace_one"]
    delta: float
    clipping_norm: float
    noise_multiplier: dict[str, float]
    epsilon: dict[str, float | None]
    reasons: dict[str, str] = {}
    caveats: tuple[str, ...] = ()


class Leakage(BaseModel):
    """What parties could learn beyond their own data; sections are added by those who measure."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Summary(_Record):
    """The whole of `summary.json`. `reason` says why a run failed or was interrupted.

    `base_sha256` is of the base model's weights as loaded (`federation.base_weights`).
    """

    schema_version: Literal[1] = 1
    status: Status
    reason: str | None = None
    name: str
    method: str
    scenario: str
    seed: Count
    secure_agg: bool
    base_sha256: str | None = None
    versions: dict[str, str]
    started_utc: str
    wall_seconds: Seconds = 0.0
    peak_memory_bytes: Count = 0
    clients: tuple[ClientSummary, ...] = ()
    tasks: tuple[TaskSummary, ...] = ()
    phases: tuple[PhaseSummary, ...] = ()
    drop_outs: tuple[DropOut, ...] = ()
    privacy: PrivacySummary | None = None
    leakage: Leakage = Leakage()
    selection_check: SelectionCheck | None = None
    image_overlaps: tuple[ImageOverlapSummary, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented, ending in a line break."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def task_summaries(clients: Sequence[ClientSummary]) -> tuple[TaskSummary, ...]:
    """One summary for each task, in the order of the clients."""
    tasks: dict[str, list[ClientSummary]] = {}
    for client in clients:
        tasks.setdefault(client.task, []).append(client)
    return tuple(_task_summary(task, group) for task, group in tasks.items())


def _task_summary(task: str, clients: list[ClientSummary]) -> TaskSummary:
    metric = clients[0].metric if len({client.metric for client in clients}) == 1 else None
    unparsed: dict[Moment, int] = {}
    for moment in set.intersection(*(set(client.unparsed) for client in clients)):
        unparsed[moment] = sum(client.unparsed[moment] for client in clients)
    return TaskSummary(
        task=task,
        metric=metric,
        clients=len(clients),
        before=_mean(metric, [client.before for client in clients]),
        after_local=_mean(metric, [client.after_local for client in clients]),
        after_aggregation=_mean(metric, [client.after_aggregation for client in clients]),
        unparsed=unparsed,
    )


def _mean(metric: str | None, scores: list[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    if metric is None or len(known) < len(scores):
        return None
    return sum(known) / len(known)


@dataclass(frozen=True)
class StartOfRun:
    """The moment a run began, by the calendar and by the clock that never jumps (seconds)."""

    utc: datetime = field(default_factory=lambda: datetime.now(UTC))
    monotonic: float = field(default_factory=time.monotonic)

    def seconds_since(self) -> float:
        """Seconds of wall time since then."""
        return time.monotonic() - self.monotonic

    def continuing(self, utc: str, seconds: float) -> StartOfRun:
        """The start of a run that began then and had taken so long before it was killed."""
        return StartOfRun(datetime.fromisoformat(utc), self.monotonic - seconds)


class TrainingRecord(_Record):
    """Mean losses of a client's local training, by the name of the loss; null if not finite."""

    kind: Literal["training"] = "training"
    round: Count
    stage: Literal[1, 2]
    client: str
    epoch: Count
    steps: Count
    losses: dict[str, float | None]


class ScoreRecord(_Record):
    """A client's model, scored."""

    kind: Literal["score"] = "score"
    round: Count
    stage: Literal[0, 1, 2]
    client: str
    moment: Moment
    metric: str
    value: float
    count: Count
    unparsed: Count


class SelectionRecord(_Record):
    """The text adapters a client was given a mix of, and their weights before normalising.

    Secrecy: the client's own; the run folder of a simulation holds what every party holds.
    """

    kind: Literal["selection"] = "selection"
    round: Count
    stage: Literal[1, 2]
    client: str
    neighbours: tuple[str, ...]
    weights: tuple[float, ...]
    distances: dict[str, float]


class ReleaseRecord(_Record):
    """What left a client, or could, and under which noise: an entry of `ledger.json`."""

    kind: Literal["release"] = "release"
    round: Count
    stage: Literal[1, 2]
    client: str
    release: Release


HistoryRecord = Annotated[
    TrainingRecord | ScoreRecord | SelectionRecord | ReleaseRecord, Field(discriminator="kind")
]
_HISTORY: TypeAdapter[HistoryRecord] = TypeAdapter(HistoryRecord)


def parse_summary(content: bytes) -> Summary:
    """The summary in a `summary.json`. Raises: ValueError."""
    return Summary.model_validate_json(content)


def parse_history_record(line: bytes) -> HistoryRecord:
    """The record in a line of `history.jsonl`. Raises: ValueError."""
    return _HISTORY.validate_json(line)


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of both files, by file name."""
    return {
        "summary.json": Summary.model_json_schema(),
        "history.jsonl": _HISTORY.json_schema(),
    }


def installed_versions(packages: Iterable[str] = REPORTED_PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages, "absent" where one is not installed."""
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def peak_memory_bytes() -> int:
    """Largest resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
