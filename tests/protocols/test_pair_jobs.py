"""Pairs cut into jobs: each once, evenly, and with the same results whoever works on them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest

from protocols import key_holder
from protocols.entropy import Entropy
from protocols.errors import BadDistance
from protocols.key_holder import DistanceServer, KeyHolder, KeyHolderClient
from protocols.pair_jobs import PairJob, Results, cut_pairs

SET, LENGTH = "holder-8192", 40
PAIRS = list(combinations([f"client-{number:02}" for number in range(1, 6)], 2))


@dataclass
class Pickling:
    """Workers in this process, to which only what can be pickled comes through."""

    count: int
    jobs: list[PairJob] = field(default_factory=list)

    def run(
        self, function: Callable[[PairJob], Results], jobs: Iterable[PairJob]
    ) -> Iterator[Results]:
        for job in jobs:
            self.jobs.append(pickle.loads(pickle.dumps(job)))
            yield pickle.loads(pickle.dumps(function(self.jobs[-1])))


@pytest.mark.parametrize("clients", [2, 3, 9, 46, 100])
@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_every_pair_is_in_one_job_and_no_worker_is_idle(clients: int, workers: int) -> None:
    pairs = list(combinations([f"{number:03}" for number in range(clients)], 2))
    parts = cut_pairs(pairs, workers)
    assert sorted(pair for part in parts for pair in part) == pairs
    assert [len(part) for part in parts] == sorted(map(len, parts), reverse=True)
    if clients >= 46:
        assert len(parts) > workers
        assert len(parts[0]) <= 1.1 * len(pairs) / workers
        loads = sum(len({name for pair in part for name in pair}) for part in parts)
        assert loads <= clients * (1 + np.sqrt(2 * workers + 2)), "not workers times clients"


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> tuple[KeyHolder, dict[str, bytes], Pickling]:
    """A key holder, five uploads under its keys, and workers that few pairs are enough for."""
    monkeypatch.setattr(key_holder, "LEAST_PAIRS", len(PAIRS))
    workers = Pickling(3)
    holder = KeyHolder(SET, LENGTH, 1.0, Entropy(), workers)
    vectors = np.random.default_rng(1).uniform(-0.1, 0.1, (5, LENGTH))
    uploads = {
        f"client-{number:02}": KeyHolderClient(row, SET, 1.0, bytes(16)).upload(holder.keys())
        for number, row in enumerate(vectors, 1)
    }
    return holder, uploads, workers


def test_workers_return_what_one_process_would(spread) -> None:
    holder, uploads, workers = spread
    alone = DistanceServer(SET, LENGTH, holder.keys())
    shared = DistanceServer(SET, LENGTH, holder.keys(), workers)
    assert shared.evaluate(uploads) == alone.evaluate(uploads)
    assert len(workers.jobs) == 5 > workers.count
    assert sorted(pair for job in workers.jobs for pair in job.pairs) == PAIRS
    for job in workers.jobs:
        assert set(job.uploads) == {name for pair in job.pairs for name in pair}
    workers.jobs.clear()
    rows = holder.release(uploads, shared.digests(uploads))
    assert len(workers.jobs) == 10 and set(rows) == set(uploads)


def test_a_few_pairs_or_one_worker_stay_here(spread) -> None:
    holder, uploads, workers = spread
    DistanceServer(SET, LENGTH, holder.keys(), workers).evaluate(uploads, PAIRS[1:])
    alone = Pickling(1)
    DistanceServer(SET, LENGTH, holder.keys(), alone).evaluate(uploads)
    assert workers.jobs == alone.jobs == []


def test_a_spoilt_upload_names_its_sender_across_processes(spread) -> None:
    holder, uploads, workers = spread
    uploads["client-04"] = uploads["client-04"][:-1] + b"\0"
    with pytest.raises(BadDistance, match="client-04"):
        DistanceServer(SET, LENGTH, holder.keys(), workers).evaluate(uploads)
    error = pickle.loads(pickle.dumps(BadDistance("client-04", "distances", "damaged")))
    assert (error.party, str(error)) == ("client-04", "distances: client-04: damaged")
