"""One entry point for all metrics: predictions and records in, a percentage out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pilot_secure.errors import MetricError
from pilot_secure.metrics.accuracy import normalise_ocrvqa, normalise_vqa, option_letter
from pilot_secure.metrics.cider import cider_per_image
from pilot_secure.metrics.grounding import BOX_ORDERS, is_hit, parse_box

Record = Mapping[str, Any]


@dataclass(frozen=True)
class MetricScore:
    """The score of a set of answers.

    `value` is in percent (CIDEr: 100 times the COCO code's value, as papers print it, so it may
    exceed 100). `count` answers were scored; `unparsed` of them did not have the form the metric
    needs and count as misses.
    """

    metric: str
    value: float
    count: int
    unparsed: int


class ColumnSelecting(Protocol):
    """What a `datasets.Dataset` offers here: reading some columns without decoding images."""

    @property
    def column_names(self) -> Any:
        """Names of the columns."""

    def select_columns(self, column_names: Any) -> Any:
        """The same rows with these columns only."""


def score(
    metric: str, predictions: Sequence[str], records: Iterable[Record] | ColumnSelecting
) -> MetricScore:
    """Score `predictions[i]`, the text a model generated, against `records[i]`.

    Columns used: `references`, texts of which each is right, or `answer` where there are none;
    for grounding `box`, always (x1, y1, x2, y2), and `box_order` ("xyxy" where absent), which
    says how the answer writes it.

    Raises: MetricError for an unknown metric, differing lengths, no records, or a record whose
    own answer or box the metric cannot use.
    """
    if metric not in _METRICS:
        raise MetricError(f"metric: got {metric!r}, expected one of {', '.join(METRICS)}.")
    rows = _rows(records)
    if not rows or len(rows) != len(predictions):
        raise MetricError(
            f"{metric}: got {len(predictions)} predictions for {len(rows)} records, "
            "expected the same number of each, at least one."
        )
    return _METRICS[metric](metric, predictions, rows)


def can_score(metric: str, answer: str, box_order: str = "xyxy") -> bool:
    """Whether a record with this right answer can be scored: an option letter, a box, a text."""
    if metric == "scienceqa_accuracy":
        return option_letter(answer) is not None
    if metric == "grounding_iou50":
        return parse_box(answer, box_order) is not None
    return metric in _METRICS and bool(answer.strip())


def _rows(records: Any) -> list[Record]:
    """Records as a list; of a Dataset only the columns that metrics read, so no image decodes."""
    if hasattr(records, "select_columns"):
        used = {"answer", "references", "box", "box_order"}
        records = records.select_columns([c for c in records.column_names if c in used])
    return list(records)


def _matches(normalise: Callable[[str], str]) -> Callable[..., MetricScore]:
    def run(metric: str, predictions: Sequence[str], rows: list[Record]) -> MetricScore:
        hits = sum(
            normalise(prediction) in map(normalise, _references(metric, row))
            for prediction, row in zip(predictions, rows, strict=True)
        )
        return MetricScore(metric, 100.0 * hits / len(rows), len(rows), 0)

    return run


def _multiple_choice(metric: str, predictions: Sequence[str], rows: list[Record]) -> MetricScore:
    hits = unparsed = 0
    for prediction, row in zip(predictions, rows, strict=True):
        answers = _references(metric, row)
        truths = [option_letter(answer) for answer in answers]
        if None in truths:
            raise MetricError(f"{metric}: a record's answer {answers} names no option letter.")
        letter = option_letter(prediction)
        hits += letter in truths
        unparsed += letter is None
    return MetricScore(metric, 100.0 * hits / len(rows), len(rows), unparsed)


def _captions(metric: str, predictions: Sequence[str], rows: list[Record]) -> MetricScore:
    values = cider_per_image(predictions, [_references(metric, row) for row in rows])
    return MetricScore(metric, 100.0 * sum(values) / len(values), len(rows), 0)


def _boxes(metric: str, predictions: Sequence[str], rows: list[Record]) -> MetricScore:
    hits = unparsed = 0
    for prediction, row in zip(predictions, rows, strict=True):
        order = row.get("box_order") or "xyxy"
        if order not in BOX_ORDERS:
            raise MetricError(f"{metric}: box_order is {order!r}, expected one of {BOX_ORDERS}.")
        truth = _field(metric, row, "box")
        predicted = parse_box(prediction, order)
        if predicted is None:
            unparsed += 1
        else:
            hits += is_hit(predicted, truth)
    return MetricScore(metric, 100.0 * hits / len(rows), len(rows), unparsed)


def _references(metric: str, row: Record) -> Sequence[str]:
    return row.get("references") or [_field(metric, row, "answer")]


def _field(metric: str, row: Record, name: str) -> Any:
    if row.get(name) is None:
        raise MetricError(f"{metric}: a record has no {name!r}, which this metric needs.")
    return row[name]


_METRICS: dict[str, Callable[[str, Sequence[str], list[Record]], MetricScore]] = {
    "vqa_accuracy": _matches(normalise_vqa),
    "scienceqa_accuracy": _multiple_choice,
    "ocrvqa_accuracy": _matches(normalise_ocrvqa),
    "cider": _captions,
    "grounding_iou50": _boxes,
}
METRICS = tuple(_METRICS)
