"""All attacks in a row, each with its protection off and on: on made-up updates, or on a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pilot_secure.attacks.canaries import audit_client, audit_ledger
from pilot_secure.attacks.distances import (
    cosine,
    pairwise,
    task_accuracy,
    task_chance,
    vector_from_distances,
)
from pilot_secure.attacks.linear import reconstruct
from pilot_secure.attacks.one_run import DELTA, Audit
from pilot_secure.attacks.simulated import SimulatedUpdates
from pilot_secure.errors import RunFolderError
from pilot_secure.files import told_in_a_sentence
from pilot_secure.privacy import (
    ClientLedger,
    DpSgd,
    Ledger,
    LedgerError,
    claim,
    parse_ledger,
    understated,
)
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import SelectionRecord
from protocols.identity import SERVER

NOISE = 1.0
"""Standard deviation of the noise on made-up updates, whose norm is about 1.6."""
_ROUNDS = 4
# An inversion worked if blind guesses would do as well with less than this probability.
_BY_CHANCE = 1e-4
_INVERTED = ((1, 1), (1, 8), (3, 1), (3, 4))  # clients, images a batch


@dataclass(frozen=True)
class Finding:
    """What one attack reached in one setting: ``value`` of ``measure``, beside chance.

    ``worked`` says whether it learned what protection is to hide, ``refutes`` whether that
    contradicts a claimed epsilon.
    """

    attack: str
    setting: str
    measure: str
    value: float
    chance: float | None
    worked: bool
    refutes: bool = False


def linear_findings(generator: np.random.Generator) -> Iterator[Finding]:
    """Text adapters from the server's and a coalition's sums."""
    simulated = SimulatedUpdates.draw(generator)
    clear = simulated.personal_rows(6, sealed=False)
    sealed = simulated.personal_rows(6, sealed=True)
    pair = ("client-01", "client-02")
    for setting, rows, viewer, noise in (
        ("sums unsealed, server", clear, (SERVER,), 0.0),
        ("sums sealed, server", sealed, (SERVER,), 0.0),
        ("sums sealed, two clients", sealed, pair, 0.0),
        ("sums unsealed, server, noised updates", clear, (SERVER,), NOISE),
        ("task means, two of three clients", simulated.task_rows(), pair, 0.0),
        ("task means, server", simulated.task_rows(), (SERVER,), 0.0),
    ):
        sent = simulated.noised(noise, generator) if noise else simulated.vectors
        _, error = reconstruct(rows, sent, viewer, simulated.vectors).best
        yield Finding(
            "linear system", setting, "least relative error", error, 1.0, worked=error < 0.1
        )


def audit_finding(attack: str, setting: str, found: Audit) -> Finding:
    """An audit as a finding; the claim takes the place of chance, and it works if refuted."""
    measure = (
        f"epsilon >= at delta {found.delta:g} ({found.confidence:.1%}), claimed {found.claimed:.2f}"
        f", ceiling {found.ceiling:.2f}, AUC {found.auc:.3f}, TPR at 1 % FPR "
        f"{found.tpr_at_1_percent_fpr:.3f}: {found.verdict}"
    )
    failed = not found.passed
    return Finding(attack, setting, measure, found.lower_bound, None, failed, refutes=failed)


def canary_findings() -> Iterator[Finding]:
    """A sound mechanism, and the same with noise six times too small."""
    release = DpSgd(
        round=1, stage=1, sampling="poisson", sampling_rate=1.0, noise_multiplier=6.0,
        clipping_norm=1.0, steps=4,
    )  # fmt: skip
    entry = ClientLedger(client="canaries", task="-", num_examples=64, releases=(release,))
    claimed = claim(
        entry.client, 64, entry.releases,
        unit="example", adjacency="zero_out", delta=DELTA, num_clients=1,
    ).epsilon  # fmt: skip
    for setting, weakened in (("noise as claimed", 1.0), ("noise six times too small", 6.0)):
        found = audit_client(entry, claimed=claimed, num_attacks=2, weakened=weakened)
        yield audit_finding("gradient canaries", setting, found)


def distance_findings(generator: np.random.Generator) -> Iterator[Finding]:
    """Tasks from distances, and a vector from repeated ones."""
    trials = 40
    for setting, noise in (("distances of updates", 0.0), ("distances of noised updates", NOISE)):
        hits = []
        for _ in range(trials):
            simulated = SimulatedUpdates.draw(generator)
            sent = simulated.noised(noise, generator) if noise else simulated.vectors
            hits.append(task_accuracy(pairwise(sent), simulated.tasks))
        rows = pairwise(simulated.vectors)
        chance = task_chance(rows, simulated.tasks)
        value = float(np.mean(hits))
        yield Finding(
            "task from distances", setting, "task mates found", value, chance, value > chance + 0.15
        )
    secret = generator.normal(size=64)

    def exact(point: np.ndarray) -> float:
        return float(np.linalg.norm(secret - point))

    def noised(point: np.ndarray) -> float:
        return float(np.linalg.norm(secret + NOISE * 3 * generator.normal(size=64) - point))

    for setting, ask, queries in (
        ("65 queries on 64 coordinates", exact, 65),
        (f"{_ROUNDS} queries, one an aggregation", exact, _ROUNDS),
        ("65 queries, noised afresh", noised, 65),
    ):
        value = cosine(vector_from_distances(ask, 64, queries, generator), secret)
        yield Finding(
            "vector from distances", setting, "cosine with the truth", value, 0.0, value > 0.95
        )


def inversion_findings(
    generator: np.random.Generator, *, trials: int, announce: Callable[[str], None]
) -> Iterator[Finding]:
    """Images from a connector's update, for one client and a sum of three."""
    from pilot_secure.attacks.inversion import invert
    from pilot_secure.config import SimulationConfig
    from pilot_secure.federation.worker import Worker
    from pilot_secure.run_data import load_data

    config = SimulationConfig.model_validate(
        {
            "data": {"clients_per_task": 1, "test_samples": 1},
            "federation": {"num_neighbours": 2},
        }
    )
    worker = Worker(config.model, config.training, seed=0)
    samples = worker.encode(load_data(config)[0][0])
    for clients, batch_size in _INVERTED:
        announce(f"inversion: {clients} x {batch_size} images")
        for noise in (0.0, 1.0):
            found = invert(
                worker, samples, batch_size=batch_size, clients=clients, trials=trials,
                generator=generator, noise_multiplier=noise,
            )  # fmt: skip
            whose = "one client" if clients == 1 else f"sum of {clients} clients"
            setting = f"{whose}, {batch_size} a batch{', noised' if noise else ''}"
            yield Finding(
                "connector inversion", setting, "images found", found.found, found.chance,
                worked=found.p_value < _BY_CHANCE,
            )  # fmt: skip


def run_findings(path: Path) -> Iterator[Finding]:
    """Attacks on what a run folder says: its ledger's claims recomputed and audited by canaries,
    tasks guessed from its clients' distances.

    Raises: RunFolderError if it lacks a ledger.
    """
    folder = RunFolder.open(path)
    summary = folder.read_summary()
    place = path / "ledger.json"
    with told_in_a_sentence(place):
        content = place.read_bytes()
    try:
        ledger = parse_ledger(content)
    except LedgerError as error:
        raise RunFolderError(f"{place}: {error}.") from None
    yield from _understated_claims(ledger)
    shown = set()
    for client, found in audit_ledger(ledger).items():
        if id(found) not in shown:
            shown.add(id(found))
            yield audit_finding("gradient canaries", f"as {client} trained or sent", found)
    if all(math.isinf(entry.claimed_epsilon) for entry in ledger.clients):
        reason = ledger.clients[0].reason
        yield Finding(
            "gradient canaries", "all clients", f"no claim: {reason}", math.inf, None, True
        )
    tasks = {client.client: client.task for client in summary.clients}
    for record in _last_selections(folder).items():
        (number, stage), rows = record
        value, chance = task_accuracy(rows, tasks), task_chance(rows, tasks)
        setting = f"clients' own rows, round {number}, stage {stage}"
        yield Finding(
            "task from distances", setting, "task mates found", value, chance, value > chance + 0.15
        )


def _understated_claims(ledger: Ledger) -> Iterator[Finding]:
    for client, (claimed, found) in understated(ledger).items():
        measure = f"epsilon of its releases at delta {ledger.delta:g}, claimed {claimed:.2f}: FAIL"
        yield Finding("ledger", client, measure, found, None, worked=True, refutes=True)


def _last_selections(folder: RunFolder) -> dict[tuple[int, int], dict[str, dict[str, float]]]:
    rows: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for record in folder.history_so_far():
        if isinstance(record, SelectionRecord):
            rows.setdefault((record.round, record.stage), {})[record.client] = record.distances
    return rows
