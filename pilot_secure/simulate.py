"""Run a simulated federation: ``python -m pilot_secure.simulate --secure-agg``.

Exit codes: 0 for a finished run; 2 for a mistake in what was asked for; 3 for a federation that
could not go on, as where too many clients dropped out; 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pilot_secure import command_line
from pilot_secure.config import RunConfig, SimulationConfig
from pilot_secure.errors import ConfigError, FederationError, RunFolderError, ToldError
from pilot_secure.launch import launched_processes, launched_rank, require_one_party, train_along
from pilot_secure.libraries import quieten_libraries
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import StartOfRun

if TYPE_CHECKING:
    from pilot_secure.simulation import FarEnd

PROGRAM = "python -m pilot_secure.simulate"
DESCRIPTION = (
    "Simulate a federation that tunes a LLaVA by Pilot (clients with different tasks, task "
    "adapters averaged per task, text adapters combined with the nearest others) or a rival "
    "method, under secure aggregation if asked for. Results go into a run folder."
)


@command_line.main
def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation that the command line asks for."""
    started = StartOfRun()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if launched_rank():
        return _train_along(arguments)
    config = _parse(arguments)
    console = Console(stderr=True)
    if config.run.resume is not None:
        go_on_with(config, config.run.resume, console, started)
        return 0
    if config.run.dry_run:
        from pilot_secure.dry_run import print_dry_run
        from pilot_secure.reporting import report_console

        quieten_libraries()
        print_dry_run(config, report_console())
        return 0
    command = f"{PROGRAM} {shlex.join(arguments)}".strip()
    was_there = config.run.out is not None and config.run.out.exists()
    folder = RunFolder.create(config.run.out, config.run_name)
    _announce(console, config, folder)
    try:
        carry_out(config, folder, console, command=command, started=started)
    finally:
        if not was_there:
            with contextlib.suppress(OSError):  # a run that was refused before it wrote anything
                folder.path.rmdir()
    return 0


def _parse(arguments: list[str]) -> SimulationConfig:
    return command_line.parse(SimulationConfig, arguments, program=PROGRAM, description=DESCRIPTION)


def _train_along(arguments: list[str]) -> int:
    """Be another process than the first of a launch: what is wrong is for the first one to say."""
    from pilot_secure.saved_run import SavedRun

    try:
        config = _parse(arguments)
        if config.run.resume is not None:
            config = SavedRun.open(config.run.resume).config
        if not config.run.dry_run:
            require_one_party(config)
            train_along(config)
    except ToldError as error:
        return error.exit_code
    except KeyboardInterrupt:
        return command_line.INTERRUPTED
    return 0


def go_on_with(asked: SimulationConfig, path: Path, console: Console, started: StartOfRun) -> None:
    """Go on with the run of a folder, as its own configuration says.

    Raises: UsageError if it is no run, is finished, or other options were given.
    """
    from pilot_secure.run_state import RunState
    from pilot_secure.saved_run import SavedRun

    if asked != SimulationConfig(run=RunConfig(resume=path)):
        raise ConfigError(
            [
                f"--resume is {path}: expected no other option or file beside it, the run has its "
                "own configuration."
            ]
        )
    if (path / "roster.json").is_file() and not (path / "summary.json").is_file():
        raise RunFolderError(
            f"--resume is {path}: expected a run that had begun, it was killed before that; start "
            "it again, with another --out."
        )
    run = SavedRun.open(path)
    if run.summary.status == "finished":
        RunState(path).forget()
        raise RunFolderError(
            f"--resume is {path}: expected a run that was killed or interrupted, it is finished."
        )
    console.print(f"going on with {path}", highlight=False, soft_wrap=True)
    _announce(console, run.config, run.folder)
    carry_out(run.config, run.folder, console, command=None, started=started)


def _announce(console: Console, config: SimulationConfig, folder: RunFolder) -> None:
    console.print(
        f"{config.federation.method} on {config.data.scenario}: {config.num_clients} clients, "
        f"{config.federation.rounds} rounds, run folder {folder.path}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_mode(config), highlight=False, soft_wrap=True)
    console.print(_protected(config), highlight=False, soft_wrap=True)
    if launched_processes() > 1:
        console.print(f"each client is trained by {launched_processes()} processes")


def _protected(config: SimulationConfig) -> str:
    """Return one line on what noise protects."""
    privacy = config.privacy
    if privacy.unit == "none":
        return "no noise: nothing is differentially private (--privacy-unit example or client)"
    level = (
        f"noise multiplier {privacy.noise_multiplier:g}"
        if privacy.target_epsilon is None
        else f"target epsilon {privacy.target_epsilon:g}"
    )
    what = "each training example" if privacy.unit == "example" else "each client's whole update"
    return f"differential privacy of {what}: {level}, clipping norm {privacy.clipping_norm:g}"


def _mode(config: SimulationConfig) -> str:
    """Return one line on who sees what."""
    security = config.security
    if not config.exchanges:
        return "nothing is exchanged"
    if not security.secure_agg:
        return "clear mode: the server sees every adapter; --secure-agg hides them"
    colluders = f"{security.max_colluders} colluding client"
    colluders += "" if security.max_colluders == 1 else "s"
    mode = (
        f"secure aggregation: {security.ring_bits}-bit ring, at least "
        f"{security.min_contributors} contributors a sum, {colluders} tolerated"
    )
    if not config.selects_neighbours:
        return mode
    sketch = "exact" if security.sketch_size is None else f"sketch of {security.sketch_size}"
    visible = "visible" if security.neighbour_visibility == "visible" else "hidden"
    opened = "each client" if security.distance_trust == "peer" else "a key holder"
    return f"{mode}, neighbours {visible}, encrypted distances ({sketch}) opened by {opened}"


def carry_out(
    config: SimulationConfig,
    folder: RunFolder,
    console: Console,
    *,
    command: str | None,
    started: StartOfRun,
) -> None:
    """Run a configuration here, or by a Flower deployment on this machine."""
    if launched_rank() is not None:
        require_one_party(config)
    if config.run.engine != "flower":
        simulate(config, folder, console, command=command, started=started)
        return
    from pilot_secure.flower.loopback import run_on_loopback
    from pilot_secure.reporting import print_report, report_console

    try:
        run_on_loopback(config, folder, console, resume=command is None)
    except (KeyboardInterrupt, FederationError):
        if (folder.path / "state").exists():  # the server has begun
            _say_how_to_go_on(console, folder)
        raise
    print_report(report_console(), folder.read_summary(), folder.path)


def _say_how_to_go_on(console: Console, folder: RunFolder) -> None:
    console.print(f"to go on: {PROGRAM} --resume {folder.path}", soft_wrap=True)


def simulate(
    config: SimulationConfig,
    folder: RunFolder,
    console: Console,
    *,
    command: str | None,
    started: StartOfRun | None = None,
    far_end: FarEnd | None = None,
) -> None:
    """Run a configuration into an empty run folder and print its tables.

    ``command`` is written beside the resolved configuration; without one, the folder's own run
    goes on. A new folder stays empty until every client is built. The run's wall time counts from
    ``started`` (default: from here). ``far_end`` is where clients live that are there already.
    """
    started = started or StartOfRun()
    from pilot_secure.progress import RunProgress
    from pilot_secure.reporting import print_report, report_console
    from pilot_secure.simulation import prepare

    quieten_libraries()
    with RunProgress(console) as progress:
        progress.describe("loading data and model")
        go_on = command is None
        simulation = prepare(
            config, folder, progress, started=started, go_on=go_on, far_end=far_end
        )
        if command is not None:
            folder.write_config(config, command=command)
        try:
            with simulation.onlookers, folder.recording(simulation.summary):
                simulation.run()
        except (KeyboardInterrupt, FederationError, RunFolderError):  # the last: a full disk
            _say_how_to_go_on(console, folder)
            raise
        simulation.forget()
        if simulation.host is not None:
            simulation.host.worker.ranks.tell(None)
    print_report(report_console(), folder.read_summary(), folder.path)


if __name__ == "__main__":
    raise SystemExit(main())
