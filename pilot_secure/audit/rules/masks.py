"""M01–M04: masks come from the specified derivation, fit the ring, are used once, and cancel."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Options, Rule
from pilot_secure.audit.rules.shares import real_contributors
from pilot_secure.audit.spans import SentSpan
from pilot_secure.audit.verdicts import Evidence
from protocols.identity import SERVER, sha256
from protocols.messages import PlannedSum, scalars_from_wire
from protocols.parameters import MIN_LEVELS
from protocols.results import fixed_point_of
from protocols.ring import CHUNK, NOISE_REACH, Packed

ESCROW = "escrowed seeds: `audit replay RUN --escrow` recomputes the masks"
HEAD, SPREAD = 512, 512
MAX_KEPT = 4096
WINDOWS = (16, 4)  # a difference within ±ring/(2·window) of zero has probability 1/window
PAIR_P = 1e-15  # a million pairs stay below 1e-9


class M01Derivation(Rule):
    """Masks can be recomputed from escrowed seeds only."""

    id = "M01"
    title = "mask derivation allow-listed (escrow: recomputed)"
    evidence = (Evidence.PAYLOADS, Evidence.PARAMETERS, Evidence.ESCROW)

    def finish(self) -> None:
        """Say what is missing."""
        self.lack(ESCROW)


class M04Sums(Rule):
    """A sum is one for all clients; whether it is the right one, escrowed seeds tell."""

    id = "M04"
    title = "sum of masked inputs − masks = published result (escrow)"
    evidence = (Evidence.PAYLOADS, Evidence.PARAMETERS, Evidence.ESCROW)

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._told: dict[tuple[int, str, int], tuple[bytes, str]] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Compare what a client is delivered of a sum for all with what the first was."""
        if attempt is None or not entry.from_server:
            return
        for_all = {item.id for item in attempt.plan if item.recipient == SERVER}
        for span in attempt.spans:
            if span.sum_id not in for_all or span.packed is None:
                continue
            self.checked += 1
            words = (half.data for half in span.packed.halves())
            digest = sha256(*words, *(span.scalars or ()))
            place = (attempt.place, span.sum_id, span.start)
            first, client = self._told.setdefault(place, (digest, entry.client))
            if digest != first:
                found = f"{entry.client} was delivered another {span.sum_id} than {client}"
                self.fail_at(entry, attempt, found, "one sum for all")

    def finish(self) -> None:
        """Say what is missing."""
        self.lack(ESCROW)


class M02Headroom(Rule):
    """The ring holds every planned sum, and every opened sum is within what the clips allow."""

    id = "M02"
    title = "ring headroom from public maxima"
    compares = True

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._measured: dict[tuple[str, int, bytes], int] = {}
        self._largest: dict[tuple[int, str, str], int] = {}
        self._done: set[tuple[int, str, bytes, int]] = set()

    def conclude(self, attempt: Attempt) -> None:
        """Look at the parameters: levels of the largest sum."""
        p = attempt.parameters
        if p is None:
            return
        self.checked += 1
        largest = max((len(p.potential_contributors(spec)) for spec in p.sums), default=0)
        levels = (2 ** (p.ring_bits - 1) - 1) // max(largest, 1)
        if levels < MIN_LEVELS:
            found = f"{p.ring_bits} bits leave {levels} levels to {largest} contributors"
            self.fail(attempt.label, attempt.first_seq, found, f"{MIN_LEVELS} levels at least")

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at the sums of a delivery that are for all; each is judged once it is whole."""
        if attempt is None or attempt.parameters is None or not entry.from_server:
            return
        planned = {s.id: s for s in attempt.plan if s.recipient == SERVER}
        for span in attempt.spans:
            if span.sum_id not in planned or span.packed is None:
                continue  # B01 tells
            place = (attempt.place, entry.client, span.sum_id)
            largest = max(self._largest.pop(place, 0), self._measure(span.sum_id, span))
            if span.scalars is None:
                self._largest[place] = largest
                continue
            key = (attempt.place, span.sum_id, span.scalars[0], largest)
            if key not in self._done:
                self._done.add(key)
                samples = scalars_from_wire(span.scalars)[0]
                self._check(entry, attempt, planned[span.sum_id], samples, largest)

    def _measure(self, sum_id: str, span: SentSpan) -> int:
        """The largest coordinate of a span, computed once though all clients were sent it."""
        assert span.packed is not None
        digest = sha256(*(half.data for half in span.packed.halves()))
        key = (sum_id, span.start, digest)
        if key not in self._measured:
            self._measured[key] = largest_coordinate(span.packed)
        return self._measured[key]

    def _check(
        self, entry: Entry, attempt: Attempt, planned: PlannedSum, samples: int, largest: int
    ) -> None:
        """|Σ round(x n/V S)| ≤ clip S Σn / V + c/2, with the opened Σn, and the noise's reach."""
        p = attempt.parameters
        assert p is not None
        self.checked += 1
        point = fixed_point_of(p, planned)
        terms = len(real_contributors(attempt, planned))
        clip = p.clip[p.sum(planned.id).vector]
        allowed = clip * point.scale * samples / p.max_samples * (1 + 2.0**-20)
        allowed += NOISE_REACH * point.noise_steps * math.sqrt(terms)
        if largest > allowed + terms / 2 + 1:
            found = f"a coordinate of {planned.id} is {largest} steps"
            expected = f"{allowed + terms / 2:.0f} at most, by clip, scale and sample count"
            self.fail_at(entry, attempt, found, expected)


def largest_coordinate(packed: Packed) -> int:
    """Return the largest absolute value of packed words, read as signed."""
    words, largest, shift = np.empty(CHUNK, np.uint32), 0, 32 - packed.bits
    for start in range(0, packed.length, CHUNK):
        part = words[: min(CHUNK, packed.length - start)]
        part[:] = 0
        packed.add_to(start, part)
        signed = (part << np.uint32(shift)).view(np.int32).astype(np.int64) >> shift
        largest = max(largest, int(np.abs(signed).max()))
    return largest


@lru_cache(maxsize=4096)
def _critical(count: int, window: int) -> int:
    """The smallest number of hits among ``count`` whose binomial tail is below PAIR_P."""
    p, tail = 1 / window, 0.0
    for hits in range(count, -1, -1):
        log = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
        tail += math.exp(log + hits * math.log(p) + (count - hits) * math.log1p(-p))
        if tail >= PAIR_P:
            return hits + 1
    return 0


class M03Uniform(Rule):
    """No two masked vectors wear the same mask, and none wears no mask.

    The difference of two vectors under one mask is a difference of encodings, which crowds around
    zero; that of two independent masks is uniform. A thousand coordinates of each vector are kept,
    half from its start, half spread over it; of one that went in parts, as many of each part.
    """

    id = "M03"
    title = "differences of masked vectors uniform, within and across rounds"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._kept: dict[tuple[int, int], list[NDArray[np.uint32]]] = {}
        self._names: dict[tuple[int, int], list[tuple[str, int]]] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Compare each span of an upload with all that were kept from the same coordinate on."""
        if attempt is None or entry.from_server:
            return
        for span in attempt.spans:
            if span.packed is not None and span.packed.length:
                self._compare(entry, attempt, span, _sample(span.packed))

    def _compare(
        self,
        entry: Entry,
        attempt: Attempt,
        span: SentSpan,
        sample: NDArray[np.uint32],
    ) -> None:
        assert span.packed is not None
        sum_id, bits = span.sum_id, span.packed.bits
        kept = self._kept.setdefault((bits, span.start), [np.zeros(HEAD + SPREAD, np.uint32)])
        names = self._names.setdefault((bits, span.start), [("nothing: it wears no mask", -1)])
        by_size: dict[int, list[int]] = {}
        for place, other in enumerate(kept):
            same = len(other) == len(sample) or place == 0
            size = len(sample) if same else min(HEAD, len(other), len(sample))
            by_size.setdefault(size, []).append(place)
        for size, places in by_size.items():
            others = np.stack([kept[place][:size] for place in places])
            for row in crowded(sample[:size] - others, bits):
                what, seq = names[places[row]]
                where = f"{what} (entry {seq})" if seq >= 0 else what
                found = f"the term of {sum_id} differs too little from {where}"
                self.fail_at(entry, attempt, found, "a fresh mask, so a uniform difference")
            self.checked += len(places)
        if len(kept) < MAX_KEPT:
            kept.append(sample)
            names.append((f"{entry.client}'s term of {sum_id}, {attempt.label}", entry.record.seq))
        else:
            self.note(f"compared with the first {MAX_KEPT} masked vectors only")


def crowded(differences: NDArray[np.uint32], bits: int) -> list[int]:
    """Return the rows of [pairs, coordinates] mod 2^bits that crowd around zero."""
    signed = (differences << np.uint32(32 - bits)).view(np.int32)
    count = signed.shape[1]
    found: set[int] = set()
    for window in WINDOWS:
        limit = 2**31 // window
        hits = ((signed >= -limit) & (signed < limit)).sum(axis=1)
        found |= set(np.flatnonzero(hits >= _critical(count, window)).tolist())
    return sorted(found)


def _sample(vector: Packed) -> NDArray[np.uint32]:
    """The first coordinates and some that are spread over the rest, as words."""
    length = vector.length
    head = np.zeros(min(HEAD, length), np.uint32)
    vector.add_to(0, head)
    if length <= HEAD + SPREAD:
        whole = np.zeros(length, np.uint32)
        vector.add_to(0, whole)
        return whole
    step = (length - HEAD) // SPREAD
    words = []
    for start in range(HEAD, HEAD + step * SPREAD, step):
        pair = np.zeros(2, np.uint32)
        vector.add_to(start - start % 2, pair)
        words.append(pair[start % 2])
    return np.concatenate([head, np.array(words, np.uint32)])
