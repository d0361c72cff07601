"""Using another run's selection again: its neighbours and weights, from its history.

Weights belong to the adapters they were made for, so the run has to be the same but for security.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pilot_secure.config import SimulationConfig
from pilot_secure.data import ClientData
from pilot_secure.errors import RunFolderError
from pilot_secure.federation.methods import Method
from pilot_secure.run_folder import RunFolder
from pilot_secure.saved_run import SavedRun
from pilot_secure.summary import SelectionRecord

Selections = Mapping[str, Mapping[str, float]]


class ReplayedSelections:
    """The selections of a run: by round and stage, recipient, and neighbour the weight u."""

    def __init__(self, selections: Mapping[tuple[int, int], Selections]) -> None:
        self._selections = selections

    @classmethod
    def read(cls, run: Path) -> ReplayedSelections:
        """Read the selections of a run folder.

        Raises: RunFolderError if it is no run folder or holds no selection.
        """
        found: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
        for record in RunFolder.open(run).history():
            if isinstance(record, SelectionRecord):
                weights = dict(zip(record.neighbours, record.weights, strict=True))
                found.setdefault((record.round, record.stage), {})[record.client] = weights
        if not found:
            raise RunFolderError(
                f"federation.replay_selection is {run}: expected a run with selections, its "
                "history has none."
            )
        return cls(found)

    def at(self, round_number: int, stage: int) -> Selections:
        """Return the selections of one aggregation: recipient to {neighbour: u}.

        Raises: RunFolderError if the run had no such aggregation.
        """
        try:
            return self._selections[(round_number, stage)]
        except KeyError:
            raise RunFolderError(
                f"federation.replay_selection has no aggregation of round {round_number}, stage "
                f"{stage}: expected a run that got as far."
            ) from None


class Replay(NamedTuple):
    """A run that is repeated, and the selections of all its aggregations."""

    run: SavedRun
    selections: ReplayedSelections


def open_replay(
    config: SimulationConfig, data: Sequence[ClientData], method: Method
) -> Replay | None:
    """Return the run whose selections the configuration asks for, None if it asks for none.

    Raises: RunFolderError if it cannot be read, is another run than this one would be, or ended
    before its last aggregation.
    """
    path = config.federation.replay_selection
    if path is None:
        return None
    selections, run = ReplayedSelections.read(path), SavedRun.open(path)
    check_same_configuration(run, config)
    check_same_clients(run, data)
    for round_number in range(1, config.federation.rounds + 1):
        for stage in method.stages(round_number):
            selections.at(round_number, stage)
    return Replay(run, selections)


def check_same_configuration(run: SavedRun, config: SimulationConfig) -> None:
    """Compare what decides a run's adapters: data, model, training, federation and seed.

    Raises: RunFolderError naming the first field that differs.
    """
    own, theirs = (c.model_dump(mode="json") for c in (config, run.config))
    fields = [
        (section, name)
        for section in ("data", "model", "training", "federation")
        for name in own[section]
        if name != "replay_selection"
    ]
    for section, name in [*fields, ("run", "seed")]:
        if own[section][name] != theirs[section][name]:
            raise RunFolderError(
                f"federation.replay_selection is {run.folder.path}: its {section}.{name} is "
                f"{theirs[section][name]}, expected {own[section][name]} as in this run."
            )


def check_same_clients(run: SavedRun, data: Sequence[ClientData]) -> None:
    """Raises: RunFolderError naming the first client whose task or sample count differs."""
    now = {client.name: (client.task, len(client.train)) for client in data}
    then = {client.client: (client.task, client.samples) for client in run.summary.clients}
    for name in [*now, *then]:
        if now.get(name) != then.get(name):
            raise RunFolderError(
                f"federation.replay_selection is {run.folder.path}: its {name} has "
                f"{_told(then.get(name))}, expected {_told(now.get(name))} as in this run."
            )


def _told(client: tuple[str, int] | None) -> str:
    return f"{client[1]} samples of task {client[0]}" if client else "no data"
