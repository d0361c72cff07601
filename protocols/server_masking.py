"""The server's plan, and the masked uploads that it adds up as they come."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.accumulators import Accumulator
from protocols.distance_messages import Selection
from protocols.errors import MalformedMessage
from protocols.frame import expect, frame_hash
from protocols.identity import SERVER
from protocols.messages import Box, MaskedInput, Message, Plan, SharesFrom
from protocols.plan import plan_sums
from protocols.server_phase import Phase, Setup
from protocols.server_unmask import Consistent, Inputs


class MaskedInputs(Phase):
    """Publish the plan, add the masked uploads up as they come."""

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
                parameters.vector_lengths[parameters.sum(planned.id).vector],
                setup.context.allocate,
            )
            for planned in self.sums
        }
        self.upload_hashes: dict[str, bytes] = {}

    def request(self, client: str) -> Plan:
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
        """Check all terms of an upload, then add all of them."""
        upload = expect(message, MaskedInput, self.session, SERVER, self.name)
        due = [planned.id for planned in self.sums if client in planned.contributors]
        if [term.sum_id for term in upload.inputs] != due:
            raise MalformedMessage(client, self.name, "not the terms that the plan asks for")
        try:
            parsed = [self.accumulators[term.sum_id].parse(term) for term in upload.inputs]
        except ValueError as error:
            raise MalformedMessage(client, self.name, str(error)) from None
        for packed, term in zip(parsed, upload.inputs, strict=True):
            self.accumulators[term.sum_id].add(client, packed, term)
        self.upload_hashes[client] = frame_hash(frame)

    def survivors(self) -> tuple[str, ...]:
        """Return whose uploads are in the sums: the survivor set U."""
        return tuple(sorted(self.upload_hashes))

    def finish(self) -> Phase:
        """Ask for signatures of the survivor set next."""
        self.enough(self.survivors())
        return Consistent(
            Inputs(self.setup, self.clients, self.sums, self.accumulators, self.upload_hashes)
        )
