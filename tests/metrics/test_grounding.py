"""Grounding accuracy, against boxes worked by hand."""

import pytest
from datasets import Dataset

from pilot_secure.data.images import to_pixel_box, to_relative_box
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


@pytest.mark.parametrize(
    ("size", "truth", "answer", "pixels", "expected"),
    [
        # Wide, 200 x 100: 50 rows above. 100 x 40 or 100 x 50 of 100 x 90 pixels.
        ((200, 100), (20, 10, 120, 100), "[0.10, 0.30, 0.60, 0.50]", (20, 10, 120, 50), 4 / 9),
        ((200, 100), (20, 10, 120, 100), "[0.10, 0.30, 0.60, 0.55]", (20, 10, 120, 60), 5 / 9),
        # Tall, 100 x 200: 50 columns to the left. 100 x 80 or 100 x 100 of 100 x 180 pixels.
        ((100, 200), (0, 20, 100, 200), "[0.25, 0.10, 0.75, 0.50]", (0, 20, 100, 100), 4 / 9),
        ((100, 200), (0, 20, 100, 200), "[0.25, 0.10, 0.75, 0.60]", (0, 20, 100, 120), 5 / 9),
    ],
)
def test_iou_in_the_padded_square_is_that_in_the_images_own_pixels(
    size: tuple[int, int],
    truth: tuple[float, ...],
    answer: str,
    pixels: tuple[float, ...],
    expected: float,
) -> None:
    """Padding undone by hand: x * side - left, y * side - top."""
    box = parse_box(answer)
    assert box is not None
    assert to_pixel_box(box, *size) == pytest.approx(pixels)
    assert iou(pixels, truth) == pytest.approx(expected)
    relative = to_relative_box(truth, *size)
    assert iou(box, relative) == pytest.approx(expected)
    result = score("grounding_iou50", [answer], [{"answer": "", "box": relative}])
    assert result.value == (100.0 if expected > 0.5 else 0.0)


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
