"""Dividing samples among clients: even, by shares, by whole values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pilot_secure.data.division import Group, SplitRule, divide, group_samples
from pilot_secure.data.samples import ImageFile, Sample
from pilot_secure.errors import DataError


def _sample(image: int, value: str, number: int = 0) -> Sample:
    source = ImageFile(Path(f"{image}.png"), f"{image}.png")
    return Sample(f"{image}-{number}", image, source, "Q", "A", ("A",), {"place": value})


def _samples(sizes: dict[str, int]) -> list[Sample]:
    """Samples with one image each, so many of each value."""
    values = [value for value, size in sizes.items() for _ in range(size)]
    return [_sample(image, value) for image, value in enumerate(values)]


def _counts(parts: list[list[Group]]) -> list[Counter[str]]:
    return [Counter(s.keys["place"] for group in part for s in group) for part in parts]


def _divided(sizes: dict[str, int], rule: SplitRule, seed: int = 0) -> list[Counter[str]]:
    rng = np.random.default_rng(seed)
    return _counts(divide("file", group_samples(_samples(sizes)), rule, rng)[0])


def test_without_a_key_parts_are_even_to_one() -> None:
    for seed in range(20):
        sizes = sorted(sum(c.values()) for c in _divided({"a": 20, "b": 5}, SplitRule(3), seed))
        assert sizes == [8, 8, 9]


def test_stratified_shares_every_value_evenly_and_favours_nobody() -> None:
    firsts = Counter()
    for seed in range(300):
        parts = _divided({"a": 9, "b": 1}, SplitRule(3, "place", "stratified"), seed)
        assert [part["a"] for part in parts] == [3, 3, 3]
        firsts.update(index for index, part in enumerate(parts) if part["b"])
    assert all(70 < firsts[index] < 130 for index in range(3))  # 100 each; sigma is 8


def test_domain_gives_whole_values_the_frequent_ones_first() -> None:
    """By hand: d (7) to 1, a (5) to 2, b (4) to 3, c (3) to 3 (4 < 5 < 7), e (1) to 2 (5 < 7)."""
    parts = _divided(dict(a=5, b=4, c=3, d=7, e=1), SplitRule(3, "place", "domain"))
    assert parts == [Counter(d=7), Counter(a=5, e=1), Counter(b=4, c=3)]


def test_domain_needs_a_value_for_each_client() -> None:
    with pytest.raises(DataError, match="`place` has 2 values, which leave one of 3 clients"):
        _divided(dict(a=5, b=4), SplitRule(3, "place", "domain"))


def test_a_test_is_divided_by_the_same_shares() -> None:
    rng = np.random.default_rng(0)
    rule = SplitRule(3, "place", "dirichlet", 0.3)
    groups = group_samples(_samples(dict(a=400, b=400)))
    train, shares = divide("file", groups, rule, rng)
    test = _counts(shares.divide(group_samples(_samples(dict(a=200, b=200, new=30))), rng))
    for mine, own in zip(_counts(train), test, strict=True):
        for value in "ab":
            assert abs(mine[value] / 400 - own[value] / 200) <= 1 / 200 + 1 / 400
        assert own["new"] == 10  # a value that training has not is shared evenly


def test_groups_are_images_or_images_with_one_value() -> None:
    samples = [_sample(1, "a", 0), _sample(1, "b", 1), _sample(2, "a", 2), _sample(1, "a", 3)]
    assert [len(group) for group in group_samples(samples)] == [3, 1]
    assert [len(group) for group in group_samples(samples, "place")] == [2, 1, 1]


def test_an_unknown_key_is_told_those_that_there_are() -> None:
    with pytest.raises(DataError, match="split_by is 'hospital', expected a key .* one of place"):
        _divided(dict(a=5, b=4), SplitRule(2, "hospital"))
