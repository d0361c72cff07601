"""D01, B01: the privacy ledger adds up, and messages are as long as public facts make them."""

from __future__ import annotations

from collections.abc import Mapping

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import LEDGER, Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Options, Rule
from pilot_secure.audit.rules.shares import real_contributors
from pilot_secure.audit.verdicts import Evidence
from pilot_secure.privacy import (
    ClientLedger,
    LedgerError,
    SharedNoise,
    parse_ledger,
    understated,
)
from pilot_secure.privacy.ledger import Release
from protocols.client_setup import blinding_bytes
from protocols.distance_lengths import padded_list_bytes
from protocols.distance_messages import Selection
from protocols.errors import ParameterError
from protocols.keys import TAG_BYTES
from protocols.messages import (
    Box,
    Delivery,
    DeliveryPart,
    EncryptedShares,
    MaskedInput,
    MaskedPart,
    Plan,
)
from protocols.parameters import AggregationParameters
from protocols.parts import cut, length_of
from protocols.results import fixed_point_of
from protocols.ring import packed_bytes
from protocols.shares import SECRET_BYTES


class D01Ledger(Rule):
    """Each claimed epsilon is what the ledger's releases give, and every upload is a release."""

    id = "D01"
    title = "privacy ledger recomputed from events ≤ the claimed epsilon"
    evidence = (Evidence.LEDGER,)

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._uploaded: dict[tuple[str, int, int], int] = {}
        self._sums: list[SharedNoise] = []

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Note which client sent an upload in which stage of which round.

        Where all that it holds has shared noise, the sums that are opened count, and not it.
        """
        if attempt is None or attempt.parameters is None or entry.from_server:
            return
        p = attempt.parameters
        if entry.record.phase == "masked_input" and {s.vector for s in p.sums} - p.noise.keys():
            place = (entry.client, p.round, p.stage)
            self._uploaded.setdefault(place, entry.record.seq)

    def conclude(self, attempt: Attempt) -> None:
        """Note the noise that the survivors of each opened sum shared."""
        p = attempt.parameters
        if p is None or not attempt.opened:
            return
        for planned in attempt.plan:
            vector = p.sum(planned.id).vector
            if vector in p.noise and planned.id in attempt.opened:
                fixed = fixed_point_of(p, planned)
                self._sums.append(
                    SharedNoise(
                        round=p.round,
                        stage=p.stage,  # type: ignore[arg-type]
                        sum=planned.id,
                        vector=vector,
                        noise_steps=fixed.noise_steps,
                        steps_per_unit=fixed.scale,
                        clipping_norm=1.0,
                        coordinates=p.vector_lengths[vector],
                        weights=dict.fromkeys(real_contributors(attempt, planned), 1.0),
                    )
                )

    def finish(self) -> None:
        """Compute every epsilon again."""
        content = self.bundle.content(LEDGER)
        if content is None:
            self.lack("ledger.json: whatever epsilon may be claimed for the run rests on nothing")
            return
        try:
            ledger = parse_ledger(content)
        except LedgerError as error:
            self.fail(LEDGER, None, str(error), "a privacy ledger")
            return
        claims = {entry.client: entry for entry in ledger.clients if entry.epsilon is not None}
        if not claims:
            self.moot = "the ledger claims no finite epsilon"
            return
        self._check_uploaders({entry.client for entry in ledger.clients})
        self._check_releases(claims)
        self._check_sums(claims)
        try:
            found = understated(ledger)
        except ImportError:
            self.lack("dp-accounting, which recomputes an epsilon, is not installed")
            return
        self.checked += len(claims)
        for client, (claimed, recomputed) in found.items():
            what = f"{client} is claimed an epsilon of {claimed:.4f}"
            self.fail(LEDGER, None, what, f"{recomputed:.4f}, from its releases")

    def _check_uploaders(self, known: set[str]) -> None:
        """Whoever uploaded stands in the ledger."""
        for (client, round_number, stage), seq in self._uploaded.items():
            if client not in known:
                what = f"{client} uploaded in round {round_number}, stage {stage}"
                self.fail(LEDGER, seq, what, "an entry of it in the ledger")

    def _check_releases(self, claims: Mapping[str, ClientLedger]) -> None:
        """Whoever uploaded in a stage has a release of that stage in the ledger."""
        for (client, round_number, stage), seq in self._uploaded.items():
            if client not in claims:
                continue
            self.checked += 1
            releases = claims[client].releases
            if not any((r.round, r.stage) == (round_number, stage) for r in releases):
                what = f"{client} uploaded in round {round_number}, stage {stage}"
                self.fail(LEDGER, seq, what, "a release of that stage in the ledger")

    def _check_sums(self, claims: Mapping[str, ClientLedger]) -> None:
        """Each survivor of a sum with shared noise has it in the ledger as it was."""
        for seen in self._sums:
            for client in seen.weights.keys() & claims.keys():
                self.checked += 1
                written = [r for r in claims[client].releases if _same_sum(r, seen)]
                if not written:
                    what = f"{seen.sum} of round {seen.round}, stage {seen.stage}, was opened"
                    expected = (
                        f"in {client}'s ledger with the noise of {len(seen.weights)} survivors, "
                        f"{seen.noise_steps} steps each"
                    )
                    self.fail(LEDGER, None, what, expected)


def _same_sum(release: Release, seen: SharedNoise) -> bool:
    """Whether a release is this sum with this noise; clip and weights are not in a transcript."""
    if not isinstance(release, SharedNoise):
        return False
    private = {"draw", "clipping_norm", "weights"}
    same = release.model_dump(exclude=private) == seen.model_dump(exclude=private)
    return same and release.weights.keys() == seen.weights.keys()


class B01Bytes(Rule):
    """Boxes, shares and vectors have their public lengths: there is no room for anything else."""

    id = "B01"
    title = "bytes per phase = canonical lengths"
    compares = True

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Compare a message's variable parts with what the parameters make them."""
        if attempt is None or attempt.parameters is None or entry.frame is None:
            return
        self.checked += 1
        match entry.message:
            case EncryptedShares() as message:
                size = share_box_bytes(attempt.parameters, entry.client)
                self._boxes(entry, attempt, message.boxes, size, "shares")
                peers = set(attempt.to(entry.client).members or ()) - {entry.client}
                if attempt.parameters.graph is None and len(message.boxes) != len(peers):
                    found = f"{len(message.boxes)} boxes of shares"
                    self.fail_at(entry, attempt, found, f"one for each of {len(peers)} peers")
            case Selection() as message:
                size = padded_list_bytes(attempt.parameters.most_neighbours) + TAG_BYTES
                self._boxes(entry, attempt, message.boxes, size, "neighbour list")
                hidden = attempt.parameters.neighbour_visibility == "hidden"
                if hidden and message.neighbours:
                    found = "names although lists are hidden"
                    self.fail_at(entry, attempt, found, "an empty list")
            case Plan() as message:
                self._plan(entry, attempt, message)
            case MaskedPart() as message:
                self._terms(entry, attempt, message.part, last=False)
            case MaskedInput() as message:
                self._terms(entry, attempt, len(message.parts), last=True)
            case DeliveryPart():
                self._vectors(entry, attempt)
            case Delivery():
                self._vectors(entry, attempt)

    def _boxes(
        self, entry: Entry, attempt: Attempt, boxes: tuple[Box, ...], size: int, what: str
    ) -> None:
        for box in boxes:
            if len(box.ciphertext) != size:
                found = f"{len(box.ciphertext)} bytes of {what} for {box.party}"
                self.fail_at(entry, attempt, found, f"{size}")

    def _plan(self, entry: Entry, attempt: Attempt, message: Plan) -> None:
        assert attempt.parameters is not None
        for part in message.shares:
            size = share_box_bytes(attempt.parameters, part.party)
            if len(part.ciphertext) != size:
                found = f"{len(part.ciphertext)} bytes of shares from {part.party}"
                self.fail_at(entry, attempt, found, f"{size}")
        size = padded_list_bytes(attempt.parameters.most_neighbours) + TAG_BYTES
        self._boxes(entry, attempt, message.selections, size, "neighbour list")

    def _terms(self, entry: Entry, attempt: Attempt, part: int, *, last: bool) -> None:
        """An upload is cut as the plan and the parameters say."""
        p, due = attempt.parameters, [s.id for s in attempt.plan if entry.client in s.contributors]
        assert p is not None
        if attempt.to(entry.client).sums is None:
            self._vectors(entry, attempt)
            return
        try:
            parts = cut(p, due)
        except ParameterError as error:  # sums that are not the parameters', or far too many parts
            self.fail_at(entry, attempt, str(error), "sums of the parameters")
            return
        spans = parts[part] if part < len(parts) else ()
        sent = {span.sum_id: span.size for span in attempt.spans}
        sizes = {span.sum_id: packed_bytes(p.ring_bits, span.length) for span in spans}
        if list(sent) != list(sizes) or last != (part + 1 == len(parts)):
            found = f"part {part} with terms of {', '.join(sent) or 'nothing'}"
            expected = f"terms of {', '.join(sizes) or 'nothing'}"
            self.fail_at(entry, attempt, found, f"{expected}, in {len(parts)} parts")
        for sum_id in sent.keys() & sizes.keys():
            if sent[sum_id] != sizes[sum_id]:
                found = f"{sent[sum_id]} bytes for {sum_id}"
                self.fail_at(entry, attempt, found, f"{sizes[sum_id]}")

    def _vectors(self, entry: Entry, attempt: Attempt) -> None:
        """Each vector goes on where it stopped, and ends with its last coordinate."""
        p = attempt.parameters
        assert p is not None
        known = {spec.id for spec in p.sums}
        for span in attempt.spans:
            if span.sum_id not in known:
                found = f"a vector for {span.sum_id}"
                self.fail_at(entry, attempt, found, "a sum of the parameters")
                continue
            left = length_of(p, span.sum_id) - span.start
            ended = span.packed is not None and span.packed.length == left
            if span.packed is None or (span.scalars is not None and not ended):
                due = packed_bytes(p.ring_bits, left)
                self.fail_at(entry, attempt, f"{span.size} bytes for {span.sum_id}", f"{due}")


def share_box_bytes(parameters: AggregationParameters, owner: str) -> int:
    """The public length of one box of ``owner``'s shares."""
    secrets = SECRET_BYTES * (1 + len(parameters.sums_of(owner)))
    return secrets + blinding_bytes(parameters) + TAG_BYTES
