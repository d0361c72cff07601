"""The columns of a client's data, and the client itself."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset, Features, Image, List, Value

# instruction: the human turn without <image>. answer: what is trained on. references: what is
# scored against. box: (x1, y1, x2, y2) relative to the image padded to a square, for grounding
# only; box_order: the order in which the *answer* gives it, "xyxy" or "yxyx".
COLUMNS = Features(
    {
        "id": Value("string"),
        "image": Image(),
        "instruction": Value("string"),
        "answer": Value("string"),
        "references": List(Value("string")),
        "box": List(Value("float32")),
        "box_order": Value("string"),
        "kind": Value("string"),
    }
)


@dataclass(frozen=True)
class ClientData:
    """One client's samples.

    ``train`` and ``test`` have the columns of ``COLUMNS``; ``metric`` is one of
    ``pilot_secure.metrics.METRICS``.
    """

    name: str
    task: str
    metric: str
    train: Dataset
    test: Dataset


def client_name(number: int) -> str:
    """``client-01`` for 1 and so on."""
    return f"client-{number:02d}"
