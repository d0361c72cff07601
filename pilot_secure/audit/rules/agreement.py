"""K03, S01, S03, S04: all clients were told the same, and enough of them signed it."""

from __future__ import annotations

from collections import Counter

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Rule
from pilot_secure.audit.verdicts import Evidence
from protocols.graph import sharing_threshold
from protocols.messages import SurvivorSet, UnmaskRequest
from protocols.parameters import smallest_threshold
from protocols.plan import plan_digest, statement


class K03OneRoster(Rule):
    """The pinned roster is the parameters', and every client was told the same members."""

    id = "K03"
    title = "one roster hash for all"
    compares = True

    def conclude(self, attempt: Attempt) -> None:
        """Compare what the clients of an attempt were told."""
        if attempt.parameters is not None:
            self.checked += 1
            pinned, declared = self.bundle.roster.digest(), attempt.parameters.roster
            if declared != pinned:
                found = f"parameters for the roster {declared.hex()[:12]}…"
                self.fail(attempt.label, attempt.first_seq, found, f"{pinned.hex()[:12]}…, pinned")
        most = set(attempt.members)
        for client, told in sorted(attempt.told.items()):
            if told.members is None:
                continue
            self.checked += 1
            if set(told.members) != most:
                found = f"{client} was told {len(told.members)} members: {_names(told.members)}"
                due = f"{_names(most)}, as others were"
                self.fail(attempt.label, attempt.seq_of(client, "advertisements"), found, due)
            for name, digest in told.members.items():
                sent = attempt.advert_hashes.get(name)
                if sent is not None and sent != digest:
                    found = f"{client} was told another advertisement of {name} than it sent"
                    self.fail(attempt.label, attempt.first_seq, found, "the one that was sent")


def _names(names: object) -> str:
    return ", ".join(sorted(names))  # type: ignore[call-overload]


class S01Threshold(Rule):
    """Two disjoint openings are impossible: 2t > n + c_max, and t clients exist."""

    id = "S01"
    title = "2t > n + c_max, t ≤ n"
    evidence = (Evidence.PARAMETERS,)

    def conclude(self, attempt: Attempt) -> None:
        """Look at the parameters of an attempt."""
        p = attempt.parameters
        if p is None:
            return
        self.checked += 1
        size = len(p.cohort)
        found = f"t = {p.threshold}, n = {size}, c_max = {p.max_colluders}"
        if 2 * p.threshold <= size + p.max_colluders or p.threshold > size:
            least = smallest_threshold(size, p.max_colluders)
            self.fail(attempt.label, attempt.first_seq, found, f"{least} ≤ t ≤ {size}")
        if p.graph is not None:
            self.note(f"{attempt.label}: a regular graph, against a semi-honest server only")


class S03Signatures(Rule):
    """Before anything was revealed, enough clients signed the same plan, lists and survivors."""

    id = "S03"
    title = "≥ t signatures on the same U, plan and neighbour lists"
    compares = True

    def conclude(self, attempt: Attempt) -> None:
        """Compare what clients were told, and count their signatures."""
        if attempt.parameters is None:
            return
        self._compare(attempt)
        self._check_manifests(attempt)
        self._count(attempt)

    def _compare(self, attempt: Attempt) -> None:
        """Survivor sets and plans are one for all; an upload's hash is that of the upload."""
        most = attempt.survivors
        for client, told in sorted(attempt.told.items()):
            if told.sums is not None and told.participants is not None:
                self.checked += 1
                if (told.participants, told.sums) != (attempt.participants, attempt.plan):
                    found = f"{client} was told another plan than others"
                    self.fail(attempt.label, attempt.seq_of(client, "plan"), found, "one plan")
            if told.survivor_set is not None:
                self.checked += 1
                self._check_set(attempt, client, told.survivor_set, most)
            request = told.unmask_request
            if request is not None and client not in request.dropouts:  # else S04 tells
                self.checked += 1
                if request.survivors != most:
                    found = f"{client} was asked to unmask {', '.join(request.survivors)}"
                    expected = f"{', '.join(most)}, as was signed"
                    self.fail(
                        attempt.label, attempt.seq_of(client, "unmask_request"), found, expected
                    )

    def _check_manifests(self, attempt: Attempt) -> None:
        """The last part of an upload names the hashes of the others."""
        for client, named in sorted(attempt.manifests.items()):
            self.checked += 1
            parts = attempt.sent_parts.get(client, [])
            if list(named) != [bytes.fromhex(record.sha256) for record in parts]:
                found = f"{client}'s upload names {len(named)} other parts than it sent"
                expected = f"the hashes of the {len(parts)} parts that it sent, in order"
                self.fail(attempt.label, attempt.seq_of(client, "masked_input"), found, expected)

    def _check_set(
        self, attempt: Attempt, client: str, told: SurvivorSet, most: tuple[str, ...]
    ) -> None:
        seq = attempt.seq_of(client, "survivor_set")
        if told.survivors != most:
            found = f"{client} was told the survivors {', '.join(told.survivors)}"
            self.fail(attempt.label, seq, found, f"{', '.join(most)}, as others were")
        hashes = dict(zip(told.survivors, told.upload_hashes, strict=False))
        wrong = [n for n in hashes if n in attempt.uploads and hashes[n] != attempt.uploads[n]]
        if wrong:
            found = f"{client} was told other uploads of {', '.join(wrong)} than were sent"
            self.fail(attempt.label, seq, found, "the hashes of the uploads")

    def _count(self, attempt: Attempt) -> None:
        """Verify each signature over what its signer was told; count equal statements."""
        assert attempt.parameters is not None
        statements: Counter[bytes] = Counter()
        for client, signed in attempt.consistency.items():
            told = attempt.to(client)
            if told.survivor_set is None or told.sums is None or told.participants is None:
                continue
            self.checked += 1
            uploads = dict(
                zip(told.survivor_set.survivors, told.survivor_set.upload_hashes, strict=False)
            )
            plan = plan_digest(told.participants, told.sums)
            claim = statement(signed.session, plan, signed.lists, uploads)
            if self.bundle.roster.signed(client, signed.signature, claim):
                statements[claim] += 1
            else:
                seq = attempt.consistency_seq[client]
                found = f"{client} signed another statement than it was told"
                self.fail(attempt.label, seq, found, "session, plan, lists, survivors and uploads")
        if not attempt.answered:
            return
        equal = max(statements.values(), default=0)
        needed = sharing_threshold(attempt.parameters)
        if equal < needed:
            first = min(attempt.answered.values())
            found = f"shares were revealed on {equal} equal signatures"
            self.fail(attempt.label, first, found, f"{needed} at least")


class S04NotDead(Rule):
    """No client was asked to treat itself as dropped out."""

    id = "S04"
    title = "nobody asked to declare itself dead"

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at a survivor set or a request to unmask."""
        message = entry.message
        if attempt is None:
            return
        if isinstance(message, UnmaskRequest):
            self.checked += 1
            if message.recipient in message.dropouts:
                found = f"{message.recipient} stands in the list of drop-outs that it was sent"
                self.fail_at(entry, attempt, found, "a list without its recipient")
        elif isinstance(message, SurvivorSet):
            self.checked += 1
            if message.recipient not in message.survivors:
                found = f"{message.recipient} uploaded and is not among the survivors it was told"
                self.fail_at(entry, attempt, found, "a set with its recipient")
