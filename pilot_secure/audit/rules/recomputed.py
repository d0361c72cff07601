"""M01, M04, L01 and H02 with escrowed seeds: masks, sums, weights and distances once more."""

from __future__ import annotations

import numpy as np

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.reopened import (
    Reopened,
    Secrets,
    Term,
    decoded,
    delivered,
    hidden_lists,
    signed_words,
    sketched,
    terms,
)
from pilot_secure.audit.rule import Options, Rule
from pilot_secure.audit.rules.distances import H02Release
from pilot_secure.audit.rules.leakage import L01Leverage
from pilot_secure.audit.rules.masks import M01Derivation, M04Sums
from pilot_secure.audit.spans import SentVector
from pilot_secure.errors import RunFolderError
from protocols.escrow import Escrow
from protocols.identity import SERVER
from protocols.leakage import OpenedRow
from protocols.masks import MaskStream, mask_scalars
from protocols.messages import PlannedSum, scalars_from_wire
from protocols.parameter_sets import PARAMETER_SETS
from protocols.parameters import AggregationParameters
from protocols.results import fixed_point_of
from protocols.ring import CHUNK, NOISE_REACH, SCALAR_MASK, WEIGHT_STEP
from protocols.selection import weight
from protocols.sketch import sketch_norm_bound

ONE = round(1 / WEIGHT_STEP)


class Reopening:
    """Opens each attempt once, for all four rules. Memory: its sums, and a sketch per client."""

    def __init__(self, bundle: Bundle, escrow: Escrow) -> None:
        self._bundle, self._escrow = bundle, escrow
        self._place: int | None = None
        self._found: Reopened | None = None
        self.faults: list[tuple[str, int | None, str]] = []

    def of(self, attempt: Attempt) -> tuple[Secrets, Reopened] | None:
        """Return what an attempt's uploads hold; None where nothing can be opened.

        Raises: RunFolderError if the escrow is another run's.
        """
        if self._place != attempt.place:
            self._place, self.faults, self._found = attempt.place, [], None
            if self._can_open(attempt):
                self._secrets = Secrets(attempt, self._escrow)
                self._found = None if self._strange(attempt) else self._open(attempt)
        return None if self._found is None else (self._secrets, self._found)

    def _can_open(self, attempt: Attempt) -> bool:
        p, escrow = attempt.parameters, self._escrow
        if p is not None and p.run_id != escrow.run_id:
            raise RunFolderError(
                f"The escrow is of run {escrow.run_id}, {attempt.label} is of run {p.run_id}: "
                "expected the escrow.json of the run that is replayed."
            )
        return p is not None and attempt.complete and bool(attempt.uploads)

    def _strange(self, attempt: Attempt) -> bool:
        for name in self._secrets.strangers():
            found = f"{name} advertised other keys than its escrowed seed gives"
            self.faults.append((attempt.label, attempt.first_seq, found))
        return bool(self.faults)

    def _open(self, attempt: Attempt) -> Reopened:
        found, survivors = Reopened(), set(attempt.survivors)
        for client in sorted(attempt.uploads):
            best: Term | None = None
            for term in terms(self._bundle, attempt, self._secrets, client):
                sound = self._check(attempt, term)
                self._note(found, term)
                if client in survivors:
                    self._add(found, term)
                selected = self._secrets.parameters.sum(term.planned.id).contributors == "selected"
                if sound and selected and term.scalars[2] > (best.scalars[2] if best else 0):
                    best = term
            if best is not None:
                self._sketch(found, best)
        found.lists = hidden_lists(self._bundle, attempt, self._secrets)
        return found

    def _check(self, attempt: Attempt, term: Term) -> bool:
        """Whether a term without its masks is an encoding: possible scalars and coordinates."""
        p = self._secrets.parameters
        samples, steps, both = term.scalars
        spec = p.sum(term.planned.id)
        possible = 1 <= samples <= p.max_samples and 0 < steps <= ONE and both == samples * steps
        if spec.contributors == "selected":
            possible |= term.scalars == (0, 0, 0)
        elif possible:
            possible = steps == ONE
        largest = int(np.abs(signed_words(term.words, p.ring_bits)).max())
        point = fixed_point_of(p, term.planned)
        allowed = p.clip[spec.vector] * point.scale * both * WEIGHT_STEP / p.max_samples
        allowed += NOISE_REACH * point.noise_steps
        if not possible or largest > allowed * (1 + 2.0**-20) + 1:
            found = f"{term.client}'s term of {term.planned.id} less its masks is no encoding"
            self.faults.append((attempt.label, term.seq, found))
            return False
        return True

    @staticmethod
    def _note(found: Reopened, term: Term) -> None:
        samples, steps, _both = term.scalars
        if samples:
            found.samples[term.client] = samples
        found.weights[term.client, term.planned.id] = steps * WEIGHT_STEP

    def _add(self, found: Reopened, term: Term) -> None:
        """Add a survivor's term, and its recipient mask, to its sum."""
        planned, words, scalars = term.planned, term.words, term.scalars
        if planned.recipient != SERVER:
            key = self._secrets.recipient_mask(term.client, planned, 1)
            mask, scalars = MaskStream([key]), mask_scalars([key], scalars)
            words = words.copy()
            for start in range(0, len(words), CHUNK):
                mask.mask_chunk(words[start : start + CHUNK])
        if planned.id not in found.sums:
            found.sums[planned.id] = np.zeros(len(words), np.uint32)
            found.scalars[planned.id] = (0,) * len(scalars)
        found.sums[planned.id] += words
        before = found.scalars[planned.id]
        found.scalars[planned.id] = tuple(
            (a + b) & SCALAR_MASK for a, b in zip(before, scalars, strict=True)
        )

    def _sketch(self, found: Reopened, term: Term) -> None:
        p = self._secrets.parameters
        vector, error = decoded(p, term)
        clip = p.clip[p.sum(term.planned.id).vector]
        if float(np.abs(vector).max()) < clip - 2 * error:  # a clipped one was sketched unclipped
            found.sketches[term.client] = sketched(p, self._secrets.session, vector)
            found.norm_errors[term.client] = error * len(vector) ** 0.5


class _Recomputed(Rule):
    """A rule that reads what the escrow opens."""

    def __init__(self, bundle: Bundle, options: Options, reopening: Reopening) -> None:
        super().__init__(bundle, options)
        self.reopening = reopening


class M01Recomputed(_Recomputed):
    """Every mask is what the specification derives from the escrowed seeds."""

    id, title, evidence = M01Derivation.id, M01Derivation.title, M01Derivation.evidence

    def conclude(self, attempt: Attempt) -> None:
        """Look at all terms of an attempt."""
        opened = self.reopening.of(attempt)
        if opened is not None:
            self.checked += len(opened[1].weights)
        for where, seq, found in self.reopening.faults:
            self.fail(where, seq, found, "AES-256-CTR under HKDF keys of the escrowed secrets")


class M04Recomputed(_Recomputed):
    """Every delivered sum is the sum of the terms."""

    id, title, evidence = M04Sums.id, M04Sums.title, M04Sums.evidence

    def conclude(self, attempt: Attempt) -> None:
        """Compare each delivery with the sums."""
        opened = self.reopening.of(attempt)
        if opened is None:
            return
        secrets, found = opened
        planned = {item.id: item for item in attempt.plan}
        for client in sorted(attempt.told):
            for sum_id, item in sorted(delivered(self.bundle, attempt, client).items()):
                if sum_id in planned:
                    self.checked += 1
                    self._compare(attempt, secrets.parameters, planned[sum_id], item, found)

    def _compare(
        self,
        attempt: Attempt,
        p: AggregationParameters,
        planned: PlannedSum,
        item: SentVector,
        found: Reopened,
    ) -> None:
        words = found.sums.get(planned.id)
        seq = attempt.last_seq
        if words is None:
            self.fail(attempt.label, seq, f"{planned.id} was delivered", "nobody sent a term of it")
            return
        wrong = np.flatnonzero(item.words != words & np.uint32((1 << p.ring_bits) - 1))
        if len(wrong):
            what = f"{planned.id} differs in {len(wrong)} coordinates, first {wrong[0]}"
            self.fail(attempt.label, seq, what, "the sum of the survivors' terms")
        if scalars_from_wire(item.scalars) != found.scalars[planned.id]:
            what = f"the scalars of {planned.id}"
            self.fail(attempt.label, seq, what, "the sums of the survivors' scalars")


class L01Recomputed(L01Leverage):
    """Leverage with the private sample counts and weights."""

    def __init__(self, bundle: Bundle, options: Options, reopening: Reopening) -> None:
        super().__init__(bundle, options)
        self.reopening = reopening

    def conclude(self, attempt: Attempt) -> None:
        """Judge the sums that were opened, with their true coefficients."""
        p, opened = attempt.parameters, self.reopening.of(attempt)
        if p is None or not attempt.opened:
            return
        if opened is None:
            super().conclude(attempt)
            return
        _secrets, found = opened
        rows = private_rows(attempt, found)
        self.judge(attempt, rows)
        self.note("leverage with the escrowed sample counts and weights")


def private_rows(attempt: Attempt, found: Reopened) -> list[OpenedRow]:
    """The opened sums as rows with the coefficients n u that clients applied."""
    assert attempt.parameters is not None
    rows, survivors = [], set(attempt.survivors)
    for planned in attempt.plan:
        if planned.id not in attempt.opened:
            continue
        spec = attempt.parameters.sum(planned.id)
        there = [name for name in planned.contributors if name in survivors]
        coefficients = {
            name: found.samples.get(name, 0) * found.weights.get((name, planned.id), 0.0)
            for name in there
        }
        real = {name: value for name, value in coefficients.items() if value > 0}
        rows.append(OpenedRow(spec.vector, spec.recipient, real))
    return rows


class H02Recomputed(H02Release):
    """Lists, scales and weights are what the distances between the opened vectors give."""

    def __init__(self, bundle: Bundle, options: Options, reopening: Reopening) -> None:
        super().__init__(bundle, options)
        self.reopening = reopening

    def conclude(self, attempt: Attempt) -> None:
        """Compare every client's selection, and the weights that others applied for it."""
        p, opened = attempt.parameters, self.reopening.of(attempt)
        if p is None or not p.selects:
            super().conclude(attempt)
            return
        if opened is None:
            return
        _secrets, found = opened
        unknown = sorted(set(attempt.uploads) - set(found.sketches))
        if unknown:
            who = ", ".join(unknown)
            self.note(f"{attempt.label}: vectors of {who} were clipped or unused: no distances")
        for client in sorted(found.lists):
            if client in found.sketches:
                self._check_selection(attempt, p, client, found)

    def _check_selection(
        self, attempt: Attempt, p: AggregationParameters, client: str, found: Reopened
    ) -> None:
        bounds = {
            peer: distance_bounds(p, client, peer, found)
            for peer in found.sketches
            if peer != client
        }
        chosen = found.lists[client]
        near = [peer for peer in chosen.neighbours if peer in bounds]
        far = [peer for peer in bounds if peer not in chosen.neighbours]
        for peer in near:
            self.checked += 1
            closer = [other for other in far if bounds[other][1] < bounds[peer][0]]
            if closer:
                what = f"{client} selected {peer}, though {', '.join(closer)} is nearer"
                self.fail(attempt.label, attempt.last_seq, what, "its nearest peers")
            self._check_weight(attempt, p, client, peer, bounds[peer], found)
        if len(near) == len(chosen.neighbours) and near:
            low = min(bounds[peer][0] for peer in near)
            high = min(bounds[peer][1] for peer in near)
            if not low <= chosen.scale <= high:
                what = f"{client}'s scale is {chosen.scale:.6g}"
                self.fail(attempt.label, attempt.last_seq, what, f"{low:.6g} to {high:.6g}")

    def _check_weight(
        self,
        attempt: Attempt,
        p: AggregationParameters,
        client: str,
        peer: str,
        bounds: tuple[float, float],
        found: Reopened,
    ) -> None:
        sum_id = next((s.id for s in p.sums if s.recipient == client), None)
        applied = found.weights.get((peer, sum_id or ""))
        if applied is None:
            return
        scale = found.lists[client].scale
        low, high = weight(scale, bounds[1]), weight(scale, bounds[0])
        if not low - 2 * WEIGHT_STEP <= applied <= high + 2 * WEIGHT_STEP:
            what = f"{peer} weighted its term for {client} with {applied:.6f}"
            self.fail(attempt.label, attempt.last_seq, what, f"{low:.6f} to {high:.6f}")


def distance_bounds(
    p: AggregationParameters, one: str, other: str, found: Reopened
) -> tuple[float, float]:
    """Between what a released distance can lie, by the rounding of encodings and of CKKS."""
    difference = found.sketches[one] - found.sketches[other]
    distance = float(np.sqrt(difference @ difference))
    length = p.vector_lengths[p.distance_vector or ""]
    bound = sketch_norm_bound(p.distance_norm_bound, length, p.sketch_size)
    slack = PARAMETER_SETS[p.distance_parameter_set].error_bound * bound**2
    rounding = 3 * (found.norm_errors[one] + found.norm_errors[other])
    low = max(0.0, max(0.0, distance - rounding) ** 2 - slack) ** 0.5
    high = ((distance + rounding) ** 2 + slack) ** 0.5
    return low, high
