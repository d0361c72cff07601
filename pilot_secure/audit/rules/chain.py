"""T01: nothing was removed from the transcript, added to it or changed in it."""

from __future__ import annotations

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry, Stage
from pilot_secure.audit.rule import Options, Rule
from protocols.errors import BadSignature
from protocols.messages import Receipt
from protocols.transcript import GENESIS, TranscriptHead


class T01Chain(Rule):
    """Hash chain, signed heads, and the clients' receipts, which the server cannot sign."""

    id = "T01"
    title = "hash chain, signed head, clients' receipts"
    evidence = ()

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        heads, problem = bundle.heads()
        if problem is not None:
            self.fail("heads", None, problem, "one signed head a line")
        self._heads = [head for head in heads if self._signed(head)]
        self._due = {head.count: head for head in self._heads}
        self._count, self._last = 0, GENESIS

    def _signed(self, head: TranscriptHead) -> bool:
        try:
            head.verify(self.bundle.roster)
        except BadSignature as error:
            what = f"the head over {head.count} records: {error}"
            self.fail("heads", None, what, "the pinned server's signature")
            return False
        return True

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Check one link, a head that ends there, the payload's file, and a receipt."""
        record = entry.record
        if record.seq != self._count or record.prev != self._last:
            found = f"number {record.seq} after {record.prev[:12]}…"
            due = f"number {self._count} after {self._last[:12]}…"
            self.fail_at(entry, attempt, found, f"{due}: a record was removed, changed or moved")
        self._count, self._last = self._count + 1, record.digest()
        self.checked += 1
        head = self._due.get(self._count)
        if head is not None and head.last != self._last:
            found = f"the chain ends in {self._last[:12]}… after {self._count} records"
            self.fail_at(entry, attempt, found, f"{head.last[:12]}…, as the server signed")
        if entry.damage is not None:
            self.fail_at(entry, attempt, entry.damage, "the bytes that were recorded")
        self._check_receipt(entry, attempt)

    def _check_receipt(self, entry: Entry, attempt: Attempt | None) -> None:
        if attempt is None or entry.record.phase != "deliver" or entry.from_server:
            return
        if entry.frame is None:
            self.lack(f"the receipt of {entry.client}, {attempt.label}")
        forged = any(defect.stage is Stage.SIGNATURE for defect in entry.defects)
        message = entry.message
        if not isinstance(message, Receipt) or forged:
            return
        running = attempt.running.get(entry.client)
        if running is None or running.value != message.transcript:
            found = f"{entry.client} signed that it sent and received other messages"
            expected = "the messages that the transcript shows, no more, no fewer, in this order"
            self.fail_at(entry, attempt, found, expected)

    def conclude(self, attempt: Attempt) -> None:
        """Note who sent no receipt: what was deleted of theirs, nobody would see.

        Where sums were delivered, receipts of colluders alone confirm nothing.
        """
        p = attempt.parameters
        if attempt.opened and p is not None and len(attempt.receipts) <= p.max_colluders:
            self.lack(
                f"{attempt.label}: receipts of more than {p.max_colluders} clients, though sums "
                "were delivered"
            )
        silent = [name for name in attempt.members if name not in attempt.receipts]
        if silent:
            self.note(
                f"{attempt.label}: no receipt of {', '.join(silent)} (dropped out or aborted): "
                "for their messages the server's word stands"
            )

    def finish(self) -> None:
        """Check that the heads reach the end."""
        self._check_ends()
        if self.bundle.unreadable is not None:
            bad = self.bundle.unreadable
            self.fail("transcript.jsonl", None, f"line {bad.line}: {bad.reason}", "a record")
        if self.bundle.cut:
            self.lack(*self.bundle.unread())
        if not self._heads:
            self.lack("a head signed by the server")
            return
        last = self._heads[-1]
        if last.count > self._count:
            found = f"{self._count} records"
            self.fail("heads", None, found, f"{last.count}, as the server signed")
        elif last.final and last.count < self._count:
            found = f"{self._count} records"
            self.fail("heads", None, found, f"{last.count}, as the server signed at the run's end")
        elif not last.final:
            tail = (
                f"records {last.count} to {self._count - 1}: " if last.count < self._count else ""
            )
            self.lack(f"{tail}the head of the run's end (the run was killed or is going on)")

    def _check_ends(self) -> None:
        counts = [head.count for head in self._heads]
        if counts != sorted(counts):
            self.fail("heads", None, f"heads over {counts} records", "growing numbers of records")
        for head in self._heads:
            if head.last != self._due[head.count].last:
                found = f"two heads over {head.count} records with different hashes"
                self.fail("heads", None, found, "one chain, as the server signed")
        for head in self._heads[:-1]:
            if head.final:
                found = f"a head after the final one over {head.count} records"
                self.fail("heads", None, found, "the final head last")
