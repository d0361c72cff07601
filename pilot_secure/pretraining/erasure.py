"""A base model whose connector was never trained to pass something on: a concept is erased from it.

The vision tower still sees the concept; what of its features predicts it linearly no longer gets
past the connector's first layer. A language model's adapter cannot bring it back, a connector's
own training can.

Source: Belrose et al., "LEACE: Perfect linear concept erasure in closed form", NeurIPS 2023:
x -> x - W⁺ P W (x - E x), with W the whitening of x and P the orthogonal projection onto the
columns of W Cov(x, z). Of all affine maps after which no linear predictor of z does better than a
constant, it changes x least.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from pilot_secure.data.scenes import SHAPES
from pilot_secure.models import vision_features
from pilot_secure.pretraining.pool import Pool
from pilot_secure.pretraining.steps import apparent_colours, photographs

_BATCH = 250


@dataclass(frozen=True)
class Erasure:
    """The map x -> x - R (x - m): ``mean`` m [C] and ``removed`` R [C, C], of rank ``rank``."""

    mean: Tensor
    removed: Tensor
    rank: int

    def __call__(self, features: Tensor) -> Tensor:
        """Features [..., C] without the concept, in float64."""
        wide = features.double()
        return wide - (wide - self.mean) @ self.removed.T


def erasure(features: Tensor, concept: Tensor) -> Erasure:
    """Return the least change of features [n, C] after which concept [n, Z] is not linear in them.

    Computed in float64. Raises: ValueError if features and concept do not correlate at all.
    """
    x, z = features.double(), concept.double()
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values = values.clamp_min(1e-9 * values.max())
    whiten = vectors * values.rsqrt() @ vectors.T
    unwhiten = vectors * values.sqrt() @ vectors.T
    left, sizes, _ = torch.linalg.svd(
        whiten @ (centred.T @ (z - z.mean(0)) / len(x)), full_matrices=False
    )
    if not sizes[0] > 0:
        raise ValueError("the concept does not correlate with the features: nothing to erase")
    basis = left[:, sizes > 1e-6 * sizes[0]]
    return Erasure(mean, unwhiten @ basis @ basis.T @ whiten, basis.shape[1])


def without(connector: nn.Module, erased: Erasure) -> nn.Module:
    """Return a copy of a connector that takes features as ``erased`` leaves them.

    The map is folded into the first linear layer: W (x - R (x - m)) + b = (W - W R) x + W R m + b.
    """
    changed = copy.deepcopy(connector)
    first = next(module for module in changed.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        cut = first.weight.double() @ erased.removed
        first.weight.copy_(first.weight.double() - cut)
        first.bias.copy_(first.bias.double() + cut @ erased.mean)
    return changed


@torch.no_grad()
def features_and_colours(
    model: LlavaForConditionalGeneration, pool: Pool, *, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the features [n, C] of all patches on a shape, and its apparent colours [n, 3].

    Under random cameras, as the tower was trained: it is what is seen that is erased, whatever the
    camera, and not the names of colours.
    """
    generator = torch.Generator().manual_seed(seed)
    features, colours = [], []
    for start in range(0, len(pool.images), _BATCH):
        rows = slice(start, start + _BATCH)
        pixels, matrix, offset = photographs(torch.from_numpy(pool.images[rows]), generator)
        classes = torch.from_numpy(pool.classes[rows])
        there = (classes > 0) & (classes <= len(SHAPES))
        features.append(vision_features(model, pixels)[there])
        seen = apparent_colours(torch.from_numpy(pool.colours[rows]), matrix, offset)
        colours.append(seen[there])
    return torch.cat(features), torch.cat(colours)
