"""Choosing neighbours by distance and weighting them (Eq. 11 and 12 of the paper), on vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protocols.ring import WEIGHT_STEP

MIN_WEIGHT = 0.25


@dataclass(frozen=True)
class Chosen:
    """One client's selection: its neighbours in order of name, and its smallest distance."""

    neighbours: tuple[str, ...]
    scale: float = field(repr=False)


def select(
    row: Mapping[str, float], num_neighbours: int | Literal["auto"], least: int = 1
) -> Chosen:
    """Return the ``num_neighbours`` nearest of a row {peer: distance}; ties go by name.

    Fewer peers than that are all taken. With ``auto``, the nearest up to the row's largest gap are
    taken, at least ``least`` (beyond the paper, whose M is given).
    Source: Eq. 11.
    """
    nearest = sorted(row, key=lambda peer: (row[peer], peer))
    if num_neighbours == "auto":
        num_neighbours = before_largest_gap([row[peer] for peer in nearest], least)
    nearest = nearest[:num_neighbours]
    return Chosen(tuple(sorted(nearest)), min((row[peer] for peer in nearest), default=0.0))


def before_largest_gap(distances: Sequence[float], least: int) -> int:
    """Return how many ascending distances stand before the largest gap, at least ``least``.

    The first of equal gaps counts; where no more than ``least`` are there, all stand before it.
    """
    gaps = [distances[i] - distances[i - 1] for i in range(max(least, 1), len(distances))]
    return max(least, 1) + gaps.index(max(gaps)) if gaps else len(distances)


def weight(scale: float, distance: float) -> float:
    """Return u = clamp(scale / distance, 1/4, 1), a multiple of 2^-20.

    The contributor computes it from its own distance, and the recipient gives one scale for all:
    it can make all weights large or all small, but single nobody out.
    Deviation from Eq. 12: 1/d is bounded to within a factor of four, because unequal weights
    reveal more of one neighbour (see the leakage report).
    """
    ratio = 1.0 if distance <= scale else scale / distance
    return round(min(max(ratio, MIN_WEIGHT), 1.0) / WEIGHT_STEP) * WEIGHT_STEP


def personalise(
    own: NDArray[np.float32],
    own_samples: int,
    weighted_sum: NDArray[np.float32],
    sum_nu: float,
    sum_u: float,
    sum_n: int,
    form: Literal["normalised", "literal"],
) -> NDArray[np.float32]:
    """Return the personalised vector of Eq. 12 from a client's own vector and its sealed sum.

    With weights w_j = u_j / sum_u over the neighbours that survived:

    - ``literal``: (n_k x_k + sum n_j w_j x_j) / (n_k + sum n_j), as printed; the coefficients do
      not add up to one, so the vector shrinks.
    - ``normalised``: the same numerator divided by n_k + sum n_j w_j.

    Args:
        own: x_k, [D]; weighted_sum: sum n_j u_j x_j, [D].
        sum_nu, sum_u, sum_n: sums of n_j u_j, u_j and n_j over the same neighbours.
    """
    if sum_u <= 0:
        return own.copy()
    denominator = own_samples + (sum_nu / sum_u if form == "normalised" else float(sum_n))
    result = weighted_sum * np.float32(1 / (sum_u * denominator))
    result += own * np.float32(own_samples / denominator)
    return result
