"""The server's side of a deployment: it calls the nodes together, then the run goes on as ever."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path

from flwr.serverapp import Grid

from pilot_secure.client_host import Enrolment, HostReport
from pilot_secure.config import SimulationConfig
from pilot_secure.engines import PhaseKey
from pilot_secure.engines.flower import FlowerTransport, await_nodes
from pilot_secure.errors import FederationError
from pilot_secure.federation.journal import RunJournal
from pilot_secure.federation.messages import (
    Done,
    Enrol,
    FederationMessageError,
    Refusal,
    open_frame,
    seal,
)
from pilot_secure.flower.party import ENROL
from pilot_secure.flower.party_folder import PartyFolder
from pilot_secure.flower.reported import enter_reported
from pilot_secure.flower.terms import agreed_digest, read_terms
from protocols import Identity, Roster
from protocols.identity import SERVER

EVERYBODY = "everybody"


class FlowerFarEnd:
    """The clients of a roster behind a Flower grid; ``party`` is the server's own folder."""

    def __init__(self, grid: Grid, party: PartyFolder) -> None:
        self._grid, self._party = grid, party

    def enrolment(self, config: SimulationConfig, folder: Path) -> tuple[Identity, Enrolment]:
        """Return the server's identity, and a new run of what was agreed on."""
        terms = read_terms(self._party)
        return self._party.identity, Enrolment(
            config=config,
            run_id=f"run-{secrets.token_hex(8)}",
            folder=folder,
            roster=self._party.roster,
            tasks=terms.tasks,
            max_samples=terms.max_samples,
            secrets={},
        )

    def start(self, server: Identity, enrolment: Enrolment, journal: RunJournal) -> FlowerTransport:
        """Wait for the nodes, and have each say whose it is and that it agrees.

        Raises: FederationError if none comes in time, or one does not agree.
        """
        terms, timeout_s = read_terms(self._party), enrolment.config.run.phase_timeout_s
        call = Enrol(
            run_id=enrolment.run_id,
            round=0,
            stage=0,
            sender=SERVER,
            recipient=EVERYBODY,
            agreed=agreed_digest(self._party),
        )
        nodes = await_nodes(self._grid, len(terms.tasks), timeout_s)
        if not nodes:
            raise FederationError(f"no node came within {timeout_s:g} s.")
        by_number = FlowerTransport(self._grid, {str(node): node for node in nodes})
        calls = dict.fromkeys(map(str, nodes), seal(call, server))
        replies = by_number.exchange(PhaseKey(ENROL, 0, 0), calls, timeout_s)
        found = {
            signer_of(frame, enrolment.roster, enrolment.run_id): int(node)
            for node, frame in replies.items()
            if frame is not None
        }
        report = HostReport(terms.vector_lengths, terms.base_sha256)
        reported = partial(enter_reported, journal)
        return FlowerTransport(self._grid, found, reports=[report], reported=reported)


def signer_of(frame: bytes, roster: Roster, run_id: str) -> str:
    """Return which client of the roster signed this reply to the call.

    Raises: FederationError if none did, or it refused.
    """
    for entry in roster.clients:
        try:
            reply = open_frame(frame, roster, entry.name, run_id)
        except FederationMessageError:
            continue
        if isinstance(reply, Refusal):
            raise FederationError(f"{entry.name} does not take part: {reply.reason}.")
        if isinstance(reply, Done):
            return entry.name
    raise FederationError("a node answered that is no client's of the roster.")
