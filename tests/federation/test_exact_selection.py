"""The check of selections against exact distances."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import FinishedRun

from pilot_secure.errors import RunFolderError
from pilot_secure.federation import exact_selection
from pilot_secure.federation.exact_selection import changed_neighbours
from pilot_secure.federation.journal import RunJournal
from pilot_secure.federation.state import flatten
from pilot_secure.progress import RunProgress
from pilot_secure.reporting import selection_lines
from pilot_secure.run_folder import RunFolder


def result(neighbours: tuple[str, ...], *peers: str) -> SimpleNamespace:
    return SimpleNamespace(neighbours=neighbours, row=dict.fromkeys(peers, 1.0))


UPLOADS = {
    name: np.full(4, value, np.float32) for name, value in zip("abcd", (0, 1, 2, 4), strict=True)
}


def test_a_change_names_whom_and_both_exact_distances() -> None:
    results = {"a": result(("b", "d"), "b", "c", "d"), "b": result(("a", "c"), "a", "c", "d")}
    changes = changed_neighbours(2, 1, results, UPLOADS)
    assert changes["b"] == ()
    (change,) = changes["a"]
    assert (change.round, change.stage, change.client) == (2, 1, "a")
    assert (change.chosen, change.passed_over) == ("d", "c")
    assert (change.chosen_distance, change.passed_over_distance) == (8.0, 4.0)


def test_only_those_measured_are_candidates() -> None:
    """c dropped out before the distances: exact ones are compared without it."""
    assert changed_neighbours(1, 1, {"a": result(("b", "d"), "b", "d")}, UPLOADS) == {"a": ()}
    assert changed_neighbours(1, 1, {"a": result((), "x")}, UPLOADS) == {}
    assert changed_neighbours(1, 1, {"a": result(())}, UPLOADS) == {}


def test_a_run_reports_every_change_and_no_other(secure_run: FinishedRun) -> None:
    """Against selections made here from what the clients uploaded."""
    expected, rows = set(), 0
    for (round_number, stage, client), taken in secure_run.results.items():
        own = flatten(secure_run.uploads[round_number, stage, client]["text_adapter"])
        distances = {
            peer: np.linalg.norm(
                own.astype(float)
                - flatten(secure_run.uploads[round_number, stage, peer]["text_adapter"])
            )
            for peer in taken.row
        }
        nearest = sorted(distances, key=distances.__getitem__)[: len(taken.neighbours)]
        rows += 1
        expected |= {(round_number, client, peer) for peer in set(taken.neighbours) - set(nearest)}
    check = secure_run.summary.selection_check
    assert check.selections == rows
    assert {(c.round, c.client, c.chosen) for c in check.changed} == expected
    assert expected, "a sketch of 64 numbers changes some selection"
    assert check.unchanged == rows - len({(r, c) for r, c, _ in expected})
    for change in check.changed:
        assert change.chosen_distance >= change.passed_over_distance
    lines = selection_lines(secure_run.summary)
    assert f"{check.unchanged} of {rows} selections" in lines[0]
    assert len(lines) == 1 + min(10, len(check.changed)) + (len(check.changed) > 10)


def test_a_clear_run_measured_exactly(clear_run: FinishedRun) -> None:
    assert clear_run.summary.selection_check is None
    assert selection_lines(clear_run.summary) == []


def test_the_check_reaches_no_message(secure_run: FinishedRun) -> None:
    """The vectors go into the journal and nowhere else: nothing of it is kept after the check."""
    journal = secure_run.simulation.journal
    assert journal._uploads == {}
    assert journal.changed.keys() == {(1, 1), (2, 2)}


def test_long_vectors_wait_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They lie in files that nobody finds, are read in pieces, and are compared as all others."""
    monkeypatch.setattr(exact_selection, "IN_MEMORY", 100)
    monkeypatch.setattr(exact_selection, "_PIECE", 64)
    random = np.random.default_rng(5)
    vectors = {name: random.standard_normal(1001).astype(np.float32) for name in "abcd"}
    journal = RunJournal(RunFolder.create(tmp_path / "run", "run"), RunProgress())
    for name, vector in vectors.items():
        journal.uploads(name, 1, 1, vector)
    kept = journal._uploads
    assert all(isinstance(vector, np.memmap) for vector in kept.values())
    assert list((tmp_path / "run").iterdir()) == []
    results = {
        name: result(tuple("abcd".replace(name, "")[:1]), *"abcd".replace(name, ""))
        for name in "abcd"
    }
    assert changed_neighbours(1, 1, results, kept) == changed_neighbours(1, 1, results, vectors)
    for one, other in ("ab", "cd"):
        exact = np.linalg.norm(vectors[one].astype(float) - vectors[other].astype(float))
        assert exact_selection._distance(kept[one], kept[other]) == pytest.approx(exact, rel=1e-12)
    journal.write_selections(1, 1)
    assert journal._uploads == {}


def test_a_full_disk_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exact_selection, "IN_MEMORY", 100)
    with pytest.raises(RunFolderError, match="missing"):
        exact_selection.set_aside(np.zeros(101, np.float32), tmp_path / "missing")
