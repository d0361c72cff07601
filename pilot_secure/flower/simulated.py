"""A run on Flower's simulation engine: ``python -m pilot_secure.flower.simulated --secure-agg``.

It starts a SuperLink of its own, hands it the app by `flwr run`, and ends it; Flower's engine
starts Ray, and each node's messages are answered in one of its actors. The options are those of
``python -m pilot_secure.simulate``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from pilot_secure import command_line
from pilot_secure.config import SimulationConfig
from pilot_secure.flower.loopback import run_on_loopback
from pilot_secure.reporting import print_report, report_console
from pilot_secure.run_folder import RunFolder

PROGRAM = "python -m pilot_secure.flower.simulated"


@command_line.main
def main(argv: Sequence[str] | None = None) -> None:
    """Carry out one run."""
    config = command_line.parse(
        SimulationConfig, argv, program=PROGRAM, description="A run on Flower's simulation engine."
    )
    own = config.model_copy(update={"run": config.run.model_copy(update={"engine": "flower"})})
    folder = RunFolder.create(config.run.out, config.run_name)
    run_on_loopback(own, folder, Console(stderr=True), simulated=True)
    print_report(report_console(), folder.read_summary(), folder.path)


if __name__ == "__main__":
    raise SystemExit(main())
