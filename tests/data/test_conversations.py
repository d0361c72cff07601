"""LLaVA conversation JSON: turns become samples, and what cannot be used is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pilot_secure.data.conversations import read_conversations
from pilot_secure.data.prompts import conversation, prompt_text
from pilot_secure.errors import DataError


def _row(image: str | None, *texts: str, **keys: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **({"image": image} if image else {}), **keys}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (4, 3), (1, 2, 3)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:40])
    return folder


def _write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def test_each_answered_turn_is_a_sample_that_holds_the_earlier_ones(
    tmp_path: Path, images: Path
) -> None:
    texts = ("<image>\nWhat?", "A star.", "Which colour?", "Red.", "Unanswered?")
    file = _write(tmp_path, [_row("sub/b.png", *texts, id="7", source="x")])
    samples, report = read_conversations(file, images)
    assert [(s.id, s.answer, s.references) for s in samples] == [
        ("7#1", "A star.", ("A star.",)),
        ("7#2", "Red.", ("Red.",)),
    ]
    assert samples[0].instruction == "What?"
    assert samples[0].keys["source"] == "x"
    # What the model reads is the conversation of the whole row up to the answer.
    assert prompt_text(samples[1].instruction) == conversation(
        [("What?", "A star."), ("Which colour?", None)]
    )
    assert samples[0].image == images / "sub" / "b.png"
    assert (report.rows, report.text_only, report.broken) == (1, 0, ())


def test_place_holder_after_the_question_and_row_numbers_as_ids(
    tmp_path: Path, images: Path
) -> None:
    row = _row("a.png", "What?\n<image>", "A dot.", references=["A dot.", "One dot."])
    (sample,), _ = read_conversations(_write(tmp_path, [row]), images)
    assert (sample.id, sample.instruction) == ("1", "What?")
    assert sample.references == ("A dot.", "One dot.")


def test_what_cannot_be_used_is_skipped_counted_and_reported(tmp_path: Path, images: Path) -> None:
    good = _row("a.png", "Q", "A")
    rows = [
        good,
        _row(None, "Text?", "Yes."),
        _row("none.png", "Q", "A"),
        _row("broken.png", "Q", "A"),
        _row("a.png", "<image> <image> Q", "A"),
        _row("a.png", "Q"),
        {"image": "a.png", "conversations": [{"from": "gpt", "value": "A"}]},
        good,
    ]
    samples, report = read_conversations(_write(tmp_path, rows), images, max_broken_share=0.8)
    assert [sample.row for sample in samples] == [1, 8]
    assert report.text_only == 1
    assert [(broken.row, broken.image) for broken in report.broken] == [
        (3, "none.png"),
        (4, "broken.png"),
        (5, "a.png"),
        (6, "a.png"),
        (7, "a.png"),
    ]
    assert report.broken_share == pytest.approx(5 / 7)
    assert "8 rows, 1 without an image skipped, 5 broken skipped: row 3 (none.png: " in str(report)


def test_too_many_broken_rows_are_an_error(tmp_path: Path, images: Path) -> None:
    rows = [_row("a.png", "Q", "A")] * 9 + [_row("none.png", "Q", "A")]
    file = _write(tmp_path, rows)
    assert len(read_conversations(file, images, max_broken_share=0.1)[0]) == 9
    with pytest.raises(DataError) as caught:
        read_conversations(file, images, max_broken_share=0.09)
    assert "row 10 (none.png: the file is missing)" in str(caught.value)
    assert "10.0% of the rows with an image, expected at most" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "at least one row"),
        ({"image": "a.png"}, "expected a JSON list"),
        ([_row(None, "Text?", "Yes.")], "expected at least one usable row"),
    ],
)
def test_files_without_samples(tmp_path: Path, images: Path, content: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_conversations(_write(tmp_path, content), images)


def test_missing_and_malformed_files_are_named(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: there is no such file"):
        read_conversations(tmp_path / "none.json", images)
    with pytest.raises(DataError, match="expected the folder of the images"):
        read_conversations(_write(tmp_path, [_row("a.png", "Q", "A")]), tmp_path / "none")
    (tmp_path / "cut.json").write_text('[{"id": ')
    with pytest.raises(DataError, match=r"cut\.json: expected LLaVA conversation JSON"):
        read_conversations(tmp_path / "cut.json", images)
