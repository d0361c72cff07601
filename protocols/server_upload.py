"""One client's upload at the server: kept apart while it comes in parts, then added at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from protocols.accumulators import Accumulator
from protocols.errors import MalformedMessage, UnexpectedMessage
from protocols.frame import frame_hash
from protocols.messages import MaskedInput, MaskedPart, MaskedVector, Message, VectorSpan
from protocols.parts import Span, cut, length_of
from protocols.ring import Packed, packed_bytes
from protocols.server_phase import ServerContext
from protocols.storage import Storage

PHASE = "masked_input"


class Upload:
    """What one client is to send, and what has come of it.

    Until the last part names the hashes of all others nothing is added, so that a client that
    vanishes in between contributes nothing.
    """

    def __init__(self, context: ServerContext, client: str, sum_ids: Sequence[str]) -> None:
        self._context, self.client = context, client
        self.parts = cut(context.parameters, sum_ids)
        self.hashes: list[bytes] = []
        self.complete = False
        self._kept: dict[str, Storage] = {}

    @property
    def due(self) -> str:
        """The kind of message that comes next."""
        return "masked_part" if len(self.hashes) + 1 < len(self.parts) else "masked_input"

    def take(self, message: Message, frame: bytes, accumulators: Mapping[str, Accumulator]) -> None:
        """Keep a part, or add all of them to the sums.

        Raises:
            MalformedMessage: other terms, lengths or padding than are due, or hashes of other
                parts than came.
            UnexpectedMessage: another part than the next.
        """
        if isinstance(message, MaskedPart) and self.due == message.kind:
            self._keep(message, frame)
        elif isinstance(message, MaskedInput) and self.due == message.kind:
            self._add(message, frame, accumulators)
        else:
            raise UnexpectedMessage(self.client, PHASE, f"{self.due} is due, not {message.kind}")

    def _keep(self, message: MaskedPart, frame: bytes) -> None:
        if message.part != len(self.hashes):
            reason = f"part {message.part} where {len(self.hashes)} is due"
            raise UnexpectedMessage(self.client, PHASE, reason)
        for span, packed in self._checked(message.spans):
            if span.sum_id not in self._kept:
                self._kept[span.sum_id] = self._allocate(span.sum_id)
            data = np.concatenate(packed.halves())
            self._kept[span.sum_id].write(self._place(span.start), data)
        self.hashes.append(frame_hash(frame))

    def _add(
        self, message: MaskedInput, frame: bytes, accumulators: Mapping[str, Accumulator]
    ) -> None:
        if list(message.parts) != self.hashes:
            raise MalformedMessage(self.client, PHASE, "the hashes of other parts than came")
        last = self._checked(message.inputs)
        for part in self.parts[:-1]:
            for span in part:
                accumulators[span.sum_id].add(span.start, self._read(span))
        for span, packed in last:
            accumulators[span.sum_id].add(span.start, packed)
        for term in message.inputs:
            accumulators[term.sum_id].add_scalars(self.client, term.scalars)
        self.hashes.append(frame_hash(frame))
        self.complete = True
        self.free()

    def _checked(self, sent: Sequence[VectorSpan | MaskedVector]) -> list[tuple[Span, Packed]]:
        """Return the spans of the part that is due, each with its words."""
        part, bits = self.parts[len(self.hashes)], self._context.parameters.ring_bits
        if [item.sum_id for item in sent] != [span.sum_id for span in part]:
            raise MalformedMessage(self.client, PHASE, "not the terms that the plan asks for")
        found = []
        for span, item in zip(part, sent, strict=True):
            try:
                packed = Packed(bits, span.length, item.packed)
            except ValueError as error:
                raise MalformedMessage(self.client, PHASE, str(error)) from None
            if not packed.padding_is_zero():
                raise MalformedMessage(self.client, PHASE, "padding that is not zero")
            found.append((span, packed))
        return found

    def _allocate(self, sum_id: str) -> Storage:
        parameters = self._context.parameters
        size = packed_bytes(parameters.ring_bits, length_of(parameters, sum_id))
        return self._context.allocate(f"upload-{self.client}", size)

    def _place(self, start: int) -> int:
        """Return where the words from ``start`` on are kept: whole spans, one behind the other."""
        return packed_bytes(self._context.parameters.ring_bits, start)

    def _read(self, span: Span) -> Packed:
        bits = self._context.parameters.ring_bits
        size = packed_bytes(bits, span.length)
        data = self._kept[span.sum_id].read(self._place(span.start), size)
        return Packed(bits, span.length, data.tobytes())

    def free(self) -> None:
        """Forget the parts that came."""
        for storage in self._kept.values():
            storage.free()
        self._kept.clear()
