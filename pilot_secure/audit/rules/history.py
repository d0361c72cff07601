"""Whether aggregations are missing between those that a transcript holds.

A server can leave a whole aggregation out, receipts included, and sign what is left. But every
client says in its next advertisement, which it signs, which results it was told last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.reopened import read_again
from pilot_secure.audit.spans import SentVector, whole_vectors
from protocols.identity import sha256
from protocols.messages import Advertisement, Delivery, PlannedSum, scalars_from_wire
from protocols.parameters import AggregationParameters
from protocols.results import fixed_point_of, results_hash, weighted_by

NOTHING_BEFORE = bytes(32)


class KnownResults:
    """The hashes of all results that a transcript shows as told, by which clients refer to them.

    Memory: a hash for each delivery that differs, and one delivery at a time.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._hashes = {NOTHING_BEFORE}
        self._seen: set[bytes] = set()
        self.gap = False

    def see(self, entry: Entry, attempt: Attempt) -> str | None:
        """Take in a delivery; returns what is wrong with an advertisement, if anything."""
        message = entry.message
        if entry.frame is None and entry.record.phase == "deliver" and entry.from_server:
            self.gap = True
        if isinstance(message, Delivery):
            self._add(attempt, message, entry.client)
        elif isinstance(message, Advertisement) and not self.gap:
            told = message.previous_results
            if told not in self._hashes:
                return f"{entry.client} was told the results {told.hex()[:12]}… before"
        return None

    def _add(self, attempt: Attempt, message: Delivery, client: str) -> None:
        p = attempt.parameters
        if p is None or attempt.session is None:
            self.gap = True
            return
        earlier = attempt.told_parts.get(client, [])
        parts = (read_again(self._bundle, record) for record in earlier)
        vectors = whole_vectors(p, (*parts, message))
        planned = {item.id: item for item in attempt.plan}
        told = {item.sum_id: vectors.get(item.sum_id) for item in message.opened}
        if not all(name in planned and _readable(vector) for name, vector in told.items()):
            self.gap = True  # what a client made of it is unknown; B01 or S05 tells
            return
        sums = {name: vector for name, vector in told.items() if vector is not None}
        content = [(name.encode(), *v.scalars, v.words.tobytes()) for name, v in sums.items()]
        digest = sha256(attempt.session.encode(), *(sha256(part) for c in content for part in c))
        if digest in self._seen:
            return
        self._seen.add(digest)
        means = {
            spec.id: _mean(p, planned[spec.id], sums[spec.id]) if spec.id in sums else None
            for spec in p.sums
            if not spec.sealed
        }
        self._hashes.add(results_hash(bytes.fromhex(attempt.session), means))


def _readable(vector: SentVector | None) -> bool:
    return vector is not None and scalars_from_wire(vector.scalars)[0] > 0


def _mean(p: AggregationParameters, planned: PlannedSum, vector: SentVector) -> NDArray[np.float32]:
    """The mean that a client decodes, to the bit."""
    mean = np.empty(len(vector.words), np.float32)
    fixed_point_of(p, planned).decode(vector.words, mean)
    return weighted_by(mean, scalars_from_wire(vector.scalars)[0])
