"""S02, S05, S06: which shares were revealed, for how large sums, and whether they are the dealt."""

from __future__ import annotations

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Options, Rule
from protocols import shares
from protocols.client_setup import MASK_KEY
from protocols.messages import Plan, PlannedSum, UnmaskRequest, UnmaskShares


class S02Disjoint(Rule):
    """Of no client both kinds of share were asked for or revealed, over all attempts."""

    id = "S02"
    title = "seed share and key share disjoint per victim, over all attempts"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._seeds: dict[str, dict[str, str]] = {}
        self._keys: dict[str, dict[str, str]] = {}
        self._answered: dict[tuple[str, str], Attempt] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at a request to unmask: its lists are disjoint, and nobody is in neither."""
        message = entry.message
        if attempt is None or not isinstance(message, UnmaskRequest):
            return
        self.checked += 1
        both = sorted(set(message.survivors) & set(message.dropouts))
        if both:
            found = f"both shares of {', '.join(both)} are asked for"
            self.fail_at(entry, attempt, found, "disjoint lists of survivors and drop-outs")
        told = attempt.to(entry.client).participants
        lists = set(message.survivors) | set(message.dropouts)
        if told is not None and lists != set(told):
            found = f"survivors and drop-outs: {', '.join(sorted(lists))}"
            self.fail_at(entry, attempt, found, f"the participants {', '.join(told)}")

    def conclude(self, attempt: Attempt) -> None:
        """Compare what was revealed in this attempt and in earlier ones on the same updates."""
        updates = attempt.updates
        seeds = self._seeds.setdefault(updates, {})
        keys = self._keys.setdefault(updates, {})
        for owner in attempt.revealed_seeds:
            seeds.setdefault(owner, attempt.label)
        for owner in attempt.revealed_keys:
            keys.setdefault(owner, attempt.label)
        for owner in sorted(seeds.keys() & keys.keys()):
            found = (
                f"shares of the seeds ({seeds[owner]}) and of the key ({keys[owner]}) of {owner}"
            )
            self.fail(attempt.label, attempt.last_seq, found, "one kind of share for each client")
        for client, seq in attempt.answered.items():
            before = self._answered.setdefault((updates, client), attempt)
            if before is not attempt:
                found = f"{client} revealed shares, as it did in {before.label}"
                self.fail(attempt.label, seq, found, "one answer for the same updates")


class S05Minimum(Rule):
    """Nothing is planned or opened over fewer clients than the minimum."""

    id = "S05"
    title = "survivors ≥ minimum, per sum"
    compares = True

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at the sums of a plan."""
        message = entry.message
        if attempt is None or attempt.parameters is None or not isinstance(message, Plan):
            return
        for planned in message.sums:
            self.checked += 1
            size = len(planned.contributors) + (planned.recipient != "server")
            self._judge(attempt, entry.record.seq, planned.id, "planned", size)

    def _judge(self, attempt: Attempt, seq: int | None, what: str, how: str, size: int) -> None:
        assert attempt.parameters is not None
        least = attempt.parameters.min_contributors
        if size < least:
            found = f"{what} is {how} over {size} clients"
            self.fail(attempt.label, seq, found, f"{least} at least")

    def conclude(self, attempt: Attempt) -> None:
        """Look at the minimum itself, the survivors, and the real terms of every opened sum."""
        p = attempt.parameters
        if p is None:
            return
        self.checked += 1
        if p.min_contributors < p.max_colluders + 2:
            found = f"a minimum of {p.min_contributors} with {p.max_colluders} colluders"
            self.fail(attempt.label, attempt.first_seq, found, f"{p.max_colluders + 2} at least")
        if attempt.answered and len(attempt.survivors) < p.threshold:
            found = f"{len(attempt.survivors)} survivors"
            self.fail(attempt.label, attempt.last_seq, found, f"{p.threshold} at least")
        planned = {item.id: item for item in attempt.plan}
        for sum_id in attempt.opened:
            self.checked += 1
            if sum_id not in planned:
                found = f"{sum_id} was opened without a plan"
                self.fail(attempt.label, attempt.last_seq, found, "a sum of the plan")
                continue
            real = real_contributors(attempt, planned[sum_id])
            size = len(real) + (planned[sum_id].recipient != "server")
            self._judge(attempt, attempt.last_seq, sum_id, "opened", size)

    def finish(self) -> None:
        """Say what hidden lists leave to the clients."""
        self.note(
            "hidden neighbour lists: contributors are counted; that enough of them are real "
            "neighbours each client checks itself before it reveals a share"
        )


def real_contributors(attempt: Attempt, planned: PlannedSum) -> tuple[str, ...]:
    """The surviving contributors of a sum; of a visible selection the listed ones among them."""
    p, survivors = attempt.parameters, set(attempt.survivors)
    there = tuple(name for name in planned.contributors if name in survivors)
    if p is None or p.neighbour_visibility == "hidden" or planned.recipient == "server":
        return there
    listed = attempt.listed.get(planned.recipient)
    return there if listed is None else tuple(name for name in there if name in listed)


class S06Commitments(Rule):
    """Every revealed share is the one that its dealer committed to."""

    id = "S06"
    title = "shares match commitments"
    compares = True

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at one client's revealed shares."""
        message = entry.message
        if attempt is None or attempt.parameters is None or not isinstance(message, UnmaskShares):
            return
        for seed in message.seed_shares:
            self._check(entry, attempt, seed.owner, seed.sum_id, seed.share)
        for key in message.key_shares:
            self._check(entry, attempt, key.owner, MASK_KEY, key.share)

    def _check(self, entry: Entry, attempt: Attempt, owner: str, secret: str, share: bytes) -> None:
        assert attempt.parameters is not None
        self.checked += 1
        dealt = attempt.dealt.get(owner)
        held = None
        if dealt is not None:
            held = next((c for c in dealt.commitments if c.party == entry.client), None)
        names = [MASK_KEY, *(spec.id for spec in attempt.parameters.sums_of(owner))]
        if held is None or secret not in names or len(held.digests) != len(names):
            found = f"a share of {owner} for {secret} that was never dealt to {entry.client}"
            self.fail_at(entry, attempt, found, "a share that was dealt")
            return
        session = bytes.fromhex(attempt.session or attempt.digest)
        commitment = shares.commit(session, owner, entry.client, secret, share)
        if commitment != held.digests[names.index(secret)]:
            found = f"the share of {owner} for {secret} does not match its commitment"
            self.fail_at(entry, attempt, found, "the share that was dealt")
