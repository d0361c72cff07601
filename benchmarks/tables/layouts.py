"""Rows of the paper's six tables and of one more, and the settings that each row stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VISUAL, GENERAL, SHIFT = "visual-understanding", "general-vqa", "visual-shift"


@dataclass(frozen=True)
class Row:
    """One row: ``method``'s tuned settings, with ``settings`` on top.

    ``tuned`` is what they were tuned as, where a method has forms that are tuned apart.
    """

    label: str
    method: str = "pilot"
    settings: dict[str, Any] = field(default_factory=dict)
    tuned: str | None = None


@dataclass(frozen=True)
class Table:
    """One table. ``first`` is the row that differences are taken from, ``measure`` of which scores
    are stated in percent."""

    number: int
    title: str
    scenario: str
    rows: tuple[Row, ...]
    first: str = "Pilot"
    measure: str = "Pilot"


def _federation(**settings: Any) -> dict[str, Any]:
    return {"federation": settings}


FEDDPA_F = "feddpa-f"
FINE_TUNING = {"methods": {"feddpa_variant": "fine_tuning"}}
PILOT_M6 = "pilot-m6"
PILOT_CT_CLIP = "pilot-ct-clip"
CT_CLIP = {"model": {"ct_clip": True}}
PAPERS_M = _federation(num_neighbours=6)

_METHODS = (
    Row("Local", "local"),
    Row("Centralized", "centralized"),
    Row("FedAvg", "fedavg"),
    Row("FedProx", "fedprox"),
    Row("FedAdam", "fedadam"),
    Row("Shepherd", "shepherd"),
    Row("FedDPA-F", "feddpa", FINE_TUNING, tuned=FEDDPA_F),
    Row("FedDPA-T", "feddpa", {"methods": {"feddpa_variant": "training"}}),
    Row("Task FedAvg", "task_fedavg"),
    Row("Pilot"),
    Row("Pilot, M = 6", settings=PAPERS_M, tuned=PILOT_M6),
)


def forms_of(scenario: str) -> set[str]:
    """Return what the rows of a scenario's tables are tuned as."""
    rows = [row for table in TABLES.values() if table.scenario == scenario for row in table.rows]
    return {row.tuned or row.method for row in rows}


def _papers(label: str, **federation: Any) -> Row:
    """Pilot with the paper's M and the rates tuned for it, and one thing changed."""
    return Row(label, settings=_federation(**{"num_neighbours": 6, **federation}), tuned=PILOT_M6)


_NO_TEXT = _federation(text_aggregation="all")
_NO_CROSS = {"model": {"cross_task_adapter": False}}
_NO_AUXILIARY = {"training": {"load_balancing_weight": 0.0, "router_z_weight": 0.0}}
_NO_DIFFERENCE = {"training": {"difference_weight": 0.0}}

TABLES = {
    table.number: table
    for table in (
        Table(1, "Methods, visual understanding", VISUAL, _METHODS, measure="Local"),
        Table(2, "Methods, general VQA", GENERAL, _METHODS, measure="Local"),
        Table(
            3,
            "Ablation of Pilot's parts",
            VISUAL,
            (
                Row("Pilot"),
                Row("without ATA (mean of all)", settings=_NO_TEXT),
                Row("without text aggregation", settings=_federation(text_aggregation="none")),
                Row("without cross-task adapters", settings=_NO_CROSS),
                Row("without balance and z losses", settings=_NO_AUXILIARY),
                Row("without difference loss", settings=_NO_DIFFERENCE),
                Row(
                    "without any of them",
                    settings={
                        "federation": _NO_TEXT["federation"],
                        "model": _NO_CROSS["model"],
                        "training": {**_NO_AUXILIARY["training"], **_NO_DIFFERENCE["training"]},
                    },
                ),
            ),
        ),
        Table(
            4,
            "The connector alone, and CT-CLIP",
            VISUAL,
            (Row("Pilot"), Row("Pilot with CT-CLIP", settings=CT_CLIP, tuned=PILOT_CT_CLIP)),
        ),
        Table(
            5,
            "Aggregation of text adapters",
            VISUAL,
            (
                _papers("same task", text_aggregation="same_task"),
                _papers("all clients", text_aggregation="all"),
                *(_papers(f"M = {m}", num_neighbours=m) for m in (2, 5, 6, 7)),
                _papers("M by the largest gap", num_neighbours="auto"),
                _papers("M = 6, Eq. 12 as printed", eq12="literal"),
                _papers("M = 6, both stages in each round", schedule="both_stages"),
            ),
            first="M = 6",
            measure="M = 6",
        ),
        Table(
            6,
            "Initialisation of the cross-task adapters",
            VISUAL,
            (
                Row("local task adapter", settings={"model": {"cross_task_init": "task_adapter"}}),
                Row("random", settings={"model": {"cross_task_init": "random"}}),
            ),
            first="local task adapter",
            measure="local task adapter",
        ),
        Table(7, "Methods where the visual side matters", SHIFT, _METHODS, measure="Local"),
    )
}
"""Table 3's "without ATA" reads as the mean of all clients' text adapters, the plain thing that
adaptive aggregation replaces; without any exchange of them is a row of its own. Table 5's M = 2,
largest gap, literal Eq. 12 and schedule go beyond the paper's rows, and so does Table 7. Pilot is
tuned over M as well; ``Pilot, M = 6`` and all of Table 5 have the rates tuned at the paper's M."""
