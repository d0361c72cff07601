"""A tracker (TensorBoard, or another that accelerate knows) that follows a run's history.

What is tracked is what `history.jsonl` holds: losses and scores, by client. A tracker that keeps
them elsewhere than in the run folder takes them off this machine.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

from pilot_secure.config import SimulationConfig
from pilot_secure.config_fields import leaves
from pilot_secure.errors import UsageError
from pilot_secure.summary import HistoryRecord, ScoreRecord, TrainingRecord

FOLDER = "tracking"
"""Where trackers that write files have them, in the run folder."""


def require_tracker(config: SimulationConfig) -> None:
    """Raises: UsageError if the configured tracker's package is not installed."""
    from accelerate.tracking import get_available_trackers

    name = config.run.tracker
    if name is not None and name not in [str(known) for known in get_available_trackers()]:
        raise UsageError(
            f"run.tracker is {name}: expected a tracker whose package is installed, "
            f"{name}'s is not."
        )


class Tracking:
    """Hands losses and scores to the configured tracker.

    A step of the tracker is a stage of a round: 0 before the first, 2 (round - 1) + stage in it, so
    that clients' curves share an axis that never goes back.
    """

    def __init__(self, config: SimulationConfig, folder: Path) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        assert config.run.tracker is not None
        PartialState()  # trackers ask it which process of a launch they are in
        kind = LOGGER_TYPE_TO_CLASS[config.run.tracker]
        place = {"logging_dir": folder / FOLDER} if kind.requires_logging_directory else {}
        self._tracker = kind(config.run_name, **place)
        self._tracker.start()
        self._tracker.store_init_configuration(_settings(config))

    def take(self, record: HistoryRecord) -> None:
        """Track the record's figures, if it holds any."""
        values = _figures(record)
        if values:
            self._tracker.log(values, step=max(0, 2 * (record.round - 1) + record.stage))

    def close(self) -> None:
        """Finish with the tracker."""
        self._tracker.finish()


def _figures(record: HistoryRecord) -> dict[str, float]:
    """Return a record's figures by name; a loss that is not finite is left out."""
    match record:
        case TrainingRecord():
            losses = record.losses.items()
            return {f"loss/{n}/{record.client}": v for n, v in losses if v is not None}
        case ScoreRecord():
            return {f"score/{record.moment}/{record.client}": record.value}
    return {}


def _settings(config: SimulationConfig) -> dict[str, str | int | float | bool]:
    """Return the configuration's plain values by their dotted names; a list is text."""
    settings: dict[str, str | int | float | bool] = {}
    for leaf in leaves(SimulationConfig):
        value: Any = reduce(getattr, leaf.path, config)
        settings[leaf.dotted] = value if isinstance(value, bool | int | float) else str(value)
    return settings
