"""What noise leaves of a view: the effective epsilon of every client, where a ledger stands.

The sums that the viewer read are taken with the ledger's sample counts as coefficients. Whoever
reads a client's distances, or receives a sum whose weights follow from them, is credited with that
client's whole noised update, so no private weight is needed for a bound (`privacy.views`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilot_secure.audit.bundle import LEDGER, Bundle
from pilot_secure.errors import RunFolderError
from pilot_secure.privacy import Ledger, LedgerError, LocalNoise, SharedNoise, parse_ledger
from pilot_secure.privacy.views import EffectivePrivacy, ViewsOfARun
from protocols.identity import KEY_HOLDER, SERVER
from protocols.leakage import View


def read_ledger(bundle: Bundle) -> Ledger | None:
    """The ledger of a bundle, None where there is none. Raises: RunFolderError if it is none."""
    content = bundle.content(LEDGER)
    try:
        return parse_ledger(content) if content is not None else None
    except LedgerError as error:
        raise RunFolderError(f"{bundle.path / LEDGER}: {error}.") from None


def local_noise(ledger: Ledger) -> dict[str, float]:
    """Each client's noise on its whole update over the update's sensitivity.

    The smallest of its releases; left out where a release has no such noise.
    """
    shift = 2.0 if ledger.adjacency == "replace_one" else 1.0
    noise: dict[str, float] = {}
    for entry in ledger.clients:
        own = [r.noise_multiplier for r in entry.releases if isinstance(r, LocalNoise)]
        if ledger.unit == "client" and own and len(own) == len(entry.releases):
            noise[entry.client] = min(own) / shift
    return noise


def claims_for(ledger: Ledger, viewer: tuple[str, ...]) -> dict[str, float]:
    """The claimed epsilons that hold against this viewer.

    One that rests on noise of several clients does not hold against more of them than c_max.
    """
    colluders = len(set(viewer) - {SERVER, KEY_HOLDER})
    return {
        entry.client: entry.claimed_epsilon
        for entry in ledger.clients
        if colluders <= ledger.max_colluders
        or not any(isinstance(release, SharedNoise) for release in entry.releases)
    }


def effective(
    ledger: Ledger, aggregations: Iterable[Sequence[View]], viewer: tuple[str, ...]
) -> tuple[EffectivePrivacy, ...]:
    """What a viewer can tell of every client outside, over all aggregations.

    Raises: ImportError where scipy, which solves for epsilon, is not installed.
    """
    views = ViewsOfARun(local_noise(ledger))
    clients = [entry.client for entry in ledger.clients]
    for seen in aggregations:
        views.add(seen, clients)
    return tuple(views.result(delta=ledger.delta, claimed=claims_for(ledger, viewer)))
