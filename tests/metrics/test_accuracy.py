"""Exact-match accuracies, against answers judged by hand."""

import pytest

from pilot_secure.errors import MetricError
from pilot_secure.metrics import score
from pilot_secure.metrics.accuracy import option_letter


def _records(*answers: str) -> list[dict[str, object]]:
    return [{"answer": answer} for answer in answers]


def test_vqa_strips_lowers_and_drops_one_full_stop() -> None:
    predictions = [" Red. ", "red..", "dark red", "two", "2."]
    result = score("vqa_accuracy", predictions, _records("red", "red", "red", "Two.", "2"))
    assert (result.value, result.count, result.unparsed) == (60.0, 5, 0)


def test_ocrvqa_keeps_the_full_stop() -> None:
    result = score("ocrvqa_accuracy", [" ACME ", "acme."], _records("Acme", "Acme"))
    assert result.value == 50.0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("B. the red circle", "B"),
        ("B.", None),
        ("b", None),
        ("B the red circle", None),
        ("So. The answer is C.", "C"),
        ("The answer is C. No: The answer is D.", None),
        ("The answer is C", None),
        ("The answer is C, as it is red.", "C"),
        ("", None),
    ],
)
def test_option_letter(answer: str, letter: str | None) -> None:
    assert option_letter(answer) == letter


def test_scienceqa_counts_answers_without_a_letter_apart() -> None:
    predictions = ["A", "A. red", "The answer is B.", "perhaps A", "C"]
    result = score("scienceqa_accuracy", predictions, _records("A", "A", "A", "A", "C. blue"))
    assert (result.value, result.count, result.unparsed) == (60.0, 5, 1)


def test_any_reference_is_right_and_none_means_the_answer() -> None:
    records = [{"answer": "red", "references": ["red", "Crimson"]}] * 3
    records.append({"answer": "red", "references": []})
    result = score("vqa_accuracy", ["crimson.", "red", "blue", "red"], records)
    assert result.value == 75.0


@pytest.mark.parametrize(
    ("metric", "predictions", "records", "words"),
    [
        ("bleu", ["a"], _records("a"), "expected one of vqa_accuracy"),
        ("vqa_accuracy", ["a", "b"], _records("a"), "2 predictions for 1 records"),
        ("vqa_accuracy", [], [], "at least one"),
        ("vqa_accuracy", ["a"], [{"references": []}], "has no 'answer'"),
        ("scienceqa_accuracy", ["A"], _records("red"), "names no option letter"),
    ],
)
def test_misuse_is_one_sentence(
    metric: str, predictions: list[str], records: list[dict[str, object]], words: str
) -> None:
    with pytest.raises(MetricError, match=words):
        score(metric, predictions, records)
