"""What a client notes down for its own side: losses, scores, its selection.

Nothing here is sent. In a simulation every client's journal ends up in one run folder, whose
owner therefore holds what every party holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from pilot_secure.federation.exact_selection import Vector, changed_neighbours, set_aside
from pilot_secure.metrics import MetricScore
from pilot_secure.privacy.ledger import Release
from pilot_secure.progress import RunProgress
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import (
    ChangedNeighbour,
    HistoryRecord,
    Moment,
    ReleaseRecord,
    ScoreRecord,
    SelectionRecord,
    TrainingRecord,
)
from protocols import AggregationResult, Contribution

_NO_VECTOR = np.empty(0, np.float32)


class Journal(Protocol):
    """A client's own notes; round and stage are counted from 1."""

    def losses(
        self,
        client: str,
        round_number: int,
        stage: int,
        epoch: int,
        steps: int,
        means: dict[str, float],
    ) -> None:
        """Note the mean losses of an epoch, by the name of the loss."""
        ...

    def score(
        self, client: str, round_number: int, stage: int, moment: Moment, score: MetricScore
    ) -> None:
        """Note the score of the client's model."""
        ...

    def uploads(self, client: str, round_number: int, stage: int, vector: Vector) -> None:
        """Note the vector whose distances an aggregation is about to measure."""
        ...

    def contributed(
        self, client: str, round_number: int, stage: int, contribution: Contribution
    ) -> None:
        """Note what the client put into the sums of an aggregation."""
        ...

    def aggregated(
        self, client: str, round_number: int, stage: int, result: AggregationResult
    ) -> None:
        """Note what an aggregation gave the client."""
        ...

    def released(self, client: str, release: Release) -> None:
        """Note for the ledger what left the client, or could, and under which noise."""
        ...

    def progress(self, what: str, expected_seconds: float) -> None:
        """Note that some work is finished."""
        ...


class RelayedJournal:
    """A journal kept in another process: every entry goes there as a note.

    ``tell`` takes (name of the entry's method, its arguments); the other side hands both to
    :func:`take_note`. Results go without their vectors.
    """

    def __init__(self, tell: Callable[[tuple[str, tuple[Any, ...]]], None]) -> None:
        self._tell = tell

    def losses(
        self,
        client: str,
        round_number: int,
        stage: int,
        epoch: int,
        steps: int,
        means: dict[str, float],
    ) -> None:
        """Pass on the mean losses of an epoch."""
        self._tell(("losses", (client, round_number, stage, epoch, steps, means)))

    def score(
        self, client: str, round_number: int, stage: int, moment: Moment, score: MetricScore
    ) -> None:
        """Pass on a score."""
        self._tell(("score", (client, round_number, stage, moment, score)))

    def uploads(self, client: str, round_number: int, stage: int, vector: Vector) -> None:
        """Pass on a vector whose distances are measured."""
        self._tell(("uploads", (client, round_number, stage, vector)))

    def contributed(
        self, client: str, round_number: int, stage: int, contribution: Contribution
    ) -> None:
        """Pass on what the client put into the sums."""
        self._tell(("contributed", (client, round_number, stage, contribution)))

    def aggregated(
        self, client: str, round_number: int, stage: int, result: AggregationResult
    ) -> None:
        """Pass on what an aggregation gave."""
        self._tell(("aggregated", (client, round_number, stage, without_vectors(result))))

    def released(self, client: str, release: Release) -> None:
        """Pass on a release."""
        self._tell(("released", (client, release)))

    def progress(self, what: str, expected_seconds: float) -> None:
        """Pass on that some work is finished."""
        self._tell(("progress", (what, expected_seconds)))


def take_note(journal: Journal, note: tuple[str, tuple[Any, ...]]) -> None:
    """Enter into a journal what a :class:`RelayedJournal` passed on."""
    entry, arguments = note
    entries = ("losses", "score", "uploads", "contributed", "aggregated", "released", "progress")
    if entry not in entries:
        raise ValueError(f"a journal has no entries of kind {entry!r}")
    getattr(journal, entry)(*arguments)


def without_vectors(result: AggregationResult) -> AggregationResult:
    """A result without its vectors: over a run they would be many times the base model."""
    sealed = result.sealed and replace(result.sealed, vector_sum=_NO_VECTOR)
    return replace(result, means=dict.fromkeys(result.means), sealed=sealed)


class RunJournal:
    """All clients' journals of a simulation, in one run folder.

    ``scores`` holds the last score of each client and moment, ``unparsed`` how many of its answers
    had not the form that the metric needs, ``results`` each client's result by (round, stage),
    without its vectors, ``contributions`` what it put into the sums of that aggregation's last
    attempt, ``changed`` by (round, stage) each client's neighbours that exact distances would not
    have chosen (:mod:`exact_selection`), ``releases`` each client's in order. In the folder of a
    run that was killed, what its history holds already is not entered twice. ``entered`` is shown
    every loss, score and selection that is.
    """

    remembered: ClassVar[tuple[str, ...]] = ("scores", "unparsed", "results", "changed")

    def __init__(
        self,
        folder: RunFolder,
        progress: RunProgress,
        entered: Callable[[HistoryRecord], None] = lambda record: None,
    ) -> None:
        self._folder, self._progress, self._on_entry = folder, progress, entered
        history = list(folder.history_so_far())
        self._entered = {_place_of(record) for record in history}
        self.scores: dict[str, dict[Moment, float]] = {}
        self.unparsed: dict[str, dict[Moment, int]] = {}
        self.results: dict[tuple[int, int], dict[str, AggregationResult]] = {}
        self.changed: dict[tuple[int, int], dict[str, tuple[ChangedNeighbour, ...]]] = {}
        self._uploads: dict[str, Vector] = {}
        self.contributions: dict[tuple[int, int], dict[str, Contribution]] = {}
        self.releases: dict[str, list[Release]] = {}
        for record in history:
            if isinstance(record, ReleaseRecord):
                self.releases.setdefault(record.client, []).append(record.release)

    def losses(
        self,
        client: str,
        round_number: int,
        stage: int,
        epoch: int,
        steps: int,
        means: dict[str, float],
    ) -> None:
        """Write a training record."""
        finite = {name: value if math.isfinite(value) else None for name, value in means.items()}
        self._enter(
            TrainingRecord(
                round=round_number,
                stage=stage,  # type: ignore[arg-type]
                client=client,
                epoch=epoch,
                steps=steps,
                losses=finite,
            )
        )

    def score(
        self, client: str, round_number: int, stage: int, moment: Moment, score: MetricScore
    ) -> None:
        """Write a score record."""
        self.scores.setdefault(client, {})[moment] = score.value
        self.unparsed.setdefault(client, {})[moment] = score.unparsed
        self._enter(
            ScoreRecord(
                round=round_number,
                stage=stage,  # type: ignore[arg-type]
                client=client,
                moment=moment,
                metric=score.metric,
                value=score.value,
                count=score.count,
                unparsed=score.unparsed,
            )
        )

    def uploads(self, client: str, round_number: int, stage: int, vector: Vector) -> None:
        """Keep a vector until :meth:`write_selections`, to compare selections with exact ones."""
        self._uploads[client] = set_aside(vector, self._folder.path)

    def contributed(
        self, client: str, round_number: int, stage: int, contribution: Contribution
    ) -> None:
        """Keep it for the leakage report."""
        self.contributions.setdefault((round_number, stage), {})[client] = contribution

    def aggregated(
        self, client: str, round_number: int, stage: int, result: AggregationResult
    ) -> None:
        """Keep a result, without its vectors, until :meth:`write_selections`."""
        results = self.results.setdefault((round_number, stage), {})
        results[client] = without_vectors(result)

    def _enter(self, record: HistoryRecord) -> None:
        if _place_of(record) not in self._entered:
            self._folder.append_history(record)
            self._on_entry(record)

    def released(self, client: str, release: Release) -> None:
        """Write a release, once: its draw of noise tells it from all others."""
        known = self.releases.setdefault(client, [])
        if release in known:
            return
        known.append(release)
        self._folder.append_history(
            ReleaseRecord(round=release.round, stage=release.stage, client=client, release=release)
        )

    def progress(self, what: str, expected_seconds: float) -> None:
        """Pass it on to the run's progress."""
        self._progress.describe(what)
        self._progress.advance(expected_seconds)

    def write_selections(self, round_number: int, stage: int) -> None:
        """Write who was whose neighbour in an aggregation, and with which weights.

        A weight is the one that the contributor applied; a neighbour that dropped out has none
        and is left out, as it was from the sum.
        """
        results = self.results.get((round_number, stage), {})
        changed = changed_neighbours(round_number, stage, results, self._uploads)
        self._uploads = {}
        if changed:
            self.changed[round_number, stage] = changed
        for client, result in sorted(results.items()):
            if result.sealed is None:
                continue
            weights = {
                name: results[name].weights[client]
                for name in result.neighbours
                if name in results and client in results[name].weights
            }
            self._enter(
                SelectionRecord(
                    round=round_number,
                    stage=stage,  # type: ignore[arg-type]
                    client=client,
                    neighbours=tuple(weights),
                    weights=tuple(weights.values()),
                    distances=dict(result.row),
                )
            )


def _place_of(record: HistoryRecord) -> tuple[object, ...]:
    """What only one record of a run's history has: whose, of what, and when."""
    detail = getattr(record, "epoch", None) or getattr(record, "moment", None)
    return record.kind, record.round, record.stage, record.client, detail
