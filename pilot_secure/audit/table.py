"""The report in a terminal: a line for each rule, and what was found below it."""

from __future__ import annotations

import sys
from typing import TextIO

from pilot_secure.audit.verdicts import AuditReport, RuleResult, Verdict


def print_report(report: AuditReport, file: TextIO | None = None) -> None:
    """Print all verdicts, findings and what is missing."""
    out = file or sys.stdout
    final = "" if report.final_head else ", without the head of the run's end"
    print(
        f"{report.bundle}: {report.records} messages{final}, {len(report.attempts)} attempts, "
        f"{report.payloads} payloads of {report.payload_bytes} bytes; roster "
        f"{report.roster_digest[:16]}… ({report.roster})",
        file=out,
    )
    for result in report.results:
        print(f"{result.id}  {result.verdict:<13}  {result.title}", file=out)
        _print_details(result, out)
    counts = {v: sum(r.verdict is v for r in report.results) for v in Verdict}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), file=out)


def _print_details(result: RuleResult, out: TextIO) -> None:
    for finding in result.findings:
        entry = "" if finding.seq is None else f"entry {finding.seq}, "
        print(f"       {entry}{finding.where}: {finding.found}", file=out)
        print(f"         expected: {finding.expected}", file=out)
    if result.findings_left_out:
        print(f"       and {result.findings_left_out} more", file=out)
    if result.verdict is not Verdict.PASS:
        for missing in result.missing:
            print(f"       missing: {missing}", file=out)
    for note in result.notes:
        print(f"       note: {note}", file=out)
