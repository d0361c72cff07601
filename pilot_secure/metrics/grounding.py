"""Grounding: boxes written as text, and their intersection over union.

Source: the accuracy at IoU >= 0.5 of the RefCOCO line of work, as Pilot (Xiong et al.,
AAAI 2025, experiments) reports it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Box = tuple[float, float, float, float]

IOU_THRESHOLD = 0.5
_ROUNDING = 1e-6
_NUMBER = re.compile(r"[-+]?(?:\d+\.\d+|\.\d+|\d+)")
_BRACKETED = re.compile(r"\[([^\[\]]*)\]")
_POSITIONS = {"xyxy": (0, 1, 2, 3), "yxyx": (1, 0, 3, 2)}
BOX_ORDERS = tuple(_POSITIONS)


def parse_box(answer: str, order: str = "xyxy") -> Box | None:
    """The box an answer states, as (x1, y1, x2, y2); None where it states none.

    The first pair of square brackets that holds four numbers counts; without one, the whole
    answer has to hold exactly four. `order` is the order in which the answer writes its
    coordinates, "xyxy" or "yxyx". Corners are not reordered: a box with x2 < x1 is empty.
    """
    for text in [*_BRACKETED.findall(answer), answer]:
        numbers = [float(number) for number in _NUMBER.findall(text)]
        if len(numbers) == 4:
            first, second, third, fourth = (numbers[i] for i in _POSITIONS[order])
            return first, second, third, fourth
    return None


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two (x1, y1, x2, y2) boxes, 0 to 1; 0 if either is empty."""
    areas = [max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) for b in (first, second)]
    if not all(areas):
        return 0.0
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum(areas) - overlap)


def is_hit(predicted: Sequence[float], truth: Sequence[float]) -> bool:
    """Whether IoU >= 0.5, boundary included: float32 boxes may round to just below it."""
    return iou(predicted, truth) >= IOU_THRESHOLD - _ROUNDING
