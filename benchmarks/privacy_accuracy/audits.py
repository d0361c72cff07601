"""Every private cell's mechanism audited by canaries, once; results are kept beside the cells.

The bounds of a grid hold together: each pays for the number of all its audits in confidence.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from pilot_secure.engines.processes import end_with_the_starter
from pilot_secure.files import write_atomically
from pilot_secure.privacy import Ledger, parse_ledger


def private_ledgers(cells: Iterable[Cell], folder: Path) -> dict[str, Ledger]:
    """The ledger of each private cell by cell id; cells that did not run are left out."""
    found = {}
    for cell in cells:
        if cell.config.privacy.unit != "none" and (result := cell.result(folder)) is not None:
            found[cell.id] = parse_ledger(json.dumps(result.ledger).encode())
    return found


def audited(ledgers: Mapping[str, Ledger], folder: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """Return each ledger's worst audit; states progress on standard error.

    A ledger without a finite epsilon has none.
    """
    from pilot_secure.attacks.canaries import distinct_mechanisms

    numbers = {name: len(distinct_mechanisms(ledger)) for name, ledger in ledgers.items()}
    count = sum(numbers.values())
    files = {
        name: folder / "audits" / f"{name}-of-{count}.json" for name in ledgers if numbers[name]
    }
    todo = [name for name, path in files.items() if not path.exists()]
    _say(f"auditing by canaries: {len(todo)} cells, {len(files) - len(todo)} are there")
    (folder / "audits").mkdir(parents=True, exist_ok=True)
    if len(todo) > 1:
        with ProcessPoolExecutor(
            min(jobs, len(todo)), get_context("spawn"), initializer=end_with_the_starter
        ) as pool:
            running = [pool.submit(_audit, ledgers[n], count, files[n]) for n in todo]
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                _say(f"[{done}/{len(todo)}] audited")
    else:
        for name in todo:
            _audit(ledgers[name], count, files[name])
    return {name: json.loads(path.read_text()) for name, path in files.items()}


def _audit(ledger: Ledger, num_attacks: int, path: Path) -> None:
    import torch

    from pilot_secure.attacks.canaries import audit_ledger, worst

    torch.set_num_threads(1)
    found = worst(list(audit_ledger(ledger, num_attacks=num_attacks).values()))
    claims = [entry.claimed_epsilon for entry in ledger.clients]
    content = {
        **asdict(found),
        "verdict": found.verdict,
        "claimed_at_run_delta": None if math.isinf(max(claims)) else max(claims),
        "run_delta": ledger.delta,
        "audits": num_attacks,
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
