"""The page is filled from files: verdicts by hand, sections, and nothing else touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reproduction import __main__ as page
from benchmarks.reproduction.claims import CLAIMS, difference, verdict
from benchmarks.reproduction.sections import SECTIONS
from benchmarks.tables.cost import Cost
from benchmarks.tables.figures import MEAN_OF_TASKS, MOMENTS, Figure
from benchmarks.tables.layouts import TABLES
from benchmarks.tables.report import Filled, json_text

SCORES = {"Local": (100, 100), "FedAvg": (80, 82), "Pilot": (104, 108), "Shepherd": (81, 81)}


def filled(number: int = 1) -> str:
    """A table's JSON as the tables write it, with one task and two seeds."""
    values = {
        row: {s: {"reading": v, MEAN_OF_TASKS: float(v)} for s, v in enumerate(seeds)}
        for row, seeds in SCORES.items()
    }
    return json_text(
        Filled(
            TABLES[number],
            dict.fromkeys(MOMENTS, values),
            ["reading"],
            {"reading": "ocrvqa_accuracy"},
            {"embedded": {"text adapter": 78850}} if number == 4 else {},
            {row: dict.fromkeys(range(2), Cost(40.0, 30.0)) for row in values},
            {row: {"LoRA rate": "0.006"} for row in values},
        )
    )


def test_claims_are_about_rows_of_their_table() -> None:
    for number, claims in CLAIMS.items():
        rows = {row.label for row in TABLES[number].rows}
        assert {row for claim in claims for row in claim} <= rows
    assert set(CLAIMS) == set(TABLES)


def test_a_verdict_is_the_intervals() -> None:
    """Differences of 18 and 20 are clear, -1 and 1 are nothing; two seeds: t(1) = 12.706."""
    content = json.loads(filled())
    apart = difference(content, "after_local", ("Local", "FedAvg"))
    assert apart is not None and apart.mean == 19
    assert apart.half_width == pytest.approx(12.706, abs=1e-3) and verdict(apart) == "holds"
    assert verdict(Figure(-19.0, 1.0, 3)) == "the other way round"
    near = difference(content, "after_local", ("FedAvg", "Shepherd"))
    assert near is not None and near.mean == 0 and verdict(near) == "undecided"
    assert verdict(Figure.of([7.0])) == "one seed: no interval"
    assert verdict(difference(content, "after_local", ("Pilot", "FedProx"))) == "not run"


def test_a_table_is_filled_in_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    text = "before\n<!-- table-1 -->\nstale\n<!-- end of table-1 -->\nafter\n"
    own = tmp_path / "page.md"
    own.write_text(text + "<!-- table-3 -->\nkept\n<!-- end of table-3 -->\n")
    (tmp_path / "table-1.json").write_text(filled())
    arguments = ["--from", str(tmp_path), "--page", str(own)]
    assert page.main([*arguments, "--check"]) == 1
    assert page.main(arguments) == 0
    made = own.read_text()
    assert made.startswith("before\n<!-- table-1 -->\n") and "\nafter\n" in made
    assert "stale" not in made and "kept" in made
    assert "| Pilot | 106.0 ± 2.8 | 106.0 ± 2.8 | – |" in made
    assert "| FedAvg | 81.0 ± 1.4 | 81.0 ± 1.4 | +25.0 ± 12.7 |" in made
    assert "| Local above FedAvg | +19.00 ± 12.71: holds | +19.00 ± 12.71: holds |" in made
    assert "8 runs took 4.0 minutes of computing, 2.0 minutes on 2 free cores." in made
    assert page.main([*arguments, "--check"]) == 0


def test_a_section_is_filled_from_the_last_folder_that_has_its_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "heterogeneity.md").write_text(f"of {folder.name}")
    assert page.section("heterogeneity", [first, second]) == "of b"
    assert page.section("averaging", [first, second]) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "table-1.json: expected the figures of table-1"), ("[]", "table-1.json: expected")],
)
def test_a_file_that_is_no_figures_is_one_sentence(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "page.md"
    own.write_text("<!-- table-1 -->\n<!-- end of table-1 -->\n")
    (tmp_path / "table-1.json").write_text(content)
    assert page.main(["--from", str(tmp_path), "--page", str(own)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert words in sentence


def test_a_wrong_page_or_folder_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "none")
    for arguments in (["--page", nowhere], ["--from", nowhere, "--check"]):
        assert page.main(arguments) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith(f"error: {nowhere}")


def test_small_sections() -> None:
    group = {"clients": "all 9", "error": 0.4781, "cosine": 0.884, "norm": 0.782}
    assert "| all 9 | 0.478 | 0.884 | 0.782 |" in SECTIONS["averaging"]({"groups": [group]})
    rates = [{"what": "captioning, training", "pixels": 100, "cached": 125.0, "ratio": 1.25}]
    speed = {"threads": 2, "batch_size": 8, "filling_ms": 0.5, "rates": rates}
    assert "| captioning, training | 100 | 125 | 1.25 |" in SECTIONS["speed"](speed)
    steps = {"count": 60, "batch_size": 8, "threads": 2, "difference_share": 0.023}
    kinds = [{"kind": "stage 2", "ms": 83.61, "ratio": 1.0921}]
    lines = SECTIONS["step-cost"]({**steps, "steps": kinds})
    assert "| stage 2 | 83.6 | 1.092 |" in lines and "2.3 % of a step" in lines[-2]
    four = SECTIONS["table-4"](json.loads(filled(4)))
    assert "| embedded | 0.07885 |" in four and "| the paper states | 159.9 |" in four


def test_every_place_of_the_page_can_be_filled() -> None:
    places = {place["name"] for place in page._PLACE.finditer(page.PAGE.read_text())}
    own_pages = {"heterogeneity", "circumstances", "visual-shift"}
    assert places >= set(SECTIONS) and places - set(SECTIONS) <= own_pages
