"""The phases of a client that need its data and its model: the only ones that load torch."""

from __future__ import annotations

import io

from rich.console import Console

from pilot_secure.client_host import ClientHost, Enrolment
from pilot_secure.engines import PhaseKey
from pilot_secure.federation.journal import RelayedJournal, RunJournal, take_note
from pilot_secure.flower.party import PartInRun
from pilot_secure.flower.reported import lines_to_report
from pilot_secure.flower.terms import Terms, read_config, read_terms
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models.base import CheckpointError
from pilot_secure.progress import RunProgress
from pilot_secure.run_data import load_data
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import HistoryRecord


def answer(part: PartInRun, phase: PhaseKey, request: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Load the client, take home the last aggregation, answer, and keep what changed.

    Returns the reply, and the lines of the client's history that it reports with it.
    """
    quieten_libraries()
    config, terms = read_config(part.party), read_terms(part.party)
    data, _ = load_data(config)
    enrolment = Enrolment(
        config=config,
        run_id=part.run_id,
        folder=part.path,
        roster=part.party.roster,
        tasks=terms.tasks,
        max_samples=terms.max_samples,
        secrets={part.name: part.party.identity.secret()},
        noise=terms.noise_plan,
    )
    host = ClientHost(enrolment, data, RelayedJournal(part.notes.append))
    _check_model(host, terms, part.name)
    client, result = host.clients[part.name], part.result()
    if result is not None:
        client.absorb(result)
    reply = host.handle(part.name, phase, request)
    if phase.name == "train" and client.trained_at == (phase.round, phase.stage):
        if config.exchanges and config.security.secure_agg:
            part.brief(client.brief(), config.security.max_attempts)
        part.forget_aggregation()
    if phase.name == "evaluate" and phase.round:
        host.finish()
    lines = lines_to_report(_enter(part), metrics=config.run.report_metrics)
    part.keep_notes()
    return reply, lines


def _check_model(host: ClientHost, terms: Terms, name: str) -> None:
    report = host.report
    if report.base_sha256 != terms.base_sha256:
        raise CheckpointError(
            f"model.base of {name} has SHA-256 {report.base_sha256}: expected "
            f"{terms.base_sha256}, the base model that was agreed on."
        )
    if dict(report.vector_lengths) != dict(terms.vector_lengths):
        raise CheckpointError(
            f"model.base of {name} gives vectors of {dict(report.vector_lengths)}: expected "
            f"{dict(terms.vector_lengths)}, as agreed on."
        )


def _enter(part: PartInRun) -> list[HistoryRecord]:
    """Write the notes into the client's own history; return the records that are new."""
    folder = RunFolder(part.path)
    before = sum(1 for _ in folder.history_so_far())
    journal = RunJournal(folder, RunProgress(Console(file=io.StringIO())))
    for note in part.notes:
        take_note(journal, note)
    folder.close()
    return list(folder.history_so_far())[before:]
