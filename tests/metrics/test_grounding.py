"""Grounding accuracy, against boxes worked by hand."""

import pytest
from datasets import Dataset

from pilot_secure.errors import MetricError
from pilot_secure.metrics import score
from pilot_secure.metrics.grounding import iou, is_hit, parse_box


@pytest.mark.parametrize(
    ("answer", "order", "box"),
    [
        ("[0.10, 0.20, 0.30, 0.40]", "xyxy", (0.1, 0.2, 0.3, 0.4)),
        ("[0.10, 0.20, 0.30, 0.40]", "yxyx", (0.2, 0.1, 0.4, 0.3)),
        ("[ .1 , .2 , 1 , 1 ]", "xyxy", (0.1, 0.2, 1.0, 1.0)),
        ("0.1 0.2 0.3 0.4", "xyxy", (0.1, 0.2, 0.3, 0.4)),
        ("circle 3 of 5: [0.1, 0.2, 0.3, 0.4]", "xyxy", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3]", "xyxy", None),
        ("0.1, 0.2, 0.3, 0.4, 0.5", "xyxy", None),
        ("the red circle", "xyxy", None),
    ],
)
def test_parse_box(answer: str, order: str, box: tuple[float, ...] | None) -> None:
    assert parse_box(answer, order) == box


def test_iou_by_hand() -> None:
    # Two 2 x 2 squares, shifted by 1 in x: overlap 2, union 6.
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0.0
    assert iou((2, 2, 0, 0), (0, 0, 2, 2)) == 0.0  # corners the wrong way round: empty


def test_boundary_counts_as_a_hit() -> None:
    # Half of a box in two decimals: IoU is exactly 1/2 on paper.
    truth = (0.1, 0.1, 0.3, 0.7)
    assert is_hit((0.1, 0.1, 0.3, 0.4), truth)
    assert not is_hit((0.1, 0.1, 0.3, 0.39), truth)


def test_unparsed_answers_are_misses_and_counted_apart() -> None:
    records = Dataset.from_list(
        [
            {"answer": "", "box": [0.0, 0.0, 0.5, 1.0], "box_order": order}
            for order in ("xyxy", "yxyx", "yxyx", "xyxy")
        ]
    )
    predictions = [
        "[0.00, 0.00, 0.50, 1.00]",
        "[0.00, 0.00, 1.00, 0.50]",
        "[0.00, 0.00, 0.50, 1.00]",  # right in the other order: IoU (1/4) / (3/4) = 1/3
        "no box",
    ]
    result = score("grounding_iou50", predictions, records)
    assert (result.value, result.count, result.unparsed) == (50.0, 4, 1)


def test_record_without_a_box_is_an_error() -> None:
    with pytest.raises(MetricError, match="no 'box'"):
        score("grounding_iou50", ["[0, 0, 1, 1]"], [{"answer": "", "box": None}])
    with pytest.raises(MetricError, match="box_order is 'xywh'"):
        score("grounding_iou50", ["x"], [{"box": [0, 0, 1, 1], "box_order": "xywh"}])
