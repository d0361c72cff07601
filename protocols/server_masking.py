"""The server's plan, and the masked uploads that it adds up as they are complete."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.accumulators import Accumulator
from protocols.distance_messages import Selection
from protocols.frame import expect
from protocols.identity import SERVER
from protocols.messages import (
    Box,
    MaskedInput,
    MaskedPart,
    Message,
    PartRequest,
    Plan,
    SharesFrom,
)
from protocols.parts import length_of
from protocols.plan import plan_sums
from protocols.server_phase import Phase, Setup
from protocols.server_unmask import Consistent, Inputs
from protocols.server_upload import Upload


class MaskedInputs(Phase):
    """Publish the plan, ask for one part after the other, add what is complete."""

    name, reply_kind = "masked_input", "masked_input"

    def __init__(
        self,
        setup: Setup,
        clients: tuple[str, ...],
        selections: Mapping[str, Selection],
        neighbours: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(setup.context, clients, setup.session)
        parameters = setup.context.parameters
        self.setup = setup
        self._present = set(clients)
        visible = parameters.neighbour_visibility == "visible"
        self.sums = plan_sums(parameters, clients, (neighbours or {}) if visible else None)
        self._selections = {
            name: {box.party: box.ciphertext for box in selection.boxes}
            for name, selection in selections.items()
        }
        self.accumulators = {
            planned.id: Accumulator(
                planned.id,
                parameters.ring_bits,
                length_of(parameters, planned.id),
                setup.context.allocate,
            )
            for planned in self.sums
        }
        self.uploads = {
            name: Upload(setup.context, name, [s.id for s in self.sums if name in s.contributors])
            for name in clients
        }
        self._asked, self._kept = clients, set[str]()

    @property
    def asked(self) -> tuple[str, ...]:
        """Who gets a request: everybody the plan, then whose uploads are not complete."""
        return self._asked

    def due(self, client: str) -> str:
        """Return what comes next of this client."""
        return self.uploads[client].due

    def request(self, client: str) -> Plan | PartRequest:
        """Return the plan, or the request for the next part of this client's upload."""
        if self.part == 0:
            return self._plan(client)
        number = len(self.uploads[client].hashes)
        return PartRequest(session=self.session, sender=SERVER, recipient=client, part=number)

    def _plan(self, client: str) -> Plan:
        """Return the plan with this client's shares and the neighbour lists for it."""
        peers = [name for name in self.clients if name != client]
        return Plan(
            session=self.session,
            sender=SERVER,
            recipient=client,
            participants=self.clients,
            sums=self.sums,
            shares=tuple(
                self._shares_from(peer, client)
                for peer in self.setup.peers(client)
                if peer in self._present
            ),
            selections=tuple(
                Box(party=peer, ciphertext=self._selections[peer][client])
                for peer in peers
                if peer in self._selections
            ),
        )

    def _shares_from(self, owner: str, holder: str) -> SharesFrom:
        dealt = self.setup.shares[owner]
        box = next(box for box in dealt.boxes if box.party == holder)
        item = next(item for item in dealt.commitments if item.party == holder)
        return SharesFrom(party=owner, ciphertext=box.ciphertext, digests=item.digests)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep a part of an upload; add the upload when it is complete."""
        kind = MaskedPart if self.due(client) == "masked_part" else MaskedInput
        self.uploads[client].take(
            expect(message, kind, self.session, SERVER, self.name), frame, self.accumulators
        )
        self._kept.add(client)

    def survivors(self) -> tuple[str, ...]:
        """Return who is still there: in the end the survivor set U, whose uploads are added."""
        waiting = set(self.uploads) - set(self._asked)
        return tuple(sorted(waiting | self._kept))

    def finish(self) -> Phase:
        """Ask for the parts that are left, or for signatures of the survivor set."""
        left = self.survivors()
        for name in set(self.uploads) - set(left):
            self.uploads.pop(name).free()
        self.enough(left)
        incomplete = tuple(name for name in left if not self.uploads[name].complete)
        if incomplete:
            self._asked, self._kept = incomplete[: self.context.uploads_at_once], set()
            self.part += 1
            return self
        hashes = {name: upload.hashes[-1] for name, upload in self.uploads.items()}
        return Consistent(Inputs(self.setup, self.clients, self.sums, self.accumulators, hashes))
