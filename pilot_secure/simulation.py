"""The wiring of a simulated federation: from a configuration to a finished run folder."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from pilot_secure.adapter_files import save_connector, save_text_adapter
from pilot_secure.config import SimulationConfig
from pilot_secure.data.conversations import FileReport
from pilot_secure.engines import InProcessTransport
from pilot_secure.federation.agreement import Agreement
from pilot_secure.federation.base_weights import base_sha256
from pilot_secure.federation.client import FederationClient
from pilot_secure.federation.faults import FaultyTransport
from pilot_secure.federation.journal import RunJournal
from pilot_secure.federation.leakage import run_leakage
from pilot_secure.federation.metering import MeteredTransport
from pilot_secure.federation.methods import METHODS
from pilot_secure.federation.recording import RecordedTransport
from pilot_secure.federation.replay import open_replay
from pilot_secure.federation.server import FederationServer
from pilot_secure.federation.worker import Worker
from pilot_secure.progress import RunProgress
from pilot_secure.run_data import check_drop_outs, expected_seconds, load_data, max_samples
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import (
    ClientSummary,
    DropOut,
    Leakage,
    PhaseSummary,
    StartOfRun,
    Summary,
    installed_versions,
    peak_memory_bytes,
)
from pilot_secure.transcript import TranscriptWriter
from protocols import AggregationReport, Entropy, Identity, Roster
from protocols.identity import SERVER


@dataclass
class Simulation:
    """One run: built by :func:`prepare`, carried out by :func:`run`."""

    config: SimulationConfig
    folder: RunFolder
    clients: dict[str, FederationClient]
    server: FederationServer
    journal: RunJournal
    transport: MeteredTransport
    faults: FaultyTransport
    worker: Worker
    transcript: TranscriptWriter
    reports: list[FileReport]
    started: StartOfRun
    base_sha256: str

    def summary(self) -> Summary:
        """Return what is known so far."""
        config = self.config
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
            peak_memory_bytes=peak_memory_bytes(),
            clients=tuple(self._client_summary(client) for client in self.clients.values()),
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
            leakage=Leakage(**self._leakage()),
            notes=tuple(self._notes()),
        )

    def _client_summary(self, client: FederationClient) -> ClientSummary:
        scores = self.journal.scores.get(client.name, {})
        after_local = scores.get("after_local")
        return ClientSummary(
            client=client.name,
            task=client.data.task,
            samples=client.num_samples,
            test_samples=len(client.data.test),
            metric=client.data.metric,
            before=scores.get("before"),
            after_local=after_local,
            after_aggregation=scores.get("after_aggregation")
            if self.server.ends_with_aggregation
            else after_local,
        )

    def _leakage(self) -> dict[str, Any]:
        samples = {name: client.num_samples for name, client in self.clients.items()}
        return run_leakage(
            self.server.events.reports,
            self.journal.results,
            samples,
            in_clear=() if self.config.security.secure_agg else self.server.vectors,
        )

    def _notes(self) -> list[str]:
        notes = [
            str(report)
            for report in self.reports
            if report.text_only or report.broken or report.unscorable
        ]
        notes += [
            f"round {phase.round}, stage {phase.stage}, {phase.name}: {client} refused: {reason}"
            for phase, client, reason in self.server.events.refusals
        ]
        for report in self.server.events.reports:
            notes += aggregation_notes(report)
        return notes

    def run(self) -> None:
        """Carry the run out, sign the transcript and save the adapters."""
        try:
            self.server.run()
        finally:
            self.transcript.sign_head(self.server.identity, final=True)
            self.transcript.close()
        self._save_adapters()

    def _save_adapters(self) -> None:
        """Write every client's adapters: LoRA for plain PEFT, the connector as safetensors."""
        for client in self.clients.values():
            folder = self.folder.adapter_folder(client.name)
            save_text_adapter(
                folder,
                self.worker.lora_config,
                client.state.text_adapter,
                base=self.config.model.base,
            )
            description, tensors = self.worker.describe_connector(client.state)
            save_connector(folder, description, tensors)


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
) -> Simulation:
    """Build every party of the run, whose time counts from ``started`` (default: from here).

    Nothing is written before every client is built.
    Raises: UsageError where they cannot be, or do not fit the configuration.
    """
    started = started or StartOfRun()
    data, reports = load_data(config)
    method = METHODS[config.federation.method](
        config, tasks=tuple(dict.fromkeys(d.task for d in data))
    )
    replay = open_replay(config, data, method)
    check_drop_outs(config, data)
    sample_bound = max_samples(config, data)
    progress.expect(expected_seconds(config, data))
    worker = Worker(config.model, config.training, seed=config.run.seed)
    base_hash = base_sha256(worker.model)
    if replay is not None:
        replay.run.require_base(base_hash)
    entropy = Entropy()
    identities = [Identity.generate(client.name, entropy) for client in data]
    server_identity = Identity.generate(SERVER, entropy)
    roster = Roster.of(server_identity, identities)
    agreement = Agreement(
        run_id=f"run-{secrets.token_hex(8)}",
        config=config,
        method=method,
        tasks={client.name: client.task for client in data},
        roster=roster,
        vector_lengths={
            name: sum(tensor.numel() for tensor in tensors.values())
            for name, tensors in method.start(worker).items()
        },
        max_samples=sample_bound,
    )
    journal = RunJournal(folder, progress)
    clients = {
        identity.name: FederationClient(identity, agreement, client, method, worker, journal)
        for identity, client in zip(identities, data, strict=True)
    }
    folder.write_json("roster.json", roster)
    faults = FaultyTransport(
        InProcessTransport({name: client.handle for name, client in clients.items()}),
        schedule=config.security.dropouts,
        probability=config.security.dropout_probability,
        straggler_probability=config.security.straggler_probability,
        seed=config.run.seed,
    )
    transcript = TranscriptWriter(folder.path, keep_payloads=config.security.keep_payloads)
    transport = MeteredTransport(RecordedTransport(faults, transcript))
    server = FederationServer(
        server_identity,
        agreement,
        transport,
        replayed=replay.selections if replay is not None else None,
        announce=progress.describe,
        aggregated=journal.write_selections,
        attempt_begins=transcript.keep_parameters,
        attempt_ended=lambda: transcript.sign_head(server_identity),
    )
    return Simulation(
        config,
        folder,
        clients,
        server,
        journal,
        transport,
        faults,
        worker,
        transcript,
        reports,
        started,
        base_hash,
    )
