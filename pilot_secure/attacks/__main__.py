"""Attack made-up updates, or a run: ``python -m pilot_secure.attacks [RUN]``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.console import Console
from rich.table import Table

from pilot_secure import command_line
from pilot_secure.libraries import quieten_libraries
from pilot_secure.reporting import report_console

if TYPE_CHECKING:
    from pilot_secure.attacks.findings import Finding

PROGRAM = "python -m pilot_secure.attacks"
DESCRIPTION = (
    "Run the attacks that protection has to withstand, each with protection off and on, in about "
    "two minutes. With RUN: its ledger's claims recomputed, canaries through the mechanisms of the "
    "ledger, and its clients' tasks from the distances they saw. Exit code 1 if a claimed epsilon "
    "is refuted."
)


class AttackConfig(BaseModel):
    """What to attack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path | None = Field(
        None,
        description="run folder; default: made-up updates",
        json_schema_extra={"positional": True},
    )
    trials: int = Field(6, ge=3, description="batches that are inverted in each setting")
    seed: int = Field(0, ge=0, description="seed of the made-up updates and of the batches")


@command_line.main
def main(argv: Sequence[str] | None = None) -> int:
    """Attack what the command line names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = command_line.parse(AttackConfig, arguments, program=PROGRAM, description=DESCRIPTION)
    quieten_libraries()
    import numpy as np

    from pilot_secure.attacks import findings

    told = Console(stderr=True)
    if config.run is not None:
        found = list(findings.run_findings(config.run))
        refuted = any(finding.refutes for finding in found)
    else:
        generator = np.random.default_rng(config.seed)
        found = list(
            itertools.chain(
                findings.linear_findings(generator),
                findings.canary_findings(),
                findings.distance_findings(generator),
                findings.inversion_findings(
                    generator,
                    trials=config.trials,
                    announce=lambda what: told.print(what, highlight=False),
                ),
            )
        )
        refuted = False  # the broken mechanism is there to be found
    report_console().print(_table(found))
    return int(refuted)


def _table(found: Sequence[Finding]) -> Table:
    table = Table(title="attacks", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("attack", "setting", "measure"):
        table.add_column(name)
    for name in ("value", "chance", "worked"):
        table.add_column(name, justify="right")
    for finding in found:
        table.add_row(
            finding.attack,
            finding.setting,
            finding.measure,
            f"{finding.value:.3g}",
            "–" if finding.chance is None else f"{finding.chance:.3g}",
            "yes" if finding.worked else "no",
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
