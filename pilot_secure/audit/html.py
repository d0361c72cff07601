"""The report as one self-contained HTML file: no network, no library, readable on a phone.

The file carries the report as JSON, and the script beside this module draws it; what it shows is
what `verify --json` prints.
"""

from __future__ import annotations

import json
from pathlib import Path

from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import open_entry
from pilot_secure.audit.verdicts import AuditReport
from pilot_secure.audit.view import describe, view
from protocols.identity import SERVER

TEMPLATE = Path(__file__).with_name("report.html")
PLACE = "/*REPORT*/"


def html_report(bundle: Bundle, report: AuditReport) -> str:
    """Return the whole page. Memory: a line for each message."""
    messages = [
        describe(open_entry(record, *bundle.frame(record), bundle.roster)).model_dump()
        for record in bundle.records()
    ]
    parties = [entry.name for entry in bundle.roster.entries()]
    content = {
        "report": report.model_dump(mode="json"),
        "messages": messages,
        "parties": parties,
        "determined": {
            party: [found.model_dump() for found in view(bundle, (party,)).determined]
            for party in parties
            if party == SERVER or len(parties) <= 20
        },
    }
    safe = json.dumps(content).replace("<", "\\u003c")  # nothing in it ends the script
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, safe)
