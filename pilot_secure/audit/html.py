"""The report as one self-contained HTML file: no network, no library, readable on a phone.

The file carries the report as JSON, and the script beside this module draws it; what it shows is
what `verify --json` prints.
"""

from __future__ import annotations

import json
from pathlib import Path

from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.verdicts import AuditReport
from pilot_secure.audit.view import observe
from protocols.identity import SERVER

TEMPLATE = Path(__file__).with_name("report.html")
PLACE = "/*REPORT*/"
MOST_TABS_WITH_VIEWS = 20


def html_report(bundle: Bundle, report: AuditReport) -> str:
    """Return the whole page. Memory: a line for each message."""
    run = observe(bundle)
    parties = [entry.name for entry in bundle.roster.entries()]
    shown = [party for party in parties if party == SERVER or len(parties) <= MOST_TABS_WITH_VIEWS]
    content = {
        "report": report.model_dump(mode="json"),
        "messages": [message.model_dump() for message in run.messages],
        "parties": parties,
        "views": {
            party: run.by((party,)).model_dump(mode="json", exclude={"messages"}) for party in shown
        },
    }
    safe = json.dumps(content).replace("<", "\\u003c")  # nothing in it ends the script
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, safe)
