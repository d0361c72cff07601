"""Using another run's selection again: its neighbours and weights, from its history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilot_secure.errors import RunFolderError
from pilot_secure.run_folder import RunFolder
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
                f"{stage}: expected a run with the same rounds and schedule."
            ) from None
