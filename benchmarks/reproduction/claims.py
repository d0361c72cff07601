"""The order that the paper's tables claim, and whether ours shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.tables.figures import MEAN_OF_TASKS, Columns, Figure, paired
from benchmarks.tables.layouts import TABLES

RIVALS = tuple(row.label for row in TABLES[1].rows if row.method not in ("pilot", "centralized"))
BEYOND_THE_PAPER = ("Task FedAvg", "without text aggregation")

Claim = tuple[str, str]  # the first row's scores are above the second's

_METHODS: tuple[Claim, ...] = (
    *(
        (pilot, rival)
        for pilot in ("Pilot", "Pilot, M = 6")
        for rival in RIVALS
        if rival not in BEYOND_THE_PAPER
    ),
    ("Local", "FedAvg"),
    ("FedAvg", "Shepherd"),
)
CLAIMS: dict[int, tuple[Claim, ...]] = {
    1: _METHODS,
    2: _METHODS,
    3: tuple(
        ("Pilot", row.label) for row in TABLES[3].rows[1:] if row.label not in BEYOND_THE_PAPER
    ),
    4: (("Pilot with CT-CLIP", "Pilot"),),
    5: tuple(("M = 6", row) for row in ("same task", "all clients", "M = 5", "M = 7")),
    6: (("local task adapter", "random"),),
    7: _METHODS,
}
"""Of the paper's own rows alone; the paper's Pilot has M = 6, ours is tuned over M too. Tables 3, 5
and 6 are read as what its choices imply: every part that it keeps helps, M = 6 is the best of its
values, and so on."""


def difference(content: Mapping[str, Any], moment: str, claim: Claim) -> Figure | None:
    """Return the claim's difference, paired by seed, from a table's JSON; None if a row lacks."""
    scores: dict[str, dict[int, Columns]] = {
        row: {int(seed): _with_nan(columns) for seed, columns in seeds.items()}
        for row, seeds in content["moments"][moment]["scores"].items()
    }
    first, second = claim
    if first not in scores or second not in scores:
        return None
    return paired(scores[first], scores[second]).get(MEAN_OF_TASKS)


def _with_nan(columns: Mapping[str, float | None]) -> Columns:
    return {name: math.nan if value is None else value for name, value in columns.items()}


def verdict(figure: Figure | None) -> str:
    """Return what the difference's 95 % confidence interval says about the claim."""
    if figure is None:
        return "not run"
    if math.isnan(figure.mean):
        return "not defined"
    if figure.count < 2:
        return "one seed: no interval"
    if abs(figure.mean) <= figure.half_width:
        return "undecided"
    return "holds" if figure.mean > 0 else "the other way round"
