"""Runs of a comparison as cells: each one a file, so that a killed benchmark goes on where it was.

A cell is one configuration with its seed. Its file is written at once or not at all, under a name
that its settings decide; what is there is not run again. Cells run in processes of their own, one
thread each.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.engines.processes import end_with_the_starter
from pilot_secure.errors import FederationError, RunFolderError, UsageError
from pilot_secure.federation.methods import METHODS
from pilot_secure.files import told_in_a_sentence, write_atomically
from pilot_secure.summary import ClientSummary, PhaseSummary

Settings = Mapping[str, Any]
Clients = tuple[ClientSummary, ...]
ROOT = Path(__file__).parents[1]
START_SECONDS, STEP_SECONDS, ANSWER_SECONDS = 20.0, 0.08, 0.007
"""Of a cell's one thread on the embedded model: data, loading and features; a step of 8 samples; an
answer (`benchmarks.step_cost` with one thread)."""


def merged(*layers: Settings) -> dict[str, Any]:
    """Nested settings, later ones on top."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = result.get(name)
            nested = isinstance(value, Mapping) and isinstance(before, Mapping)
            result[name] = merged(before, value) if nested else value
    return result


class Result(BaseModel):
    """What a finished cell wrote down. None: it was made before this was noted."""

    model_config = ConfigDict(frozen=True)

    label: str
    code_sha256: str
    wall_seconds: float
    cpu_seconds: float | None = None
    settings: dict[str, Any]
    clients: Annotated[Clients, Field(min_length=1)]
    phases: tuple[PhaseSummary, ...]
    versions: dict[str, str]
    base_sha256: str | None = None
    ledger: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run: nested settings on top of the defaults, and what it is called in messages."""

    label: str
    settings: Settings

    @cached_property
    def config(self) -> SimulationConfig:
        """The checked configuration. Raises: ConfigError."""
        return validate(SimulationConfig, self.settings, file=self.label)

    @cached_property
    def id(self) -> str:
        """What its settings are, in 16 hexadecimal digits."""
        text = self.config.model_dump_json(exclude={"run": {"out", "name"}})
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def file(self, folder: Path) -> Path:
        """Where its result is, or will be."""
        return folder / "cells" / f"{self.id}.json"

    def result(self, folder: Path) -> Result | None:
        """Return what the cell wrote down, None if it has not been run. Raises: RunFolderError."""
        path = self.file(folder)
        if not path.exists():
            return None
        with told_in_a_sentence(path):
            content = path.read_bytes()
        try:
            return Result.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RunFolderError(
                f"{path}: expected a finished cell, but {where} is wrong ({first['msg']}); delete "
                "it and call again to run the cell anew."
            ) from None

    @property
    def expected_seconds(self) -> float | None:
        """Expected seconds of computing; None before the user's own data are read."""
        data, federation, training = self.config.data, self.config.federation, self.config.training
        if data.scenario == "files":
            return None
        method = METHODS[federation.method](self.config, tasks=tuple(self.config.task_sizes()))
        stages = sum(len(method.stages(number + 1)) for number in range(federation.rounds))
        epochs, clients = stages * training.epochs, self.config.num_clients
        steps = clients * epochs * -(-data.samples_per_client // training.batch_size)
        answers = clients * data.test_samples * (2 + federation.score_base)
        return START_SECONDS + steps * STEP_SECONDS + answers * ANSWER_SECONDS


def code_sha256() -> str:
    """Return a hash of the package's source, which a cell notes down beside its result."""
    digest = hashlib.sha256()
    for package in ("pilot_secure", "protocols"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run_cells(cells: Sequence[Cell], folder: Path, jobs: int) -> list[str]:
    """Run the cells that have no file yet; return what went wrong, each thing once.

    States the expected time first and progress after each cell, on standard error. Raises:
    RunFolderError for a folder or a finished cell that cannot be used; UsageError or
    FederationError where one of them, the same, ended all that was to run.
    """
    with told_in_a_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
    first = {cell.id: cell for cell in reversed(cells)}  # by its first name, where it has several
    todo = [cell for cell in reversed(first.values()) if not cell.file(folder).exists()]
    there = [cell for cell in first.values() if cell.file(folder).exists()]
    code = code_sha256()
    _say(f"{len(todo)} cells to run, {len(there)} are there; {_expectation(todo, jobs)}")
    _say_what_is_older(there, folder, code)
    problems = _carry_out_all(todo, folder, jobs, code) if todo else []
    _say_where_bases_differ(first.values(), folder)
    return problems


def _carry_out_all(todo: Sequence[Cell], folder: Path, jobs: int, code: str) -> list[str]:
    failed: dict[tuple[type[Exception], str], list[str]] = {}
    killed: list[str] = []
    started = time.monotonic()
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    os.environ.update({name: os.environ.get(name, value) for name, value in environment.items()})
    pool = ProcessPoolExecutor(
        min(jobs, len(todo)), mp_context=get_context("spawn"), initializer=end_with_the_starter
    )
    try:
        pending = {pool.submit(carry_out, cell, folder, code): cell for cell in todo}
        for done, future in enumerate(as_completed(pending), 1):
            cell = pending[future]
            try:
                told = f"{future.result():.0f} s"
            except (UsageError, FederationError) as error:
                failed.setdefault((type(error), str(error)), []).append(cell.label)
                told = f"failed: {error}"
            left = (time.monotonic() - started) / done * (len(todo) - done) / 60
            _say(f"[{done}/{len(todo)}] {cell.label}: {told}; about {left:.0f} min left")
    except BrokenProcessPool:
        killed = ["a process was killed; what is finished is kept"]
    except KeyboardInterrupt:
        _say("what is finished is kept, call again to go on")
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    problems = [f"{_first_of(labels)}: {error}" for (_, error), labels in failed.items()]
    if [len(labels) for labels in failed.values()] == [len(todo)]:
        ((kind, _),) = failed
        raise (UsageError if issubclass(kind, UsageError) else FederationError)(problems[0])
    return problems + killed


def _first_of(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]}, and {len(labels) - 1} more"


def carry_out(cell: Cell, folder: Path, code: str) -> float:
    """Run one cell and write its file; return its wall seconds. Raises: UsageError and others."""
    import torch
    from rich.console import Console

    from pilot_secure.libraries import quieten_libraries
    from pilot_secure.progress import RunProgress
    from pilot_secure.run_folder import RunFolder
    from pilot_secure.simulation import prepare

    quieten_libraries()
    torch.set_num_threads(1)
    before = _cpu_seconds()
    with tempfile.TemporaryDirectory() as place:
        run = RunFolder.create(Path(place) / "run", cell.config.run_name)
        with RunProgress(Console(file=io.StringIO())) as progress:
            simulation = prepare(cell.config, run, progress)
            with run.recording(simulation.summary):
                simulation.run()
        summary = run.read_summary()
        ledger = json.loads((run.path / "ledger.json").read_text())
    result = Result(
        label=cell.label,
        code_sha256=code,
        wall_seconds=summary.wall_seconds,
        cpu_seconds=_cpu_seconds() - before,
        settings=cell.config.model_dump(mode="json", exclude={"run": {"out", "name"}}),
        clients=summary.clients,
        phases=summary.phases,
        versions=summary.versions,
        base_sha256=summary.base_sha256,
        ledger=ledger,
    )
    write_atomically(cell.file(folder), result.model_dump_json(indent=1).encode() + b"\n")
    return summary.wall_seconds


def _say_what_is_older(cells: Sequence[Cell], folder: Path, code: str) -> None:
    """Say how many finished cells come from other code: a file's name is that of its settings."""
    results = [cell.result(folder) for cell in cells]
    older = sum(result is None or result.code_sha256 != code for result in results)
    if older:
        _say(
            f"{older} of those that are there were run by another version of the code, and count "
            f"all the same; for new ones, use another --out or delete {folder / 'cells'}"
        )


def _say_where_bases_differ(cells: Iterable[Cell], folder: Path) -> None:
    """Say where one base checkpoint's name stood for several: a file's name has the name alone."""
    found: dict[str, set[str | None]] = {}
    for cell in cells:
        result = cell.result(folder)
        if result is not None:
            found.setdefault(cell.config.model.base, set()).add(result.base_sha256)
    for base, hashes in found.items():
        if len(hashes) > 1:
            _say(
                f"model.base {base}: the runs that are there started from {len(hashes)} different "
                f"checkpoints of this name, which do not compare; delete {folder / 'cells'}"
            )


def _cpu_seconds() -> float:
    """Seconds that this process and its children have computed, whoever else used the cores."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _expectation(cells: Iterable[Cell], jobs: int) -> str:
    seconds = [cell.expected_seconds for cell in cells]
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return "the expected time is not known before data are read"
    return f"expected: about {sum(known) / jobs / 60:.0f} min with {jobs} processes"


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
