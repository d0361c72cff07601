"""Training in one place: what centralized training is within a federation's frame."""

from __future__ import annotations

from collections.abc import Sequence

from pilot_secure.federation.client import FederationClient
from pilot_secure.federation.worker import Samples


def put_in_one_place(clients: Sequence[FederationClient]) -> None:
    """Give the first client everybody's samples, and everybody its model.

    That client alone trains (``Method.trainers``); each scores the model on its own test set.
    """
    first, *others = clients
    first.samples = Samples.pooled([client.samples for client in clients])
    for client in others:
        client.state = first.state
