"""Worker processes for pairs, really started."""

from __future__ import annotations

import multiprocessing
import os
from itertools import combinations
from types import SimpleNamespace

import pytest

from pilot_secure.errors import FederationError
from pilot_secure.federation.pair_pool import PairPool
from protocols.errors import BadDistance
from protocols.pair_jobs import PairJob, Results

PAIRS = tuple(combinations("abcd", 2))


def named(job: PairJob) -> Results:
    """Stand for an evaluation: say which process had the job."""
    return [(pair, str(os.getpid()).encode()) for pair in job.pairs]


def damaged(job: PairJob) -> Results:
    """Find an upload at fault."""
    raise BadDistance(job.pairs[0][0], "distances", "damaged")


def dying(_job: PairJob) -> Results:
    """Die, as for want of memory."""
    os._exit(1)


def jobs() -> list[PairJob]:
    return [PairJob("holder-8192", 8, b"", {}, (pair,)) for pair in PAIRS]


def test_jobs_are_done_in_other_processes() -> None:
    results = [item for part in PairPool(2).run(named, jobs()) for item in part]
    assert [pair for pair, _ in results] == list(PAIRS)
    assert str(os.getpid()).encode() not in {process for _, process in results}
    assert multiprocessing.active_children() == []


def test_what_a_job_raises_is_raised_here() -> None:
    with pytest.raises(BadDistance) as raised:
        list(PairPool(1).run(damaged, jobs()))
    assert raised.value.party == "a"


def test_a_process_that_died_is_told_in_a_sentence() -> None:
    with pytest.raises(FederationError, match="A process that computed encrypted distances died"):
        list(PairPool(1).run(dying, jobs()))


def test_a_process_that_may_have_no_children_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PairPool.of_this_machine().count == os.cpu_count()
    child = SimpleNamespace(daemon=True)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: child)
    assert PairPool.of_this_machine().count == 1
