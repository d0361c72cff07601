"""Canaries through the mechanisms as the clients run them, for :mod:`one_run` to audit.

A gradient canary is a sample whose gradient has a coordinate of its own and the largest norm that
clipping allows: the strongest sample there is. All of DP-SGD is real, from the Poisson batches to
the optimiser; only the model is one weight per canary. A client canary is a client whose update
has the largest norm. Sizes, rates, noise and steps are those of a run's ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pilot_secure.attacks.one_run import DELTA, Audit, audit
from pilot_secure.federation.plan import ProximalTerm
from pilot_secure.privacy import (
    ClientLedger,
    DpSgd,
    Ledger,
    LocalNoise,
    SharedNoise,
    recompute,
)
from pilot_secure.privacy.client_level import noised
from pilot_secure.privacy.concentrated import remaining_terms
from pilot_secure.privacy.dp_sgd import PrivateUpdate
from pilot_secure.privacy.events import summed_noise
from pilot_secure.privacy.noise import ProtectiveNoise
from pilot_secure.privacy.planning import ExampleNoise
from protocols import Entropy
from protocols.discrete_gaussian import DiscreteGaussian

CANARIES = 2000
_UPDATE_LENGTH = 8


def coins(entropy: Entropy, count: int) -> NDArray[np.bool_]:
    """Who takes part: fair coins."""
    tossed: NDArray[np.bool_] = np.frombuffer(entropy.read(count), np.uint8) % 2 == 1
    return tossed


def dp_sgd_scores(
    releases: Iterable[DpSgd],
    included: NDArray[np.bool_],
    *,
    weakened: float = 1.0,
    mode: str = "hooks",
    entropy: Entropy | None = None,
) -> NDArray[np.float64]:
    """Train on the included canaries under the releases; how far each one's weight moved, [m].

    ``weakened`` divides the noise, as a defect would.
    """
    count = len(included)
    model = nn.Linear(count, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    model.train()
    noise = ProtectiveNoise(entropy or Entropy())
    for release in releases:
        settings = ExampleNoise(
            release.noise_multiplier / weakened,
            release.clipping_norm,
            max(1, round(release.sampling_rate * count)),
            mode,  # type: ignore[arg-type]
        )
        parameters: list[nn.Parameter] = list(model.parameters())
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        with PrivateUpdate(
            [model], optimizer, ProximalTerm(0.0, parameters), settings, noise
        ) as update:
            _take_steps(model, update, included, release)
    moved: NDArray[np.float64] = -model.weight.detach().numpy()[0].astype(np.float64)
    return moved


def _take_steps(
    model: nn.Linear, update: PrivateUpdate, included: NDArray[np.bool_], release: DpSgd
) -> None:
    """Canary i's loss is 10 C times weight i: clipped to norm C, in direction i."""
    scale = 10 * release.clipping_norm
    while update.steps < release.steps:
        for drawn in update.batches(len(included)):
            if update.steps == release.steps:
                return
            rows = [row for row in drawn if included[row]]
            inputs = torch.zeros(len(rows), len(included))
            inputs[torch.arange(len(rows)), torch.tensor(rows, dtype=torch.long)] = scale
            update.step(model(inputs)[:, 0] if rows else None)


def client_scores(
    releases: Iterable[LocalNoise],
    included: NDArray[np.bool_],
    *,
    weakened: float = 1.0,
    entropy: Entropy | None = None,
) -> NDArray[np.float64]:
    """Send one update for each canary client, and one of zeros for who is out: the sums, [m]."""
    stream = ProtectiveNoise(entropy or Entropy())
    scores = np.zeros(len(included))
    for release in releases:
        for _ in range(release.uploads):
            for place, inside in enumerate(included):
                update = np.zeros(_UPDATE_LENGTH, np.float32)
                update[0] = 10 * release.clipping_norm * bool(inside)
                sent = noised(
                    {"v": {"x": update}},
                    clipping_norm=release.clipping_norm,
                    noise_multiplier=release.noise_multiplier / weakened,
                    noise=stream,
                )
                weight = 1 / (release.noise_multiplier**2 * release.clipping_norm)
                scores[place] += float(sent["v"]["x"][0]) * weight
    return scores


def shared_scores(
    releases: Iterable[SharedNoise],
    client: str,
    included: NDArray[np.bool_],
    *,
    max_colluders: int,
    weakened: float = 1.0,
    entropy: Entropy | None = None,
) -> NDArray[np.float64]:
    """Let the client's canaries into sums with the noise that colluders leave: scores, [m].

    Each canary is the largest term in a coordinate of its own; shares are drawn as clients do.
    """
    source, count = entropy or Entropy(), len(included)
    scores = np.zeros(count)
    for release in releases:
        terms = remaining_terms(release.weights, max_colluders)
        deviation = max(1, round(release.noise_steps / weakened))
        shares = [DiscreteGaussian(source.read(32), deviation).draw(count) for _ in range(terms)]
        largest = round(release.steps_per_unit * release.clipping_norm * release.weights[client])
        weight = largest / (terms * release.noise_steps**2)
        scores += (largest * included + np.sum(shares, axis=0)) * weight
    return scores


def barest_parts(
    client: str,
    local: Sequence[LocalNoise],
    sums: Sequence[SharedNoise],
    max_colluders: int,
) -> tuple[list[LocalNoise], list[SharedNoise]]:
    """Of each update whose parts leave under noises of their own, the part with the least noise.

    An update is clipped as a whole: a canary that had the largest norm in several parts would be
    larger than any client may be, and its bound none. So it has all of its norm in one.
    """
    parts: dict[tuple[int, int], dict[str, list[SharedNoise]]] = {}
    for release in sums:
        if client in release.weights:
            vectors = parts.setdefault((release.round, release.stage), {})
            vectors.setdefault(release.vector, []).append(release)
    kept = [release for release in local if (release.round, release.stage) not in parts]
    in_sums: list[SharedNoise] = []
    for place, vectors in parts.items():
        own = [release for release in local if (release.round, release.stage) == place]
        rhos = {
            name: sum(summed_noise(client, r, max_colluders).of_clipping() for r in releases)
            for name, releases in vectors.items()
        }
        barest = max(rhos, key=lambda name: rhos[name])
        if sum(r.uploads / r.noise_multiplier**2 for r in own) / 2 > rhos[barest]:
            kept += own
        else:
            in_sums += vectors[barest]
    return kept, in_sums


def audit_client(
    entry: ClientLedger,
    *,
    claimed: float,
    num_attacks: int = 1,
    max_colluders: int = 0,
    canaries: int = CANARIES,
    weakened: float = 1.0,
    mode: str = "hooks",
) -> Audit:
    """Audit what one client of a ledger did, against ``claimed``, an epsilon at the audit's delta.

    Raises: ValueError for releases that have no mechanism to audit.
    """
    included = coins(Entropy(), canaries)
    sgd = [release for release in entry.releases if isinstance(release, DpSgd)]
    local = [release for release in entry.releases if isinstance(release, LocalNoise)]
    sums = [release for release in entry.releases if isinstance(release, SharedNoise)]
    if len(sgd) + len(local) + len(sums) != len(entry.releases) or (sgd and (local or sums)):
        raise ValueError(f"{entry.client}: no mechanism to audit")
    if sgd:
        scores = dp_sgd_scores(sgd, included, weakened=weakened, mode=mode)
    else:
        local, sums = barest_parts(entry.client, local, sums, max_colluders)
        scores = client_scores(local, included, weakened=weakened)
        scores += shared_scores(
            sums, entry.client, included, max_colluders=max_colluders, weakened=weakened
        )
    return audit(scores, included, claimed=claimed, num_attacks=num_attacks)


def distinct_mechanisms(ledger: Ledger) -> dict[str, ClientLedger]:
    """A client for each way in which protected clients of a ledger released anything."""
    distinct: dict[str, ClientLedger] = {}
    for entry in ledger.clients:
        if entry.releases and not math.isinf(entry.claimed_epsilon):
            distinct.setdefault(_mechanism(entry), entry)
    return distinct


def audit_ledger(
    ledger: Ledger, *, canaries: int = CANARIES, mode: str = "hooks", num_attacks: int | None = None
) -> dict[str, Audit]:
    """Audit every client whose releases differ from those audited before, all counted together.

    ``num_attacks`` is how many are counted, where these are part of a larger number. The claim is
    recomputed from the releases at the audit's own delta, far below the run's.
    """
    protected = [entry for entry in ledger.clients if not math.isinf(entry.claimed_epsilon)]
    distinct = distinct_mechanisms(ledger)
    claims = recompute(ledger.model_copy(update={"delta": DELTA}))
    audits = {
        key: audit_client(
            entry,
            claimed=claims[entry.client].epsilon,
            num_attacks=num_attacks or len(distinct),
            max_colluders=ledger.max_colluders,
            canaries=canaries,
            mode=mode,
        )
        for key, entry in distinct.items()
    }
    return {e.client: audits[_mechanism(e)] for e in protected if _mechanism(e) in audits}


def _mechanism(entry: ClientLedger) -> str:
    """What is the same for clients that did the same."""
    own = [
        release.weights.get(entry.client)
        for release in entry.releases
        if isinstance(release, SharedNoise)
    ]
    ignored = {"draw": "", "sum": "", "weights": {}}
    return repr([own, [release.model_copy(update=ignored) for release in entry.releases]])


def worst(audits: Sequence[Audit]) -> Audit:
    """The audit whose lower bound comes nearest to its claim, or furthest above it."""
    return max(audits, key=lambda found: found.lower_bound - found.claimed)
