"""Whether aggregations are missing between those that a transcript holds.

A server can leave a whole aggregation out, receipts included, and sign what is left. But every
client says in its next advertisement, which it signs, which results it was told last.
"""

from __future__ import annotations

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.entries import Entry
from protocols.identity import sha256
from protocols.messages import Advertisement, Delivery, OpenedSum, PlannedSum, scalars_from_wire
from protocols.parameters import AggregationParameters
from protocols.results import mean_of, results_hash
from protocols.ring import packed_bytes

NOTHING_BEFORE = bytes(32)


class KnownResults:
    """The hashes of all results that a transcript shows as told, by which clients refer to them.

    Memory: a hash for each delivery that differs, and one mean at a time.
    """

    def __init__(self) -> None:
        self._hashes = {NOTHING_BEFORE}
        self._seen: set[bytes] = set()
        self.gap = False

    def see(self, entry: Entry, attempt: Attempt) -> str | None:
        """Take in a delivery; returns what is wrong with an advertisement, if anything."""
        message = entry.message
        if entry.frame is None and entry.record.phase == "deliver" and entry.from_server:
            self.gap = True
        if isinstance(message, Delivery):
            self._add(attempt, message)
        elif isinstance(message, Advertisement) and not self.gap:
            told = message.previous_results
            if told not in self._hashes:
                return f"{entry.client} was told the results {told.hex()[:12]}… before"
        return None

    def _add(self, attempt: Attempt, message: Delivery) -> None:
        p = attempt.parameters
        if p is None or attempt.session is None:
            self.gap = True
            return
        opened = {item.sum_id: item for item in message.opened}
        planned = {item.id: item for item in attempt.plan}
        if not all(_readable(p, planned, item) for item in message.opened):
            self.gap = True  # what a client made of it is unknown; B01 or S05 tells
            return
        content = [(item.sum_id.encode(), *item.scalars, item.packed) for item in message.opened]
        digest = sha256(attempt.session.encode(), *(sha256(part) for c in content for part in c))
        if digest in self._seen:
            return
        self._seen.add(digest)
        means = {
            spec.id: mean_of(p, planned[spec.id], opened[spec.id]) if spec.id in opened else None
            for spec in p.sums
            if not spec.sealed
        }
        self._hashes.add(results_hash(bytes.fromhex(attempt.session), means))


def _readable(p: AggregationParameters, planned: dict[str, PlannedSum], item: OpenedSum) -> bool:
    if item.sum_id not in planned or item.sum_id not in {spec.id for spec in p.sums}:
        return False
    length = p.vector_lengths[p.sum(item.sum_id).vector]
    fits = len(item.packed) == packed_bytes(p.ring_bits, length)
    return fits and scalars_from_wire(item.scalars)[0] > 0
