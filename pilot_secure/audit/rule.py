"""What every rule of the audit has in common.

A rule sees each entry once, in order, and keeps what it needs of it; it concludes each attempt
when the next begins, and finishes when the transcript is read. It fails by findings; what it
cannot look at it reports as lacking, and then it does not pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.verdicts import Evidence, Finding, RuleResult, Verdict

MAX_FINDINGS = 20
DEFAULT_MAX_LEVERAGE = 0.95


@dataclass(frozen=True)
class Options:
    """What an auditor may set: the largest leverage that a view may have on one client."""

    max_leverage: float = DEFAULT_MAX_LEVERAGE


@dataclass
class Gaps:
    """What a transcript as a whole lacks, by the kind of evidence."""

    unreadable: str | None = None
    payloads: int = 0
    parameters: int = 0


class Rule:
    """One rule. Subclasses name what they need and fill in the hooks that they use."""

    id: ClassVar[str]
    title: ClassVar[str]
    evidence: ClassVar[tuple[Evidence, ...]] = (Evidence.PAYLOADS, Evidence.PARAMETERS)
    compares: ClassVar[bool] = False
    """Whether it holds messages against each other: then a missing one is no violation."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self.bundle, self.options = bundle, options
        self.checked = 0
        self.moot: str | None = None
        self._findings: list[Finding] = []
        self._left_out = 0
        self._settled = 0
        self._missing: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at one entry; ``attempt`` has taken it in already."""

    def conclude(self, attempt: Attempt) -> None:
        """Look at an attempt as a whole."""

    def settle(self, attempt: Attempt) -> None:
        """Conclude an attempt; what a comparison found where messages are missing is dropped."""
        self.conclude(attempt)
        if self.compares and not attempt.complete:
            del self._findings[self._settled :]
        self._settled = len(self._findings)

    def finish(self) -> None:
        """Look at the run as a whole."""

    def fail(self, where: str, seq: int | None, found: str, expected: str) -> None:
        """Note a violation."""
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(seq=seq, where=where, found=found, expected=expected))
        else:
            self._left_out += 1

    def fail_at(self, entry: Entry, attempt: Attempt | None, found: str, expected: str) -> None:
        """Note a violation by one entry."""
        record = entry.record
        where = f"{attempt.label}, " if attempt else ""
        where += f"{record.phase}, {record.sender} to {record.recipient}"
        self.fail(where, record.seq, found, expected)

    def lack(self, what: str) -> None:
        """Note evidence that is missing: the rule does not pass."""
        self._missing[what] = None

    def note(self, what: str) -> None:
        """Note what a reader should know beside the verdict."""
        self._notes[what] = None

    def result(self, gaps: Gaps) -> RuleResult:
        """Return the verdict."""
        self._lack_what_is_missing(gaps)
        if not self.checked and self.moot is None and not self._missing:
            self.lack("nothing in the transcript that this rule could look at")
        if self.moot is not None:
            self.note(self.moot)
        verdict = Verdict.PASS
        if self._findings:
            verdict = Verdict.FAIL
        elif self._missing:
            verdict = Verdict.NOT_CHECKABLE
        return RuleResult(
            id=self.id,
            title=self.title,
            verdict=verdict,
            evidence=self.evidence,
            checked=self.checked,
            findings=tuple(self._findings),
            findings_left_out=self._left_out,
            missing=tuple(self._missing),
            notes=tuple(self._notes),
        )

    def _lack_what_is_missing(self, gaps: Gaps) -> None:
        if gaps.unreadable is not None:
            self.lack(gaps.unreadable)
        if Evidence.PAYLOADS in self.evidence and gaps.payloads:
            self.lack(f"the payloads of {gaps.payloads} messages, of which only hashes are there")
        if Evidence.PARAMETERS in self.evidence and gaps.parameters:
            self.lack(f"the parameters of {gaps.parameters} attempts")
