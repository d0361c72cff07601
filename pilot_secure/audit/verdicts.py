"""What an audit says: a verdict for each rule, with the entries that it rests on."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, computed_field

MUST_BE_CHECKED = ("T", "K", "S")
FAILED, NOT_ALL_CHECKED = 3, 4


class Verdict(StrEnum):
    """What a rule's evidence says."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_CHECKABLE = "NOT-CHECKABLE"


class Evidence(StrEnum):
    """What a rule may need beside the hashes of all messages."""

    PAYLOADS = "payloads"
    PARAMETERS = "parameters"
    LEDGER = "ledger"
    ESCROW = "escrow"


class Frozen(BaseModel):
    """What all parts of a report have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(Frozen):
    """One violation: the transcript's entry, what stands there and what was expected.

    ``seq`` is None where no entry is at fault, as for an attempt's parameters.
    """

    seq: int | None
    where: str
    found: str
    expected: str


class RuleResult(Frozen):
    """One rule's verdict. ``checked`` counts the things that were looked at."""

    id: str
    title: str
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    checked: int
    findings: tuple[Finding, ...] = ()
    findings_left_out: int = 0
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class PhaseBytes(Frozen):
    """Messages and bytes of one kind of phase, towards the server and away from it."""

    phase: str
    messages: int
    bytes_up: int
    bytes_down: int


class AttemptSummary(Frozen):
    """One attempt of an aggregation; round, stage and attempt are those of its parameters."""

    digest: str
    session: str | None
    round: int | None
    stage: int | None
    attempt: int | None
    first_seq: int
    last_seq: int
    members: tuple[str, ...]
    survivors: tuple[str, ...]
    opened: tuple[str, ...]
    receipts: tuple[str, ...]


class AuditReport(Frozen):
    """Everything that `verify` found out. ``roster`` says where the pinned keys came from."""

    version: int = 1
    bundle: str
    roster: str
    roster_digest: str
    records: int
    payloads: int
    payload_bytes: int
    final_head: bool
    attempts: tuple[AttemptSummary, ...]
    phases: tuple[PhaseBytes, ...]
    results: tuple[RuleResult, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """0: all that must be was checked and nothing failed; 3: a rule failed; 4: not all."""
        if any(result.verdict is Verdict.FAIL for result in self.results):
            return FAILED
        unchecked = {r.id[0] for r in self.results if r.verdict is Verdict.NOT_CHECKABLE}
        return NOT_ALL_CHECKED if unchecked & set(MUST_BE_CHECKED) else 0

    def result(self, rule: str) -> RuleResult:
        """Return one rule's result by its id."""
        return next(result for result in self.results if result.id == rule)
