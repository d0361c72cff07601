"""Every party's folder at once: ``python -m pilot_secure.flower.parties --out DIR --secure-agg``.

For a deployment on one machine, and for trying things out; the options are those of
``python -m pilot_secure.simulate``, but ``--out`` is the folder of the parties' folders. Between
organisations each party makes its own identity (`python -m protocols.identity_command`),
and only roster, configuration and terms are handed round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from pilot_secure import command_line
from pilot_secure.client_host import ClientHost, Enrolment
from pilot_secure.config import SimulationConfig
from pilot_secure.config_file import dump_config
from pilot_secure.federation.journal import RelayedJournal
from pilot_secure.files import make_private_folder, write_atomically
from pilot_secure.flower.party_folder import CONFIG, ROSTER, TERMS, PartyFolder
from pilot_secure.flower.terms import Terms
from pilot_secure.libraries import quieten_libraries
from pilot_secure.privacy.planning import NoisePlan
from pilot_secure.run_data import check_drop_outs, load_data, max_samples
from pilot_secure.run_privacy import check_room, noise_of_a_run
from protocols import Identity, Roster

DEFAULT = Path("parties")
PROGRAM = "python -m pilot_secure.flower.parties"
_COMMENT = "The configuration that all parties of this run have agreed on."


def make_parties(config: SimulationConfig, folder: Path) -> list[str]:
    """Make a folder for the server and each client of a run; return the clients' names.

    The run folder that the configuration names is the server's affair, and left out.
    Raises: UsageError where data, model or noise do not fit.
    """
    quieten_libraries()
    server, enrolment, terms = _agree(config)
    people = [server, *(Identity.from_secret(n, s) for n, s in enrolment.secrets.items())]
    make_private_folder(folder)
    for identity in people:
        party = PartyFolder(folder / identity.name)
        party.keep_identity(identity)
        write_public(party, config, enrolment.roster, terms)
    return list(terms.tasks)


def _agree(config: SimulationConfig) -> tuple[Identity, Enrolment, Terms]:
    """Draw identities, and load data and model once for what follows from them."""
    data, _ = load_data(config)
    check_drop_outs(config, data)
    server, enrolment = Enrolment.open(config, Path(), data, max_samples(config, data))
    nobody = Enrolment(**{**vars(enrolment), "secrets": {}})
    report = ClientHost(nobody, (), RelayedJournal(lambda note: None)).report
    noise = noise_of_a_run(config, data, enrolment.method())
    check_room(config, noise, report.vector_lengths)
    terms = Terms(
        tasks=dict(enrolment.tasks),
        max_samples=enrolment.max_samples,
        vector_lengths=dict(report.vector_lengths),
        base_sha256=report.base_sha256,
        noise=None if noise is None else TypeAdapter(NoisePlan).dump_python(noise, mode="json"),
    )
    return server, enrolment, terms


def write_public(
    party: PartyFolder, config: SimulationConfig, roster: Roster, terms: Terms
) -> None:
    """Write what is equal for all parties."""
    make_private_folder(party.path)
    run = config.run.model_copy(update={"out": None})
    own = config.model_copy(update={"run": run})
    write_atomically(party.path / CONFIG, dump_config(own, _COMMENT).encode())
    write_atomically(party.path / ROSTER, roster.model_dump_json(indent=2).encode())
    write_atomically(party.path / TERMS, terms.model_dump_json(indent=2).encode())


@command_line.main
def main(argv: Sequence[str] | None = None) -> None:
    """Make the folders that the command line asks for, and say where they are."""
    config = command_line.parse(
        SimulationConfig, argv, program=PROGRAM, description="Make every party's folder of a run."
    )
    own = config.model_copy(update={"run": config.run.model_copy(update={"engine": "flower"})})
    folder = config.run.out or DEFAULT
    clients = make_parties(own, folder)
    print(f"{folder.resolve()}: folders of the server and {len(clients)} clients")


if __name__ == "__main__":
    raise SystemExit(main())
