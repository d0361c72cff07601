"""The report in a terminal: a line for each rule, and what was found below it."""

from __future__ import annotations

from pilot_secure.audit.verdicts import AuditReport, RuleResult, Verdict
from pilot_secure.terminal import say


def print_report(report: AuditReport) -> None:
    """Print all verdicts, findings and what is missing."""
    final = "" if report.final_head else ", without the head of the run's end"
    say(
        f"{report.bundle}: {report.records} messages{final}, {len(report.attempts)} attempts, "
        f"{report.payloads} payloads of {report.payload_bytes} bytes; roster "
        f"{report.roster_digest[:16]}… ({report.roster})"
    )
    for result in report.results:
        say(f"{result.id}  {result.verdict:<13}  {result.title}")
        _print_details(result)
    counts = {v: sum(r.verdict is v for r in report.results) for v in Verdict}
    say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _print_details(result: RuleResult) -> None:
    for finding in result.findings:
        entry = "" if finding.seq is None else f"entry {finding.seq}, "
        say(f"       {entry}{finding.where}: {finding.found}")
        say(f"         expected: {finding.expected}")
    if result.findings_left_out:
        say(f"       and {result.findings_left_out} more")
    if result.verdict is not Verdict.PASS:
        for missing in result.missing:
            say(f"       missing: {missing}")
    for note in result.notes:
        say(f"       note: {note}")
