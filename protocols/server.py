"""The server's machine: asks all clients the same thing, takes what comes, goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from protocols.accumulators import OpenedVector
from protocols.client import check_pinned
from protocols.entropy import Entropy
from protocols.errors import AttemptAborted, LocalProtocolError, PeerError
from protocols.frame import open_frame, seal
from protocols.frame_sizes import largest_frame
from protocols.identity import SERVER, Identity, Roster
from protocols.messages import PlannedSum
from protocols.pair_jobs import PairWorkers
from protocols.parameters import AggregationParameters
from protocols.results import mean_of
from protocols.server_deliver import Deliver
from protocols.server_masking import MaskedInputs
from protocols.server_phase import Phase, ServerContext
from protocols.server_setup import Advertise
from protocols.storage import Allocate, allocate_in_memory


@dataclass
class AggregationReport:
    """What the server knows after an attempt.

    ``survivors`` maps each phase to whose replies were kept, ``faults`` a client to what was wrong
    with its message, ``opened`` a sum to its contributors, ``skipped`` a sum to the reason.
    ``aborted`` is the reason if the attempt ended early: then nothing was opened.
    """

    parameters: AggregationParameters
    session: bytes = b""
    survivors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropouts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    plan: tuple[PlannedSum, ...] = ()
    opened: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    receipts: dict[str, bytes] = field(default_factory=dict)
    aborted: str | None = None
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    results: dict[str, OpenedVector] = field(default_factory=dict, repr=False)

    @cached_property
    def means(self) -> Mapping[str, NDArray[np.float32]]:
        """The means of the sums that were opened for all, decoded on first use."""
        planned = {item.id: item for item in self.plan}
        return {
            sum_id: mean_of(self.parameters, planned[sum_id], opened)
            for sum_id, opened in self.results.items()
        }


class AggregationServer:
    """The server in one attempt.

    ::

        while not server.done:
            replies = transport(server.phase, server.requests())
            server.receive(replies)          # None stands for a drop-out or a time-out
        server.report
    """

    def __init__(
        self,
        parameters: AggregationParameters,
        identity: Identity,
        entropy: Entropy,
        *,
        roster: Roster,
        allocate: Allocate = allocate_in_memory,
        uploads_at_once: int | None = None,
        pair_workers: PairWorkers | None = None,
    ) -> None:
        """Take the pinned roster; ``allocate`` gives storage for the sums, in memory or on a disk.

        Of uploads that go in parts, ``uploads_at_once`` are kept apart at a time, besides the
        first part of every one (None: all). The caller may delete what was allocated once it has
        read the report's means.

        ``pair_workers`` share the many pairs of encrypted distances under key-holder trust.

        Raises:
            ParameterError: the roster does not fit the parameters or the identity.
        """
        check_pinned(parameters, identity, roster)
        self._context = ServerContext(
            parameters, identity, roster, allocate, pair_workers, uploads_at_once
        )
        self._entropy = entropy
        self._phase: Phase | None = Advertise(self._context)
        self._heard: set[str] = set()
        self.report = AggregationReport(parameters, self._phase.session)

    @property
    def done(self) -> bool:
        """Whether the attempt has ended, with results or by aborting."""
        return self._phase is None

    @property
    def phase(self) -> str:
        """The present phase's name."""
        return "finished" if self._phase is None else self._phase.name

    @property
    def part(self) -> int:
        """How often the present phase has asked before, where long vectors go in parts."""
        return 0 if self._phase is None else self._phase.part

    @property
    def clients(self) -> tuple[str, ...]:
        """Whom the present phase asks: clients, or the key holder."""
        return () if self._phase is None else self._phase.asked

    def request(self, client: str) -> bytes:
        """Return the signed request of the present phase for one client."""
        frame = seal(self._current().request(client), self._context.identity)
        sent = self.report.bytes_down
        sent[self.phase] = sent.get(self.phase, 0) + len(frame)
        return frame

    def requests(self) -> dict[str, bytes]:
        """Return {client: signed request} of the present phase; call it once a phase."""
        return {client: self.request(client) for client in self.clients}

    def accept(self, client: str, reply: bytes) -> None:
        """Take one reply as it comes.

        Raises:
            LocalProtocolError: nobody asked this client, or it has replied already.
            PeerError: the reply is at fault; the client counts as dropped out, see the report.
        """
        phase = self._current()
        if client not in phase.asked or client in self._heard:
            raise LocalProtocolError(f"{phase.name}: no reply of {client} is due")
        self._heard.add(client)
        received = self.report.bytes_up
        received[phase.name] = received.get(phase.name, 0) + len(reply)
        try:
            limit = largest_frame(self._context.parameters, phase.due(client))
            message = open_frame(reply, self._context.roster, client, phase.name, limit)
            phase.take(client, message, reply)
        except PeerError as error:
            self.report.faults[client] = f"{type(error).__name__}: {error}"
            raise

    def advance(self) -> None:
        """End the phase: whoever has not replied has dropped out."""
        phase = self._current()
        present = phase.survivors()
        self.report.survivors[phase.name] = present
        gone = {n for n in phase.asked if n not in present}
        before = self.report.dropouts.get(phase.name, ())  # in its earlier parts
        self.report.dropouts[phase.name] = tuple(sorted(gone.union(before)))
        self._heard = set()
        try:
            self._phase = phase.finish()
        except AttemptAborted as error:
            self._phase, self.report.aborted = None, str(error)
            return
        finally:
            self.report.faults.update(phase.faults)
        self._note(phase)

    def receive(self, replies: Mapping[str, bytes | None]) -> None:
        """Take all replies of a phase and end it; faulty replies count as drop-outs."""
        for client, reply in replies.items():
            if reply is not None:
                try:
                    self.accept(client, reply)
                except PeerError:
                    continue
        self.advance()

    def _note(self, finished: Phase) -> None:
        """Write into the report what the finished phase settled."""
        if self._phase is not None:
            self.report.session = self._phase.session
        if isinstance(finished, MaskedInputs):
            self.report.plan = finished.sums
        if isinstance(self._phase, Deliver):
            opening = self._phase.opening
            self.report.opened = dict(opening.contributors)
            self.report.skipped = dict(opening.skipped)
            self.report.results = {name: opening.opened[name] for name in opening.ids_for(SERVER)}
        if isinstance(finished, Deliver):
            self.report.receipts = dict(finished.receipts)

    def _current(self) -> Phase:
        if self._phase is None:
            raise LocalProtocolError("the attempt has ended")
        return self._phase
