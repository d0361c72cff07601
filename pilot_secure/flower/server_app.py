"""The ServerApp: the server of a run, and nothing of its clients."""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from pilot_secure.errors import RunFolderError, ToldError
from pilot_secure.flower.far_end import FlowerFarEnd
from pilot_secure.flower.party_folder import PartyFolder
from pilot_secure.flower.terms import read_config
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import simulate
from pilot_secure.summary import StartOfRun
from protocols.identity import SERVER

COMMAND = "flwr run pilot_secure/flower/app"


def main(grid: Grid, context: Context) -> None:
    """Carry out one run, into the folder that the run's configuration names as ``out``."""
    settings = context.run_config
    party = Path(str(settings["party"] or Path(str(settings["parties"])) / SERVER))
    try:
        serve(grid, party, Path(str(settings["out"])), resume=bool(settings["resume"]))
    except ToldError as error:
        print(f"error: {error}", file=sys.stderr)
        raise


def serve(grid: Grid, party: Path, out: Path, *, resume: bool) -> None:
    """Be the server of a run. Raises: ToldError."""
    started, folder = StartOfRun(), RunFolder(out)
    if not resume and (out / "summary.json").exists():
        raise RunFolderError(f"{out}: expected a new run folder, it holds a run.")
    out.mkdir(parents=True, exist_ok=True)
    own = PartyFolder(party)
    simulate(
        read_config(own),
        folder,
        Console(stderr=True),
        command=None if resume else COMMAND,
        started=started,
        far_end=FlowerFarEnd(grid, own),
    )


app = ServerApp()
"""What `pilot_secure/flower/app/pyproject.toml` names."""

app.main()(main)
