"""Some clients of a run in one process, around one base model: the far end of every engine."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilot_secure.adapter_files import save_connector, save_personal_adapter, save_text_adapter
from pilot_secure.config import SimulationConfig
from pilot_secure.config_since import require_unchanged
from pilot_secure.data import ClientData
from pilot_secure.engines import Note, PhaseKey
from pilot_secure.errors import RunFolderError
from pilot_secure.federation.agreement import Agreement
from pilot_secure.federation.base_weights import base_sha256
from pilot_secure.federation.central import put_in_one_place
from pilot_secure.federation.client import FederationClient
from pilot_secure.federation.connector_kinds import describe_connector
from pilot_secure.federation.guard import DiskGuard
from pilot_secure.federation.journal import Journal, RelayedJournal
from pilot_secure.federation.kept_client import KeptClient, NotedJournal
from pilot_secure.federation.key_holder import FederationKeyHolder
from pilot_secure.federation.methods import METHODS, Method
from pilot_secure.federation.worker import Worker
from pilot_secure.libraries import quieten_libraries
from pilot_secure.privacy.planning import NoisePlan
from pilot_secure.run_data import load_data
from pilot_secure.run_folder import RunFolder
from pilot_secure.run_state import share_run
from protocols import Entropy, Identity, Roster
from protocols.escrow import MASTER_BYTES, Escrow
from protocols.identity import KEY_HOLDER, SERVER


@dataclass(frozen=True)
class Enrolment:
    """What a process needs to be some of a run's clients; it can be sent to another process.

    ``tasks`` holds every client of the run in the roster's order, ``secrets`` the identity keys of
    those that live in the process, and of the key holder if it does, ``noise`` what every client
    adds, ``escrow`` the master secret of an escrowed run. A client goes on from what the folder's
    ``state/`` remembers of it.
    Secrecy: those parties'.
    """

    config: SimulationConfig
    run_id: str
    folder: Path
    roster: Roster
    tasks: Mapping[str, str]
    max_samples: int
    secrets: Mapping[str, bytes] = field(repr=False)
    noise: NoisePlan | None = None
    escrow: bytes | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls, config: SimulationConfig, folder: Path, data: Iterable[ClientData], max_samples: int
    ) -> tuple[Identity, Enrolment]:
        """Draw fresh identities; return the server's, and the enrolment of all others."""
        entropy, tasks = Entropy(), {client.name: client.task for client in data}
        clients = [Identity.generate(name, entropy) for name in tasks]
        server = Identity.generate(SERVER, entropy)
        holder = Identity.generate(KEY_HOLDER, entropy) if config.has_key_holder else None
        others = [*clients, *([] if holder is None else [holder])]
        return server, cls(
            config=config,
            run_id=f"run-{secrets.token_hex(8)}",
            folder=folder,
            roster=Roster.of(server, clients, holder),
            tasks=tasks,
            max_samples=max_samples,
            secrets={identity.name: identity.secret() for identity in others},
            escrow=entropy.read(MASTER_BYTES) if config.security.insecure_escrow else None,
        )

    def escrowed(self, server: Identity) -> Escrow | None:
        """Return what `escrow.json` holds of the whole run, if the run is escrowed."""
        if self.escrow is None:
            return None
        secrets = {server.name: server.secret(), **self.secrets}
        identities = {name: base64.b64encode(secret) for name, secret in secrets.items()}
        return Escrow(
            run_id=self.run_id, master=base64.b64encode(self.escrow), identities=identities
        )

    def to_keep(self, server: Identity) -> dict[str, Any]:
        """Return what `again` needs, for the run's own state folder."""
        return {
            "run_id": self.run_id,
            "roster": self.roster,
            "tasks": dict(self.tasks),
            "max_samples": self.max_samples,
            "secrets": {**self.secrets, SERVER: server.secret()},
            "escrow": self.escrow,
            "config": self.config.model_dump(mode="json"),
        }

    @classmethod
    def again(
        cls,
        kept: Mapping[str, Any],
        config: SimulationConfig,
        folder: Path,
        data: Iterable[ClientData],
    ) -> tuple[Identity, Enrolment]:
        """Return the server's identity and the enrolment of a run that goes on.

        Raises: ConfigError if the configuration is another now, RunFolderError if the data are of
        other clients.
        """
        require_unchanged(config, kept["config"], str(RunFolder(folder).config_path))
        if kept["tasks"] != {client.name: client.task for client in data}:
            raise RunFolderError(
                f"{folder}: the data name other clients or tasks than when the run began."
            )
        secrets = dict(kept["secrets"])
        server = Identity.from_secret(SERVER, secrets.pop(SERVER))
        return server, cls(
            config=config,
            run_id=kept["run_id"],
            folder=folder,
            roster=kept["roster"],
            tasks=kept["tasks"],
            max_samples=kept["max_samples"],
            secrets=secrets,
            escrow=kept["escrow"],
        )

    def split(self, processes: int) -> list[Enrolment]:
        """Divide the clients, and the key holder after them, among processes, in turn."""
        names = list(self.secrets)
        return [
            replace(self, secrets={name: self.secrets[name] for name in names[start::processes]})
            for start in range(min(processes, len(names)))
        ]

    def method(self) -> Method:
        """Return the run's method."""
        tasks = tuple(dict.fromkeys(self.tasks.values()))
        return METHODS[self.config.federation.method](self.config, tasks=tasks)

    def agreement(self, vector_lengths: Mapping[str, int]) -> Agreement:
        """Return what all parties agree on, given the coordinates of every vector."""
        return Agreement(
            run_id=self.run_id,
            config=self.config,
            method=self.method(),
            tasks=self.tasks,
            roster=self.roster,
            vector_lengths=vector_lengths,
            max_samples=self.max_samples,
            noise=self.noise,
        )


@dataclass(frozen=True)
class HostReport:
    """What a process found when it loaded the base model: public, and equal in all of them."""

    vector_lengths: Mapping[str, int]
    base_sha256: str


class ClientHost:
    """The clients of one process, and the worker that they take turns at.

    Raises: UsageError where the base model or the data cannot be loaded.
    """

    def __init__(self, enrolment: Enrolment, data: Sequence[ClientData], journal: Journal) -> None:
        config = enrolment.config
        self._folder, self._config = RunFolder(enrolment.folder), config
        self.worker = Worker(config.model, config.training, seed=config.run.seed)
        start = enrolment.method().start(self.worker)
        self.report = HostReport(
            vector_lengths={
                name: sum(tensor.numel() for tensor in tensors.values())
                for name, tensors in start.items()
            },
            base_sha256=base_sha256(self.worker.model),
        )
        agreement = enrolment.agreement(self.report.vector_lengths)
        self.clients: dict[str, FederationClient] = {}
        self._kept: dict[str, KeptClient] = {}
        for own in data:
            if own.name in enrolment.secrets:
                self._admit(own, enrolment, agreement, journal)
        self._parties: dict[str, KeptClient | FederationKeyHolder] = {**self._kept}
        if KEY_HOLDER in enrolment.secrets:
            identity = Identity.from_secret(KEY_HOLDER, enrolment.secrets[KEY_HOLDER])
            guard = DiskGuard(self._folder.state_folder(KEY_HOLDER))
            self._parties[KEY_HOLDER] = FederationKeyHolder(identity, agreement, guard)
        if agreement.method.name == "centralized":
            put_in_one_place(list(self.clients.values()))

    def _admit(
        self, data: ClientData, enrolment: Enrolment, agreement: Agreement, journal: Journal
    ) -> None:
        """Build one client, as its folder remembers it."""
        name = data.name
        identity = Identity.from_secret(name, enrolment.secrets[name])
        guard, noted = DiskGuard(self._folder.state_folder(name)), NotedJournal(journal)
        client = FederationClient(
            identity,
            agreement,
            data,
            agreement.method,
            self.worker,
            noted,
            guard,
            enrolment.noise,
            enrolment.escrow,
        )
        same = {"identity": identity, "roster": enrolment.roster, "guard": guard}
        self.clients[name] = client
        self._kept[name] = KeptClient(client, noted, self._folder.state_folder(name), same)

    @property
    def names(self) -> tuple[str, ...]:
        """The parties that live here."""
        return tuple(self._parties)

    def handle(self, client: str, phase: PhaseKey, request: bytes) -> bytes:
        """Answer one request to one party."""
        return self._parties[client].handle(phase, request)

    def finish(self) -> None:
        """Write every client's adapters: LoRA for plain PEFT, the connector as safetensors."""
        for client in self.clients.values():
            folder = self._folder.adapter_folder(client.name)
            save_text_adapter(
                folder,
                self.worker.lora_config,
                client.state.text_adapter,
                base=self._config.model.base,
            )
            personal = client.state.personal
            if personal is not None:
                client.prepare_to_answer()
                save_personal_adapter(
                    folder,
                    self.worker.lora_config,
                    personal.tensors,
                    personal.references,
                    base=self._config.model.base,
                )
            connector = client.state.connector
            tensors = (connector or self.worker.base_connector).state_dict()
            save_connector(folder, describe_connector(connector), tensors)


def build_host(enrolment: Enrolment, tell: Note) -> ClientHost:
    """Be the far end of an engine in another process: load data and model, keep no journal here."""
    quieten_libraries()
    share_run(enrolment.folder)
    data, _ = load_data(enrolment.config)
    return ClientHost(enrolment, data, RelayedJournal(tell))
