"""The server's last phase: send the opened sums, at once or in parts, and collect receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from protocols.accumulators import OpenedVector
from protocols.errors import UnexpectedMessage
from protocols.frame import expect
from protocols.identity import SERVER
from protocols.messages import (
    Delivery,
    DeliveryPart,
    Message,
    OpenedSum,
    PartTaken,
    PlannedSum,
    Receipt,
    VectorSpan,
)
from protocols.parts import Part, cut
from protocols.server_phase import Phase, ServerContext


@dataclass
class Opening:
    """Which sums were opened, over whom, and which were not and why; vectors are in storage."""

    sums: Sequence[PlannedSum]
    opened: dict[str, OpenedVector] = field(default_factory=dict)
    contributors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def ids_for(self, recipient: str) -> list[str]:
        """Return the opened sums for one recipient, or for all (``SERVER``)."""
        return sorted(s.id for s in self.sums if s.recipient == recipient and s.id in self.opened)


class Deliver(Phase):
    """Send each client its next part until it has confirmed the last one."""

    name, reply_kind = "deliver", "receipt"

    def __init__(
        self, context: ServerContext, clients: tuple[str, ...], session: bytes, opening: Opening
    ) -> None:
        super().__init__(context, clients, session)
        self.opening = opening
        self.receipts: dict[str, bytes] = {}
        self._asked, self._taken = clients, set[str]()
        self._for_all = opening.ids_for(SERVER)

    @property
    def asked(self) -> tuple[str, ...]:
        """Who gets a request: whoever has not confirmed the whole delivery."""
        return self._asked

    def _parts(self, client: str) -> tuple[Part, ...]:
        return cut(self.context.parameters, [*self._for_all, *self.opening.ids_for(client)])

    def due(self, client: str) -> str:
        """Return what comes next of this client."""
        return "part_taken" if self.part + 1 < len(self._parts(client)) else "receipt"

    def request(self, client: str) -> DeliveryPart | Delivery:
        """Return the next part of the sums for everybody and of this client's own sealed sum."""
        parts = self._parts(client)
        header: dict[str, Any] = {"session": self.session, "sender": SERVER, "recipient": client}
        vectors, part = self.opening.opened, parts[self.part]
        spans = {
            span.sum_id: vectors[span.sum_id].span(span.start, span.stop).to_bytes()
            for span in part
        }
        if self.part + 1 < len(parts):
            items = [VectorSpan(sum_id=name, packed=packed) for name, packed in spans.items()]
            return DeliveryPart(**header, part=self.part, spans=tuple(items))
        sums = {
            name: OpenedSum(sum_id=name, packed=packed, scalars=vectors[name].scalars)
            for name, packed in spans.items()
        }
        own = self.opening.ids_for(client)
        return Delivery(
            **header,
            opened=tuple(sums[name] for name in self._for_all),
            sealed=sums[own[0]] if own else None,
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Note that a part has come, or keep the receipt."""
        if self.due(client) == "receipt":
            receipt = expect(message, Receipt, self.session, SERVER, self.name)
            self.receipts[client] = receipt.transcript
            return
        taken = expect(message, PartTaken, self.session, SERVER, self.name)
        if taken.part != self.part:
            reason = f"part {taken.part} taken where {self.part} was sent"
            raise UnexpectedMessage(client, self.name, reason)
        self._taken.add(client)

    def survivors(self) -> tuple[str, ...]:
        """Return who is still there: in the end, who confirmed."""
        return tuple(sorted({*self.receipts, *self._taken}))

    def finish(self) -> Phase | None:
        """Send the next part to whoever took this one; end when there is nobody."""
        if not self._taken:
            return None
        self._asked, self._taken = tuple(sorted(self._taken)), set()
        self.part += 1
        return self
