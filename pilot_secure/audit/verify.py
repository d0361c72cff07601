"""Read a transcript once, from its first entry to its last, with every rule looking on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pilot_secure.audit.attempts import Attempt, Attempts
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry, open_entry
from pilot_secure.audit.rule import Gaps, Options, Rule
from pilot_secure.audit.rules import ALL
from pilot_secure.audit.rules.recomputed import (
    H02Recomputed,
    L01Recomputed,
    M01Recomputed,
    M04Recomputed,
    Reopening,
)
from pilot_secure.audit.verdicts import AuditReport, PhaseBytes
from protocols.escrow import Escrow

Progress = Callable[[int], None]


@dataclass
class _Totals:
    records: int = 0
    payloads: int = 0
    payload_bytes: int = 0
    phases: dict[str, list[int]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        record = entry.record
        self.records += 1
        if entry.frame is not None:
            self.payloads += 1
            self.payload_bytes += len(entry.frame)
        phase = self.phases.setdefault(record.phase, [0, 0, 0])
        phase[0] += 1
        phase[2 if entry.from_server else 1] += record.length


def verify(
    bundle: Bundle, options: Options | None = None, *, progress: Progress = lambda records: None
) -> AuditReport:
    """Return the verdict of every rule on a bundle.

    Memory: one message at a time, and small facts about the attempt that it belongs to.
    """
    return _read(bundle, [kind(bundle, options or Options()) for kind in ALL], progress)


def replay(
    bundle: Bundle,
    escrow: Escrow,
    options: Options | None = None,
    *,
    progress: Progress = lambda records: None,
) -> AuditReport:
    """Return the verdicts, with all that escrowed seeds let be computed again.

    Memory: the sums of one attempt.
    """
    reopening = Reopening(bundle, escrow)
    again = {
        kind.id: kind(bundle, options or Options(), reopening)
        for kind in (M01Recomputed, M04Recomputed, L01Recomputed, H02Recomputed)
    }
    rules = [again.get(kind.id) or kind(bundle, options or Options()) for kind in ALL]
    return _read(bundle, rules, progress)


def _read(bundle: Bundle, rules: list[Rule], progress: Progress) -> AuditReport:
    attempts, totals, gaps = Attempts(bundle), _Totals(), Gaps()
    current: Attempt | None = None
    for record in bundle.records():
        entry = open_entry(record, *bundle.frame(record), bundle.roster)
        attempt = attempts.of(entry)
        if attempt is not None and attempt is not current:
            _conclude(current, rules, gaps)
            current = attempt
        if attempt is not None:
            attempt.note(entry)
        gaps.payloads += entry.frame is None
        for rule in rules:
            rule.see(entry, attempt)
        totals.add(entry)
        progress(totals.records)
    _conclude(current, rules, gaps)
    if bundle.unreadable is not None:
        gaps.unreadable = " ".join(bundle.unread())
    for rule in rules:
        rule.finish()
    heads, _problem = bundle.heads()
    return AuditReport(
        bundle=bundle.path.resolve().name,
        roster=bundle.roster_source,
        roster_digest=bundle.roster.digest().hex(),
        records=totals.records,
        payloads=totals.payloads,
        payload_bytes=totals.payload_bytes,
        final_head=any(head.final for head in heads),
        attempts=tuple(attempt.summary() for attempt in attempts.all),
        phases=tuple(
            PhaseBytes(phase=name, messages=count, bytes_up=up, bytes_down=down)
            for name, (count, up, down) in totals.phases.items()
        ),
        results=tuple(rule.result(gaps) for rule in rules),
    )


def _conclude(attempt: Attempt | None, rules: list[Rule], gaps: Gaps) -> None:
    """Let every rule look at a whole attempt, whose bulk is then let go."""
    if attempt is None:
        return
    gaps.parameters += attempt.parameters is None
    for rule in rules:
        rule.settle(attempt)
    attempt.dealt.clear()
