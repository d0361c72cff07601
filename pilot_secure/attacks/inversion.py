"""Inversion of a connector's update: which images was it computed on?

The gradient of the first linear layer is a sum of outer products whose right factors are the
vision features of the image tokens, so its row space lies in their span. An attacker with
candidate images takes those whose features lie in the row space: exactly so for few tokens, and
for anything once the tokens span the whole space (batch size times tokens against channels).
Noise fills the space. The update is one plain gradient step, the attacker's best case.

Source: the span of gradients as in Geiping et al., "Inverting Gradients" (NeurIPS 2020), section 3,
and Dimitrov et al., "SPEAR" (NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.models import SingleConnector
from pilot_secure.privacy.noise import ProtectiveNoise
from protocols import Entropy

_RELATIVE_RANK = 1e-4


@dataclass(frozen=True)
class Inversion:
    """How many of the true images are among as many best candidates, and what chance would get.

    ``found`` and ``chance`` are shares of the true images, [0, 1]; ``p_value`` is the probability
    that as many guesses made blindly, over all trials, find at least as many images.
    """

    batch_size: int
    clients: int
    found: float
    chance: float
    p_value: float


def connector_gradient(
    worker: Worker,
    samples: Samples,
    rows: Sequence[int],
    *,
    noise_multiplier: float = 0.0,
    clipping_norm: float = 1.0,
) -> NDArray[np.float64]:
    """The gradient [hidden, C] of the connector's first layer over some samples.

    With noise: gradients clipped sample by sample to ``clipping_norm`` in the connector, summed,
    noised, as DP-SGD does it; without: their mean.
    """
    connector = SingleConnector(worker.base_connector)
    connector.train_own_parts()
    weight: Tensor = connector.task_adapter.linear_1.weight  # type: ignore[assignment, union-attr]
    parameters = list(connector.parameters())
    total = np.zeros(weight.shape)
    for row in rows:
        loss = worker.losses(connector, samples, [row])["total"].sum()
        gradients = torch.autograd.grad(loss, parameters)
        norm = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
        place = next(i for i, p in enumerate(parameters) if p is weight)
        factor = min(1.0, clipping_norm / norm) if noise_multiplier else 1.0
        total += factor * gradients[place].double().numpy()
    if noise_multiplier:
        drawn = ProtectiveNoise(Entropy()).normal(total.size).reshape(total.shape)
        total += noise_multiplier * clipping_norm * drawn
    return total / len(rows)


def rank_candidates(gradient: NDArray[np.float64], features: NDArray[np.float64]) -> list[int]:
    """Candidates [P, N, C] ordered by how much of their features the row space leaves out."""
    _left, singular, right = np.linalg.svd(gradient, full_matrices=False)
    basis = right[singular > singular[0] * _RELATIVE_RANK]
    inside = np.einsum("pnc,rc->pnr", features, basis)
    energy, kept = (features**2).sum((1, 2)), (inside**2).sum((1, 2))
    return list(np.argsort((energy - kept) / energy, kind="stable"))


def invert(
    worker: Worker,
    samples: Samples,
    *,
    batch_size: int,
    clients: int,
    trials: int,
    generator: np.random.Generator,
    noise_multiplier: float = 0.0,
) -> Inversion:
    """Attack the update of one client, or a sum of several clients' updates, over some trials.

    The candidates are all images of ``samples``, each image once; batches are drawn from them.
    """
    features = samples.features[:].double().numpy()
    images = batch_size * clients
    hits = 0
    for _ in range(trials):
        drawn = generator.permutation(len(samples))[:images]
        batches = drawn.reshape(clients, batch_size)
        total = sum(
            connector_gradient(worker, samples, list(rows), noise_multiplier=noise_multiplier)
            for rows in batches
        )
        order = rank_candidates(np.asarray(total), features)
        hits += len(set(order[:images]) & set(drawn.tolist()))
    return Inversion(
        batch_size,
        clients,
        found=hits / (images * trials),
        chance=images / len(samples),
        p_value=p_value_of_hits(hits, images=images, candidates=len(samples), trials=trials),
    )


def p_value_of_hits(hits: int, *, images: int, candidates: int, trials: int) -> float:
    """The probability that blind guesses hit at least ``hits`` times over all trials.

    In a trial ``images`` distinct guesses among ``candidates`` hit a hypergeometric number of
    the ``images`` true ones; trials are independent.
    """
    from scipy.stats import hypergeom

    one = hypergeom.pmf(np.arange(images + 1), candidates, images, images)
    total = np.ones(1)
    for _ in range(trials):
        total = np.convolve(total, one)
    return float(total[hits:].sum())
