"""The server's way to the sums: consistency, unmasking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from protocols import shares
from protocols.accumulators import Accumulator
from protocols.client_setup import MASK_KEY
from protocols.errors import BadShare, BadSurvivors, MalformedMessage
from protocols.frame import expect
from protocols.graph import sharing_threshold
from protocols.identity import SERVER
from protocols.keys import KeyPair, pairwise_mask_key, self_mask_key
from protocols.masks import MaskKey
from protocols.messages import (
    Consistency,
    Message,
    PlannedSum,
    SignedBy,
    SurvivorSet,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.plan import plan_digest, statement
from protocols.results import possible_samples
from protocols.server_deliver import Deliver, Opening
from protocols.server_phase import Phase, Setup


@dataclass(frozen=True)
class Inputs:
    """The masked inputs: who was planned to send them, the running sums, and what came."""

    setup: Setup
    participants: tuple[str, ...]
    sums: tuple[PlannedSum, ...]
    accumulators: dict[str, Accumulator]
    upload_hashes: Mapping[str, bytes]

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose uploads are in the sums: the survivor set U."""
        return tuple(sorted(self.upload_hashes))


class Consistent(Phase):
    """Collect signatures of one survivor set; who saw other lists than most is left out."""

    name, reply_kind = "consistency", "consistency"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs.setup.context, inputs.survivors, inputs.setup.session)
        self.inputs = inputs
        self.signatures: dict[str, bytes] = {}
        self._lists: dict[str, bytes] = {}

    def request(self, client: str) -> SurvivorSet:
        """Return the survivor set with the hash of each upload."""
        hashes = self.inputs.upload_hashes
        return SurvivorSet(
            session=self.session,
            sender=SERVER,
            recipient=client,
            survivors=self.clients,
            upload_hashes=tuple(hashes[name] for name in self.clients),
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one signature of the statement with the lists that the client saw."""
        reply = expect(message, Consistency, self.session, SERVER, self.name)
        plan = plan_digest(self.inputs.participants, self.inputs.sums)
        claim = statement(self.session, plan, reply.lists, self.inputs.upload_hashes)
        self.context.roster.verify(client, reply.signature, claim, self.name)
        self.signatures[client], self._lists[client] = reply.signature, reply.lists

    def survivors(self) -> tuple[str, ...]:
        """Return who signed with the neighbour lists that most saw."""
        counted = Counter(self._lists.values()).most_common(1)
        return tuple(sorted(name for name, saw in self._lists.items() if saw == counted[0][0]))

    def finish(self) -> Phase:
        """Ask for the shares next, of those who saw the same lists.

        Who saw others lies, or a lying peer gave it another list.
        """
        for name in sorted(set(self._lists) - set(self.survivors())):
            error = BadSurvivors(name, self.name, "it saw other neighbour lists than most, or lies")
            self.faults[name] = f"{type(error).__name__}: {error}"
        self.enough(self.survivors())
        return Unmask(self)


class Unmask(Phase):
    """Collect shares: seeds of the survivors, mask keys of the drop-outs."""

    name, reply_kind = "unmask", "unmask_shares"

    def __init__(self, consistent: Consistent) -> None:
        super().__init__(consistent.context, consistent.survivors(), consistent.session)
        self.inputs, self.setup = consistent.inputs, consistent.inputs.setup
        self._signatures = consistent.signatures
        self.present = self.inputs.survivors
        left = set(self.present)
        self.dropouts = tuple(n for n in self.inputs.participants if n not in left)
        self._held: dict[tuple[str, str], dict[int, bytes]] = {}
        self._answered: list[str] = []

    def request(self, client: str) -> UnmaskRequest:
        """Return the survivor set, its signatures by self and peers, and the request for shares."""
        heard = {client, *self.setup.peers(client)}
        return UnmaskRequest(
            session=self.session,
            sender=SERVER,
            recipient=client,
            survivors=self.present,
            dropouts=self.dropouts,
            signatures=tuple(
                SignedBy(party=name, signature=self._signatures[name])
                for name in self.clients
                if name in heard
            ),
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one client's shares if each matches its dealer's commitment."""
        reply = expect(message, UnmaskShares, self.session, SERVER, self.name)
        revealed = {(item.owner, MASK_KEY): item.share for item in reply.key_shares}
        revealed |= {(item.owner, item.sum_id): item.share for item in reply.seed_shares}
        if len(revealed) != len(reply.key_shares) + len(reply.seed_shares):
            raise MalformedMessage(client, self.name, "a share twice")
        due = set(self.dropouts) & set(self.setup.peers(client))
        if {owner for owner, name in revealed if name == MASK_KEY} != due:
            raise MalformedMessage(client, self.name, "not one key share per drop-out")
        for (owner, name), share in revealed.items():
            self._check_share(client, owner, name, share)
        coordinate = self.context.roster.coordinate(client)
        for place, share in revealed.items():
            self._held.setdefault(place, {})[coordinate] = share
        self._answered.append(client)

    def _check_share(self, holder: str, owner: str, name: str, share: bytes) -> None:
        dealt = self.setup.shares.get(owner)
        asked = self.present if name != MASK_KEY else self.dropouts
        item = next((c for c in dealt.commitments if c.party == holder), None) if dealt else None
        if owner not in asked or item is None:
            raise BadShare(holder, self.name, f"a share of {owner} that nobody asked for")
        names = [MASK_KEY, *(spec.id for spec in self.context.parameters.sums_of(owner))]
        if name not in names:
            raise BadShare(holder, self.name, f"a share of {owner} for a sum that it is not in")
        expected = item.digests[names.index(name)]
        if shares.commit(self.session, owner, holder, name, share) != expected:
            raise BadShare(holder, self.name, f"a share of {owner} that it was not dealt")

    def survivors(self) -> tuple[str, ...]:
        """Return who answered."""
        return tuple(sorted(self._answered))

    def finish(self) -> Phase:
        """Open every sum whose shares reach the threshold, and deliver."""
        self.enough(self.survivors())
        opening = self.open_sums()
        self.inputs.accumulators.clear()
        return Deliver(self.context, self.survivors(), self.session, opening)

    def open_sums(self) -> Opening:
        """Return the sums that could be opened, and why the others could not."""
        keys: dict[str, KeyPair] = {}
        opening = Opening(self.inputs.sums)
        for spec in self.context.parameters.sums:
            planned = next((item for item in self.inputs.sums if item.id == spec.id), None)
            if planned is None:
                opening.skipped[spec.id] = "below its minimum, or its recipient gone, at the plan"
                continue
            try:
                masks = self._masks_left(planned, keys)
            except _CannotOpen as error:
                opening.skipped[spec.id] = str(error)
            else:
                accumulator = self.inputs.accumulators.pop(spec.id)
                contributors = sorted(accumulator.contributors)
                opened = accumulator.open(masks, self.context.allocate)
                if planned.recipient == SERVER and not possible_samples(
                    opened.scalars, len(contributors), self.context.parameters.max_samples
                ):
                    opening.skipped[spec.id] = "its terms do not fit together: a client cheated"
                    continue
                opening.opened[spec.id] = opened
                opening.contributors[spec.id] = tuple(contributors)
        return opening

    def _masks_left(self, planned: PlannedSum, keys: dict[str, KeyPair]) -> list[MaskKey]:
        """Return what takes off the survivors' self masks and the drop-outs' pairwise masks."""
        present = set(self.present)
        there = {name for name in planned.contributors if name in present}
        gone = [name for name in planned.contributors if name not in present]
        masks = []
        for owner in sorted(there):
            seed = self._seed(owner, planned.id)
            masks.append(MaskKey(self_mask_key(seed, self.session, planned.id, owner), -1))
        for owner in gone:
            if owner not in keys:
                keys[owner] = self._mask_key(owner)
            for peer in (name for name in self.setup.peers(owner) if name in there):
                secret = keys[owner].exchange(self.setup.adverts[peer].mask_key)
                key = pairwise_mask_key(secret, self.session, planned.id, owner, peer)
                masks.append(MaskKey(key, -1 if peer < owner else 1))
        return masks

    def _reconstruct(self, owner: str, name: str) -> bytes:
        held, threshold = (
            self._held.get((owner, name), {}),
            sharing_threshold(self.context.parameters),
        )
        if len(held) < threshold:
            raise _CannotOpen("the clients released no shares: too few real terms survived")
        return shares.combine(dict(sorted(held.items())[:threshold]))

    def _seed(self, owner: str, sum_id: str) -> bytes:
        seed = self._reconstruct(owner, sum_id)
        ids = [spec.id for spec in self.context.parameters.sums_of(owner)]
        expected = self.setup.shares[owner].seed_commitments[ids.index(sum_id)]
        if shares.commit_secret(self.session, owner, sum_id, seed) != expected:
            raise _CannotOpen(f"{owner} dealt shares that do not fit together")
        return seed

    def _mask_key(self, owner: str) -> KeyPair:
        pair = KeyPair(self._reconstruct(owner, MASK_KEY))
        if pair.public != self.setup.adverts[owner].mask_key:
            raise _CannotOpen(f"{owner} dealt shares of another key than it advertised")
        return pair


class _CannotOpen(Exception):
    """One sum stays closed; the others go on."""
