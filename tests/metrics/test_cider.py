"""CIDEr against values worked by hand and against the COCO code's scorer."""

import json
import math
from pathlib import Path

import pytest

from pilot_secure.metrics import score
from pilot_secure.metrics.cider import cider_per_image, tokenize

VECTORS = Path(__file__).parents[1] / "vectors" / "cider_coco.json"
OTHER = ("c d", ["c d"])  # a second image, so that log(images / document frequency) = log 2


def _first(prediction: str, references: list[str]) -> float:
    return cider_per_image([prediction, OTHER[0]], [references, OTHER[1]])[0]


def test_identical_two_word_caption() -> None:
    # By hand: cosine 1 for n = 1 and 2, no n-gram for n = 3 and 4: 10 * (1 + 1 + 0 + 0) / 4.
    assert _first("a b", ["a b"]) == pytest.approx(5.0)


def test_repeated_words_are_clipped() -> None:
    # By hand, L = log 2. n = 1: caption (a: 2L), reference (a: L, b: L);
    # min(2L, L) * L / (2L * sqrt(2) L) = 1 / (2 sqrt 2); n = 2: "a a" against "a b" is 0.
    # Unclipped, n = 1 would be twice that.
    assert _first("a a", ["a b"]) == pytest.approx(10 * (1 / (2 * math.sqrt(2))) / 4)


def test_length_difference_is_penalised() -> None:
    # By hand: reference (a: 4L, b: 3L), n = 1: (4 + 3) / (sqrt 2 * 5);
    # n = 2: reference ("a b": 3L, "b a": 3L), 3 / (3 sqrt 2); five words apart: exp(-25 / 72).
    expected = 10 / 4 * (7 / (5 * math.sqrt(2)) + 1 / math.sqrt(2)) * math.exp(-25 / 72)
    assert _first("a b", ["a b a b a b a"]) == pytest.approx(expected)


def test_mean_over_references() -> None:
    # By hand: 5.0 for the first reference (above), no common n-gram with the second.
    assert _first("a b", ["a b", "x y"]) == pytest.approx(2.5)


def test_words_of_every_image_weigh_nothing() -> None:
    # By hand: document frequency of "a" is 2 of 2 images, so its weight is log(2 / 2) = 0.
    assert cider_per_image(["a", "a"], [["a"], ["a"]]) == [0.0, 0.0]


def test_equals_the_coco_code() -> None:
    vectors = json.loads(VECTORS.read_text())
    images = vectors["images"]
    values = cider_per_image([i["prediction"] for i in images], [i["references"] for i in images])
    assert values == pytest.approx([i["score"] for i in images], abs=1e-9)
    percent = score("cider", [i["prediction"] for i in images], images).value
    assert percent == pytest.approx(100 * vectors["mean"])
    assert 50 < percent < 500  # the drawn captions are neither all wrong nor all right


UNLIKE_PTB = (
    "email me at a@b.com or www.example.org",
    "y'all ain't seen it",
    'A hot-dog stand\'s sign: "50¢".',
)


def test_words_are_those_of_the_coco_code() -> None:
    """All but three captions: addresses, "y'all", and a cent sign that it spells out."""
    rows = json.loads((VECTORS.parent / "ptb_words.json").read_text())["captions"]
    differ = [row["caption"] for row in rows if list(tokenize(row["caption"])) != row["words"]]
    assert len(rows) == 130
    assert differ == list(UNLIKE_PTB)


def test_a_clients_score_is_over_its_own_references() -> None:
    """Document frequencies, and so scores, are those of the client's own test images."""
    captions = ["a red box", "a blue box", "a cat", "two cats"]
    answers = ["a red box", "a box", "a cat", "a cat"]
    records = [{"references": [caption]} for caption in captions]
    mine = score("cider", answers[:2], records[:2]).value
    alone = cider_per_image(answers[:2], [r["references"] for r in records[:2]])
    assert mine == pytest.approx(100 * sum(alone) / 2)
    among_all = cider_per_image(answers, [r["references"] for r in records])
    assert mine != pytest.approx(100 * sum(among_all[:2]) / 2, rel=0.05)


def test_without_references_the_answer_is_the_reference() -> None:
    records = [{"answer": "a b", "references": []}, {"answer": "c d", "references": None}]
    assert score("cider", ["a b", "c d"], records).value == pytest.approx(500.0)
