"""Pairs of encrypted distances cut into jobs for worker processes.

The binding of SEAL holds the interpreter's lock, so that threads gain nothing. A process has to
load the uploads of its pairs again; so clients are cut into groups, and a job has the pairs between
two groups: with g groups each upload is loaded g times in all, and a process holds 2/g of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Protocol

from protocols.distance_table import Pair

LEAST_PAIRS = 1000
"""With fewer, starting processes eats up what two of them gain (SPEC-distances.md, section 11)."""

Results = list[tuple[Pair, bytes]]


@dataclass(frozen=True)
class PairJob:
    """Some pairs, and all that evaluating them takes; public to server and key holder."""

    parameter_set: str
    sketch_length: int
    keys: bytes = field(repr=False)
    uploads: Mapping[str, bytes] = field(repr=False)
    pairs: tuple[Pair, ...]


class PairWorkers(Protocol):
    """Processes that whoever drives a machine provides.

    ``count`` of them work at a time; ``run`` calls a function of a module on each job, in
    whatever processes, and yields the results. What a job raises, ``run`` raises.
    """

    @property
    def count(self) -> int:
        """How many jobs are worked on at a time."""

    def run(
        self, function: Callable[[PairJob], Results], jobs: Iterable[PairJob]
    ) -> Iterable[Results]:
        """Yield the function's result of every job."""


def cut_pairs(pairs: Collection[Pair], workers: int) -> list[tuple[Pair, ...]]:
    """Return the pairs by pairs of groups, longest first: more parts than there are workers."""
    names = sorted({name for pair in pairs for name in pair})
    groups = 1
    while groups * (groups + 1) // 2 <= workers:
        groups += 1
    group_of = {name: place * groups // len(names) for place, name in enumerate(names)}
    parts: dict[tuple[int, ...], list[Pair]] = {
        both: [] for both in combinations_with_replacement(range(groups), 2)
    }
    for one, other in sorted(pairs):
        parts[tuple(sorted((group_of[one], group_of[other])))].append((one, other))
    return sorted((tuple(part) for part in parts.values() if part), key=len, reverse=True)
