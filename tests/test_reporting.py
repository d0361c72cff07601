"""The lines that a run prints beside its tables."""

from __future__ import annotations

from conftest import FinishedRun

from pilot_secure.reporting import leakage_lines

LEGEND = "leakage: leverage 1: determined; 0: nothing beyond what the others' vectors cover"


def test_leverages_are_printed_with_their_meaning(
    secure_run: FinishedRun, clear_run: FinishedRun
) -> None:
    lines = leakage_lines(secure_run.summary)
    leverages = [line for line in lines if "knows at most leverage" in line]
    assert {line.split(" of a ")[-1].split(" (")[0] for line in leverages} == {
        "task adapter",
        "text adapter",
    }
    assert lines.count(LEGEND) == 1
    assert lines.index(LEGEND) == len(leverages)
    assert leakage_lines(clear_run.summary) == []
