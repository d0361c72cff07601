"""Choosing neighbours: a given number of them, or up to the largest gap."""

from __future__ import annotations

import pytest

from protocols.selection import before_largest_gap, select, weight


@pytest.mark.parametrize(
    ("distances", "least", "count"),
    [
        ([1.0, 1.1, 5.0, 5.2], 1, 2),
        ([1.0, 1.1, 5.0, 5.2], 3, 3),  # the largest gap is not asked for below the minimum
        ([1.0, 4.0, 5.0, 6.0], 1, 1),
        ([1.0, 4.0, 5.0, 6.5], 2, 3),
        ([1.0, 2.0, 3.0], 1, 1),  # the first of equal gaps
        ([1.0, 2.0, 9.0], 3, 3),
        ([1.0, 2.0], 5, 2),
        ([2.0], 1, 1),
        ([], 2, 0),
        ([0.0, 0.0, 0.0], 1, 1),
    ],
)
def test_the_row_is_cut_at_its_largest_gap(distances: list[float], least: int, count: int) -> None:
    assert before_largest_gap(distances, least) == count


def test_auto_takes_the_nearest_in_front_of_the_gap() -> None:
    row = {"d": 7.0, "c": 2.5, "b": 2.0, "a": 6.5}
    chosen = select(row, "auto")
    assert chosen.neighbours == ("b", "c")
    assert chosen.scale == 2.0
    assert select(row, "auto", 3).neighbours == ("a", "b", "c")
    assert select(row, 3).neighbours == ("a", "b", "c")
    assert select({}, "auto", 2).neighbours == ()


@pytest.mark.parametrize(
    ("row", "count", "neighbours", "scale"),
    [
        ({"c": 1.0, "b": 1.0, "a": 1.0}, 2, ("a", "b"), 1.0),  # ties go by name
        ({"c": 1.0, "b": 2.0, "a": 2.0}, 2, ("a", "c"), 1.0),
        ({"b": 0.0, "a": 3.0}, 1, ("b",), 0.0),
        ({"b": 0.5, "a": 3.0}, 5, ("a", "b"), 0.5),  # fewer than M
    ],
)
def test_the_nearest_are_taken(row, count, neighbours, scale) -> None:
    chosen = select(row, count)
    assert (chosen.neighbours, chosen.scale) == (neighbours, scale)


@pytest.mark.parametrize(
    ("scale", "distance", "expected"),
    [
        (0.0, 0.0, 1.0),  # twins
        (1.0, 0.0, 1.0),
        (0.0, 1.0, 0.25),
        (1.0, 4.0, 0.25),  # at the clamp
        (1.0, 4.1, 0.25),
        (1.0, 2.0, 0.5),
        (2.0, 1.0, 1.0),
    ],
)
def test_weights_at_their_bounds(scale: float, distance: float, expected: float) -> None:
    assert weight(scale, distance) == expected
