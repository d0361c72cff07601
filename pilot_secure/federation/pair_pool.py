"""Worker processes for the pairs of encrypted distances under key-holder trust."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from pilot_secure.engines.processes import depend_on_the_starter
from pilot_secure.errors import FederationError
from protocols.pair_jobs import PairJob, Results


@dataclass(frozen=True)
class PairPool:
    """Processes that are started for one evaluation and end with it.

    They hold public bytes only. ``count`` is 1, which starts none, inside a process of the engine
    `processes`, which may have no children.
    """

    count: int

    @classmethod
    def of_this_machine(cls) -> PairPool:
        """One process per core."""
        alone = multiprocessing.current_process().daemon
        return cls(1 if alone else os.cpu_count() or 1)

    def run(
        self, function: Callable[[PairJob], Results], jobs: Iterable[PairJob]
    ) -> Iterator[Results]:
        """Yield the function's result of every job; what it raises is raised here.

        Raises: FederationError if a process died.
        """
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.count, context, initializer=depend_on_the_starter)
        try:
            yield from pool.map(function, jobs)
        except BrokenProcessPool:
            raise FederationError(
                "A process that computed encrypted distances died: is there memory for one on each "
                "of the cores?"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
