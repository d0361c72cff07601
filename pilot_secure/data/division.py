"""Dividing a file's samples among clients.

A rule says which share of the samples with each value of a key every client gets. It is made from
the training samples and applied to those of the test as well, so that a client is tested on what
it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pilot_secure.data.samples import Sample
from pilot_secure.errors import DataError

Group = list[Sample]
"""Samples that stay together: those about one image, or about one image with one value."""
SplitKind = Literal["stratified", "dirichlet", "domain"]

_DRAWS = 1000


@dataclass(frozen=True)
class SplitRule:
    """How samples are divided: evenly at random without a key, else by `kind`.

    - stratified: every client gets the same share of each value;
    - dirichlet: for each value, shares drawn from Dirichlet(alpha), small alpha being uneven;
    - domain: every value is one client's alone, the frequent ones dealt out first.
    """

    parts: int
    key: str | None = None
    kind: SplitKind = "dirichlet"
    alpha: float = 0.5


@dataclass(frozen=True)
class Shares:
    """Each client's share of every value: arrays [parts] that sum to 1."""

    rule: SplitRule
    of_value: dict[str, np.ndarray]

    def divide(self, groups: Sequence[Group], rng: np.random.Generator) -> list[list[Group]]:
        """Deal groups out at random by the shares; a value without shares goes evenly."""
        even = np.full(self.rule.parts, 1 / self.rule.parts)
        dealt: list[list[Group]] = [[] for _ in range(self.rule.parts)]
        for value, members in by_value(groups, self.rule.key).items():
            order = rng.permutation(len(members))
            upper = np.cumsum(self.of_value.get(value, even))[:-1] * len(members)
            cuts = np.floor(upper + rng.uniform()).astype(int)  # rounding favours no client
            for part, indices in zip(dealt, np.split(order, cuts), strict=True):
                part.extend(members[i] for i in indices)
        return dealt


def group_samples(samples: Sequence[Sample], key: str | None = None) -> list[Group]:
    """Groups by image or, given a key, by image and value, in order of appearance."""
    groups: dict[tuple[str, str], Group] = {}
    for sample in samples:
        value = "" if key is None else _value(sample, key)
        groups.setdefault((sample.image.key, value), []).append(sample)
    return list(groups.values())


def by_value(groups: Sequence[Group], key: str | None) -> dict[str, list[Group]]:
    """Groups by the value that their first sample has under `key`, in order of appearance."""
    values: dict[str, list[Group]] = {}
    for group in groups:
        values.setdefault("" if key is None else _value(group[0], key), []).append(group)
    return values


def _value(sample: Sample, key: str) -> str:
    return str(sample.keys.get(key))


def divide(
    file: object,
    groups: Sequence[Group],
    rule: SplitRule,
    rng: np.random.Generator,
    *,
    needed: int = 1,
) -> tuple[list[list[Group]], Shares]:
    """Divide groups among the clients; also return the shares, to divide a test by.

    Raises: DataError naming the file if a client would get fewer than `needed` groups, or if no
    row has the key to split by.
    """
    if len(groups) < rule.parts * needed:
        raise DataError(
            f"{file}: {len(groups)} usable images for {rule.parts} client"
            f"{'s' if rule.parts > 1 else ''}, expected at least {needed} for each."
        )
    if rule.key is not None and not any(rule.key in group[0].keys for group in groups):
        raise DataError(
            f"{file}: split_by is {rule.key!r}, expected a key that rows have, one of "
            f"{', '.join(sorted({key for group in groups for key in group[0].keys})) or 'none'}."
        )
    for _ in range(_DRAWS if rule.kind == "dirichlet" else 1):
        shares = Shares(rule, _shares(groups, rule, rng))
        dealt = shares.divide(groups, rng)
        if min(map(len, dealt)) >= needed:
            return dealt, shares
    raise DataError(f"{file}: {_unfit(groups, rule, needed)}")


def _unfit(groups: Sequence[Group], rule: SplitRule, needed: int) -> str:
    values = len(by_value(groups, rule.key))
    if rule.kind == "domain":
        return (
            f"`{rule.key}` has {values} values, which leave one of {rule.parts} clients fewer "
            f"than {needed} images; expected at least as many values as clients."
        )
    kind = "Dirichlet" if rule.kind == "dirichlet" else "stratified"
    alpha = f" with split_alpha {rule.alpha}" if rule.kind == "dirichlet" else ""
    larger = "a larger split_alpha, " if rule.kind == "dirichlet" else ""
    return (
        f"a {kind} split by `{rule.key}`{alpha} leaves one of {rule.parts} clients fewer than "
        f"{needed} images; expected {larger}fewer clients or more images."
    )


def _shares(
    groups: Sequence[Group], rule: SplitRule, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    if rule.key is None or rule.kind == "stratified":
        return {}
    sizes = {value: len(members) for value, members in by_value(groups, rule.key).items()}
    if rule.kind == "dirichlet":
        alphas = np.full(rule.parts, rule.alpha)
        return {value: rng.dirichlet(alphas) for value in sizes}
    loads, shares = np.zeros(rule.parts), {}
    for value, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        client = int(np.argmin(loads))
        loads[client] += size
        shares[value] = np.eye(rule.parts)[client]
    return shares
