"""Choosing neighbours: a given number of them, or up to the largest gap."""

from __future__ import annotations

import pytest

from protocols.selection import before_largest_gap, select


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
