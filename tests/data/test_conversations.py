"""LLaVA conversation JSON: turns become samples, and what cannot be used is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pilot_secure.data.conversations import read_conversations
from pilot_secure.data.prompts import conversation, prompt_text
from pilot_secure.data.samples import FileReport, ImageFile, Sample
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


def _read(file: Path, images: Path) -> tuple[list[Sample], FileReport]:
    rows = read_conversations(file, images)
    return rows.samples, rows.log.report()


def test_each_answered_turn_is_a_sample_that_holds_the_earlier_ones(
    tmp_path: Path, images: Path
) -> None:
    texts = ("<image>\nWhat?", "A star.", "Which colour?", "Red.", "Unanswered?")
    file = _write(tmp_path, [_row("sub/b.png", *texts, id="7", source="x")])
    samples, report = _read(file, images)
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
    assert samples[0].image == ImageFile(images / "sub" / "b.png", "sub/b.png")
    assert (report.rows, report.text_only, report.broken) == (1, 0, ())


def test_place_holder_after_the_question_and_row_numbers_as_ids(
    tmp_path: Path, images: Path
) -> None:
    row = _row("a.png", "What?\n<image>", "A dot.", references=["A dot.", "One dot."])
    (sample,), _ = _read(_write(tmp_path, [row]), images)
    assert (sample.id, sample.instruction) == ("1", "What?")
    assert sample.references == ("A dot.", "One dot.")


def test_what_cannot_be_used_is_skipped_counted_and_reported(tmp_path: Path, images: Path) -> None:
    good = _row("a.png", "Q", "A")
    rows = [
        good,
        _row(None, "Text?", "Yes."),
        _row("a.png", "<image> <image> Q", "A"),
        _row("a.png", "Q"),
        {"image": "a.png", "conversations": [{"from": "gpt", "value": "A"}]},
        good,
    ]
    samples, report = _read(_write(tmp_path, rows), images)
    assert [sample.row for sample in samples] == [1, 6]
    assert (report.rows, report.text_only) == (6, 1)
    assert [(broken.row, broken.image) for broken in report.broken] == [
        (3, "a.png"),
        (4, "a.png"),
        (5, "a.png"),
    ]
    assert "6 rows, 1 without an image skipped, 3 broken skipped: row 3 (a.png: " in str(report)


def test_half_a_character_is_a_broken_row_that_can_be_printed(tmp_path: Path, images: Path) -> None:
    """JSON can escape one half of a surrogate pair alone; no UTF-8 can hold it."""
    rows = [
        _row("a.png", "Q \ud83d", "A"),
        _row("a.png", "Q", "A \ud83d\ude00"),  # a whole pair is a character
        _row("\udc00.png", "Q", "A", id="\udc00"),
        _row("a.png", "Q", "A", references=["A", "\ud800"]),
    ]
    samples, report = _read(_write(tmp_path, rows), images)
    assert [sample.answer for sample in samples] == ["A \U0001f600"]
    assert [(broken.row, broken.reason) for broken in report.broken] == [
        (1, "the question holds U+D83D, half of a character"),
        (3, "the id holds U+DC00, half of a character"),
        (4, "the reference 2 holds U+D800, half of a character"),
    ]
    assert r"row 3 (\udc00.png: " in str(report).encode().decode()


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path, images: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps([_row("a.png", "Q", "A")]), encoding="utf-8-sig")
    assert len(_read(file, images)[0]) == 1


@pytest.mark.parametrize(
    ("image", "coco_id"),
    [
        ("coco/train2017/000000033471.jpg", "33471"),
        ("COCO_val2014_000000000042.jpg", "42"),
        ("gqa/images/2354786.jpg", None),
        ("photos/000000033471.jpg", None),
    ],
)
def test_images_of_coco_are_known_by_their_number(
    tmp_path: Path, images: Path, image: str, coco_id: str | None
) -> None:
    (sample,), _ = _read(_write(tmp_path, [_row(image, "Q", "A")]), images)
    assert sample.coco_id == coco_id


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "at least one row"),
        ({"image": "a.png"}, "expected a list at the top, got a mapping"),
    ],
)
def test_files_without_samples(tmp_path: Path, images: Path, content: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_conversations(_write(tmp_path, content), images)


def test_missing_and_malformed_files_are_named(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: there is no such file"):
        read_conversations(tmp_path / "none.json", images)
    with pytest.raises(DataError, match="a{300}: expected the folder of the images"):
        read_conversations(_write(tmp_path, []), Path("a" * 300))
    with pytest.raises(DataError, match="expected the folder of the images"):
        read_conversations(_write(tmp_path, [_row("a.png", "Q", "A")]), tmp_path / "none")
    (tmp_path / "cut.json").write_text('[{"id": ')
    with pytest.raises(DataError, match=r"cut\.json: expected JSON, but"):
        read_conversations(tmp_path / "cut.json", images)
