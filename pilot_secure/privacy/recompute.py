"""Every epsilon of a ledger computed again from its releases. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pilot_secure.privacy.accountants import epsilon
from pilot_secure.privacy.events import mechanisms
from pilot_secure.privacy.ledger import (
    Adjacency,
    ClientLedger,
    Ledger,
    LocalNoise,
    Release,
    SharedNoise,
    Unit,
    Unprotected,
)

TOLERANCE = 1e-6
"""How far a claim may lie below what is recomputed: another version's rounding."""


@dataclass(frozen=True)
class Claim:
    """An epsilon; where it is infinite, ``reason`` says why."""

    epsilon: float
    reason: str | None = None


def claim(
    client: str,
    num_examples: int,
    releases: Sequence[Release],
    *,
    unit: Unit,
    adjacency: Adjacency,
    delta: float,
    num_clients: int,
    max_colluders: int = 0,
) -> Claim:
    """What one client's releases amount to; infinite with a reason, never a guess."""
    units = num_examples if unit == "example" else num_clients
    if delta * units >= 1:
        return Claim(math.inf, f"delta {delta:g} is not below 1/{units}: it may release a {unit}")
    for release in releases:
        reason = _unsupported(release, unit)
        if reason is not None:
            return Claim(math.inf, f"round {release.round}, stage {release.stage}: {reason}")
    found = mechanisms(client, releases, max_colluders=max_colluders)
    value = epsilon(found, delta, adjacency)
    if math.isinf(value):
        return Claim(value, "noise too small for any bound")
    return Claim(value)


def _unsupported(release: Release, unit: Unit) -> str | None:
    if isinstance(release, Unprotected):
        return release.reason
    noise = release.noise_steps if isinstance(release, SharedNoise) else release.noise_multiplier
    if noise == 0:
        return "released without noise"
    per_client = isinstance(release, LocalNoise | SharedNoise)
    if per_client != (unit == "client"):
        return f"{release.kind} bounds no {unit}'s contribution"
    return None


def recompute(ledger: Ledger) -> dict[str, Claim]:
    """Each client's claim, from its releases alone."""
    return {
        entry.client: claim(
            entry.client,
            entry.num_examples,
            entry.releases,
            unit=ledger.unit,
            adjacency=ledger.adjacency,
            delta=ledger.delta,
            num_clients=len(ledger.clients),
            max_colluders=ledger.max_colluders,
        )
        for entry in ledger.clients
    }


def understated(ledger: Ledger) -> dict[str, tuple[float, float]]:
    """Clients whose claimed epsilon is below the recomputed one: (claimed, recomputed)."""
    found = recompute(ledger)
    return {
        entry.client: (entry.claimed_epsilon, found[entry.client].epsilon)
        for entry in ledger.clients
        if entry.claimed_epsilon < found[entry.client].epsilon - TOLERANCE
    }


def with_claims(ledger: Ledger) -> Ledger:
    """The ledger with every claim filled in from its releases."""
    found = recompute(ledger)
    return ledger.model_copy(
        update={"clients": tuple(_claimed(entry, found[entry.client]) for entry in ledger.clients)}
    )


def _claimed(entry: ClientLedger, found: Claim) -> ClientLedger:
    value = None if math.isinf(found.epsilon) else found.epsilon
    return entry.model_copy(update={"epsilon": value, "reason": found.reason})
