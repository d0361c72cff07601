"""Every private cell's mechanism audited by canaries, once; results are kept beside the cells."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from pilot_secure.files import write_atomically
from pilot_secure.privacy import parse_ledger


def audited(cells: Iterable[Cell], folder: Path) -> dict[str, dict[str, Any]]:
    """Return each private cell's worst audit by cell id; cells that did not run are left out."""
    found = {}
    for cell in cells:
        result = cell.result(folder)
        if result is None or cell.config.privacy.unit == "none":
            continue
        path = folder / "audits" / f"{cell.id}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(_audit(result), indent=1) + "\n"
            write_atomically(path, content.encode())
        found[cell.id] = json.loads(path.read_text())
    return found


def _audit(result: dict[str, Any]) -> dict[str, Any]:
    from pilot_secure.attacks.canaries import audit_ledger, worst

    ledger = parse_ledger(json.dumps(result["ledger"]).encode())
    audits = audit_ledger(ledger)
    claims = [entry.claimed_epsilon for entry in ledger.clients]
    found = worst(list(audits.values()))
    return {
        **asdict(found),
        "verdict": found.verdict,
        "claimed_at_run_delta": None if math.isinf(max(claims)) else max(claims),
        "run_delta": ledger.delta,
    }
