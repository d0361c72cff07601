"""The wiring of a simulated federation: from a configuration to a finished run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pilot_secure.client_host import ClientHost, Enrolment, HostReport
from pilot_secure.config import SimulationConfig
from pilot_secure.data import ClientData
from pilot_secure.engine_choice import require_engine, start_engine
from pilot_secure.engines import Engine
from pilot_secure.errors import FederationError
from pilot_secure.federation.checkpoint import memory_of, recall
from pilot_secure.federation.faults import FaultyTransport
from pilot_secure.federation.journal import RunJournal
from pilot_secure.federation.leakage import PrivacyOfARun, run_leakage
from pilot_secure.federation.metering import MeteredTransport
from pilot_secure.federation.recording import RecordedTransport
from pilot_secure.federation.replay import open_replay
from pilot_secure.federation.scratch import Scratch
from pilot_secure.federation.server import FederationServer
from pilot_secure.onlookers import Onlookers
from pilot_secure.privacy import Ledger
from pilot_secure.privacy.planning import NoisePlan
from pilot_secure.progress import RunProgress
from pilot_secure.run_data import (
    DataReport,
    check_drop_outs,
    expected_seconds,
    load_data,
    max_samples,
)
from pilot_secure.run_folder import RunFolder
from pilot_secure.run_privacy import (
    check_room,
    ledger_of_a_run,
    local_noise,
    noise_of_a_run,
    privacy_summary,
)
from pilot_secure.run_state import RunState
from pilot_secure.saved_run import SavedRun
from pilot_secure.summary import (
    ClientSummary,
    DropOut,
    ImageOverlapSummary,
    Leakage,
    PhaseSummary,
    SelectionCheck,
    StartOfRun,
    Summary,
    installed_versions,
    peak_memory_bytes,
    task_summaries,
)
from pilot_secure.transcript import TranscriptWriter
from protocols import SERVER, AggregationReport, Identity


class FarEnd(Protocol):
    """Clients that somebody else has started, each with a folder of its own."""

    def enrolment(self, config: SimulationConfig, folder: Path) -> tuple[Identity, Enrolment]:
        """Return the server's identity, and what all parties agreed on before the run."""
        ...

    def start(self, server: Identity, enrolment: Enrolment, journal: RunJournal) -> Engine:
        """Call the clients to the run."""
        ...


@dataclass
class Simulation:
    """One run: built by :func:`prepare`, carried out by :meth:`run`.

    ``host`` holds the clients where the engine keeps them in this process.
    """

    config: SimulationConfig
    folder: RunFolder
    data: list[ClientData]
    engine: Engine
    host: ClientHost | None
    server: FederationServer
    journal: RunJournal
    transport: MeteredTransport
    faults: FaultyTransport
    transcript: TranscriptWriter
    reports: DataReport
    started: StartOfRun
    base_sha256: str
    noise: NoisePlan | None
    progress: RunProgress
    state: RunState
    onlookers: Onlookers
    done_before: float = 0.0
    hosts_memory_bytes: int = 0

    def keep(self, left_out: Mapping[str, object]) -> None:
        """Write down where the run stands, for the case of a kill."""
        content = {
            "server": memory_of(self.server),
            "faults": memory_of(self.faults),
            "transport": memory_of(self.transport),
            "journal": memory_of(self.journal),
            "transcript": self.transcript.sync(),
            "done": self.done_before + self.progress.done,
            "started": self.started.utc.isoformat(),
            "seconds": self.started.seconds_since(),
        }
        self.state.keep(content, left_out)

    def recall(self, kept: Mapping[str, Any]) -> None:
        """Go on from where the run stood; the journal has been put back before."""
        recall(self.server, kept["server"])
        recall(self.faults, kept["faults"])
        recall(self.transport, kept["transport"])
        self.started = self.started.continuing(kept["started"], kept["seconds"])

    def summary(self) -> Summary:
        """Return what is known so far."""
        config = self.config
        clients = [self._client_summary(client) for client in self.data]
        return Summary(
            status="running",
            name=config.run_name,
            method=config.federation.method,
            scenario=config.data.scenario,
            seed=config.run.seed,
            secure_agg=config.security.secure_agg,
            base_sha256=self.base_sha256,
            versions=installed_versions(),
            started_utc=self.started.utc.isoformat(timespec="seconds"),
            wall_seconds=self.started.seconds_since(),
            peak_memory_bytes=peak_memory_bytes() + self.hosts_memory_bytes,
            clients=tuple(clients),
            tasks=task_summaries(clients),
            phases=tuple(
                PhaseSummary(
                    phase=name,
                    seconds=cost.seconds,
                    upload_bytes=cost.bytes_up,
                    download_bytes=cost.bytes_down,
                )
                for name, cost in self.transport.costs.items()
            ),
            drop_outs=tuple(
                DropOut(
                    client=event.client,
                    fault=event.fault,
                    round=event.phase.round,
                    stage=event.phase.stage,  # type: ignore[arg-type]
                    attempt=event.phase.attempt,
                    phase=event.phase.name,
                )
                for event in self.faults.events
            ),
            privacy=privacy_summary(self.ledger(), self.noise),
            leakage=Leakage(**self._leakage()),
            selection_check=self._selection_check(),
            image_overlaps=tuple(
                ImageOverlapSummary(**asdict(overlap)) for overlap in self.reports.overlaps
            ),
            notes=tuple(self._notes()),
        )

    def _client_summary(self, client: ClientData) -> ClientSummary:
        scores = self.journal.scores.get(client.name, {})
        unparsed = dict(self.journal.unparsed.get(client.name, {}))
        after_local = scores.get("after_local")
        if not self.server.ends_with_aggregation and "after_local" in unparsed:
            unparsed["after_aggregation"] = unparsed["after_local"]
        return ClientSummary(
            client=client.name,
            task=client.task,
            samples=len(client.train),
            test_samples=len(client.test),
            metric=client.metric,
            before=scores.get("before"),
            after_local=after_local,
            after_aggregation=scores.get("after_aggregation")
            if self.server.ends_with_aggregation
            else after_local,
            unparsed=unparsed,
        )

    def _leakage(self) -> dict[str, Any]:
        samples = {client.name: len(client.train) for client in self.data}
        return run_leakage(
            self.server.events.reports,
            self.journal.contributions,
            samples,
            PrivacyOfARun(
                noise=local_noise(self.noise),
                claimed={entry.client: entry.claimed_epsilon for entry in self.ledger().clients},
                delta=None if self.noise is None else self.noise.delta,
                plan=self.noise,
            ),
            in_clear=() if self.config.security.secure_agg else self.server.vectors,
            told=[tuple(results) for results in self.journal.results.values()],
            max_attempts=self.config.security.max_attempts,
        )

    def _selection_check(self) -> SelectionCheck | None:
        """Compare the neighbours that were chosen with those of exact distances."""
        by_client = [
            changed for checked in self.journal.changed.values() for changed in checked.values()
        ]
        if not by_client:
            return None
        return SelectionCheck(
            selections=len(by_client),
            unchanged=sum(not changed for changed in by_client),
            changed=tuple(entry for changed in by_client for entry in changed),
        )

    def ledger(self) -> Ledger:
        """Return what was released so far, and the privacy that follows."""
        reports = self.server.events.reports
        return ledger_of_a_run(self.config, self.data, self.noise, self.journal.releases, reports)

    def _notes(self) -> list[str]:
        notes = [*self.reports.notes, *self.onlookers.notes]
        notes += [
            f"round {phase.round}, stage {phase.stage}, {phase.name}: {client} refused: {reason}"
            for phase, client, reason in self.server.events.refusals
        ]
        for report in self.server.events.reports:
            notes += aggregation_notes(report)
        notes += [
            f"round {round_number}, stage {stage}: {client} keeps its own text adapter: "
            f"{result.sealed_fault}"
            for (round_number, stage), results in self.journal.results.items()
            for client, result in results.items()
            if result.sealed_fault is not None
        ]
        if self.server.done:
            notes += [f"security.dropouts: never took place: {it}" for it in self.faults.missed()]
        return notes

    def run(self) -> None:
        """Carry the run out, sign the transcript, save the adapters, and end the engine."""
        finished = False
        try:
            try:
                self.server.run()
                finished = True
            finally:
                self.transcript.sign_head(self.server.identity, final=finished)
                self.transcript.close()
                self.folder.write_json("ledger.json", self.ledger())
            self.hosts_memory_bytes = self.engine.finish(self.config.run.phase_timeout_s)
        finally:
            self.engine.close()

    def forget(self) -> None:
        """Delete what was kept for the case of a kill; call it when the summary says finished."""
        self.state.forget()


def aggregation_notes(report: AggregationReport) -> list[str]:
    """Return what did not go as planned in one attempt of an aggregation."""
    parameters = report.parameters
    where = f"round {parameters.round}, stage {parameters.stage}"
    notes = [f"{where}: {client} left out: {fault}" for client, fault in report.faults.items()]
    if report.aborted is not None:
        return [*notes, f"{where}, attempt {parameters.attempt} aborted: {report.aborted}"]
    closed = [spec.id for spec in parameters.sums if spec.id not in report.opened]
    if closed:
        notes.append(
            f"{where}: not opened, so the previous values stay: {', '.join(closed)} (fewer than "
            f"{parameters.min_contributors} contributors, or the recipient is gone)"
        )
    return notes


def prepare(
    config: SimulationConfig,
    folder: RunFolder,
    progress: RunProgress,
    *,
    started: StartOfRun | None = None,
    go_on: bool = False,
    far_end: FarEnd | None = None,
) -> Simulation:
    """Build every party of the run, whose time counts from ``started`` (default: from here).

    Nothing is written before every client is built. The engine's processes run from here on:
    :meth:`Simulation.run` ends them. With ``go_on``, the run of this folder goes on from where it
    was killed. With a ``far_end``, clients live there, and this process is the server alone.
    Raises: UsageError where parties cannot be built, or do not fit the configuration.
    """
    require_engine(config)
    started = started or StartOfRun()
    onlookers = Onlookers(config, folder.path, started)
    state = RunState.take(folder.path)
    data, reports = load_data(config, progress.describe)
    check_drop_outs(config, data)
    if go_on:
        server_identity, enrolment = Enrolment.again(state.enrolment(), config, folder.path, data)
        SavedRun.open(folder.path).require_data(data)
    elif far_end is not None:
        server_identity, enrolment = far_end.enrolment(config, folder.path)
    else:
        server_identity, enrolment = Enrolment.open(
            config, folder.path, data, max_samples(config, data)
        )
    same = {"identity": server_identity, "roster": enrolment.roster}
    kept = state.kept(same) if go_on else None
    method = enrolment.method()
    replay = open_replay(config, data, method)
    expected = expected_seconds(config, data, method) / config.processes
    progress.expect(expected - _done(kept))
    journal = RunJournal(folder, progress, onlookers.take)
    if kept is not None:
        recall(journal, kept["journal"])
    noise = noise_of_a_run(config, data, method)
    enrolment = replace(enrolment, noise=noise)
    if far_end is None:
        engine, host = start_engine(enrolment, data, journal)
    else:
        engine, host = far_end.start(server_identity, enrolment, journal), None
    try:
        report = common_report(engine)
        check_room(config, noise, report.vector_lengths)
        if replay is not None:
            replay.run.require_base(report.base_sha256)
        faults = FaultyTransport(
            engine,
            schedule=config.security.dropouts,
            probability=config.security.dropout_probability,
            straggler_probability=config.security.straggler_probability,
            seed=config.run.seed,
        )
        if go_on:
            SavedRun.open(folder.path).require_base(report.base_sha256)
        else:
            folder.write_json("roster.json", enrolment.roster)
            escrow = enrolment.escrowed(server_identity)
            if escrow is not None:
                folder.write_secret("escrow.json", escrow)
            state.keep_enrolment(enrolment.to_keep(server_identity))
        transcript = TranscriptWriter(
            folder.path,
            keep_payloads=config.security.keep_payloads,
            go_on_from=(kept["transcript"] if kept is not None else 0) if go_on else None,
        )
        transport = MeteredTransport(RecordedTransport(onlookers.carry(faults), transcript))

        def attempt_ended(attempt: AggregationReport) -> None:
            transcript.sign_head(server_identity)
            onlookers.take_attempt(attempt)

        server = FederationServer(
            server_identity,
            enrolment.agreement(report.vector_lengths),
            transport,
            replayed=replay.selections if replay is not None else None,
            announce=progress.describe,
            aggregated=journal.write_selections,
            attempt_begins=transcript.keep_parameters,
            attempt_ended=attempt_ended,
            keep=lambda: simulation.keep(same),
            scratch=Scratch(str(folder.state_folder(SERVER) / "scratch")),
        )
    except BaseException:
        engine.close()
        raise
    simulation = Simulation(
        config,
        folder,
        data,
        engine,
        host,
        server,
        journal,
        transport,
        faults,
        transcript,
        reports,
        started,
        report.base_sha256,
        noise,
        progress,
        state,
        onlookers,
        _done(kept),
    )
    if kept is not None:
        simulation.recall(kept)
    return simulation


def _done(kept: dict[str, Any] | None) -> float:
    """Expected seconds of the work that a run had done when it was kept."""
    return kept["done"] if kept is not None else 0.0


def common_report(engine: Engine) -> HostReport:
    """Return what all hosts report alike.

    Raises: FederationError if they loaded different base models.
    """
    first: HostReport = engine.reports[0]
    if any(report != first for report in engine.reports):
        raise FederationError(
            "the engine's processes loaded different base models: expected one for all of them."
        )
    return first
