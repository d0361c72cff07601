"""What a deployment's clients keep to themselves, brought into the run folder: for simulations.

On one machine all parties' folders have one owner, so its run folder may hold what any engine's
does: adapters, scores, selections. Between organisations nobody could, or should, run this.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from pilot_secure.federation import checkpoint
from pilot_secure.federation.journal import RunJournal, take_note
from pilot_secure.flower.party import NOTES
from pilot_secure.flower.party_folder import PartyFolder
from pilot_secure.flower.terms import read_config
from pilot_secure.progress import RunProgress
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import ClientSummary, Summary, task_summaries
from protocols.identity import SERVER


def gather(folder: RunFolder, parties: Path) -> None:
    """Add to a finished run what its clients' folders in ``parties`` hold of it.

    Raises: RunFolderError where a folder cannot be read.
    """
    journal = RunJournal(folder, RunProgress(Console(file=io.StringIO())))
    for kept in _kept(parties):
        _copy_adapters(kept, folder)
        for note in _notes(kept):
            take_note(journal, note)
    for round_number, stage in sorted(journal.results):
        journal.write_selections(round_number, stage)
    folder.close()
    exchanges = read_config(PartyFolder(parties / SERVER)).exchanges
    folder.write_summary(_with_scores(folder.read_summary(), journal, exchanges=exchanges))


def _kept(parties: Path) -> Iterator[Path]:
    """Yield each client's folder of the run that it took part in last, in the roster's order."""
    for entry in PartyFolder(parties / SERVER).roster.clients:
        party = PartyFolder(parties / entry.name)
        if party.run_id is not None:
            yield party.run_folder(party.run_id)


def _copy_adapters(kept: Path, folder: RunFolder) -> None:
    adapters = kept / "adapters"
    if adapters.exists():
        shutil.copytree(adapters, folder.path / "adapters", dirs_exist_ok=True)


def _notes(kept: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for path in sorted((kept / NOTES).glob("[0-9]*")):
        yield from checkpoint.load(path)


def _with_scores(summary: Summary, journal: RunJournal, *, exchanges: bool) -> Summary:
    clients = tuple(_scored(client, journal, exchanges) for client in summary.clients)
    return summary.model_copy(update={"clients": clients, "tasks": task_summaries(list(clients))})


def _scored(client: ClientSummary, journal: RunJournal, exchanges: bool) -> ClientSummary:
    scores = journal.scores.get(client.client, {})
    unparsed = dict(journal.unparsed.get(client.client, {}))
    after_local = scores.get("after_local")
    if not exchanges and "after_local" in unparsed:
        unparsed["after_aggregation"] = unparsed["after_local"]
    return client.model_copy(
        update={
            "before": scores.get("before"),
            "after_local": after_local,
            "after_aggregation": scores.get("after_aggregation") if exchanges else after_local,
            "unparsed": unparsed,
        }
    )
