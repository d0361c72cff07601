"""Good runs by the command line raise no alarm, replayed from their escrow or not."""

from __future__ import annotations

import pytest

from benchmarks.false_alarms import good_runs, main


def test_there_are_twenty_runs_of_all_kinds() -> None:
    names = [name for name, _changes in good_runs()]
    assert len(set(names)) == len(names) == 20
    for word in ("visual-understanding", "general-vqa", "peer", "key_holder", "hidden", "visible"):
        assert sum(word in name for name in names) == 8


@pytest.mark.slow
def test_good_runs_raise_no_alarm() -> None:
    """One of each trust model and visibility; the benchmark itself does all twenty."""
    assert main(["--only", "2", "3", "6", "15"]) == 0
