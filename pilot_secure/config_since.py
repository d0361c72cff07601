"""Whether a run that goes on has the configuration that it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

from pilot_secure.config import SimulationConfig
from pilot_secure.config_fields import leaves
from pilot_secure.errors import ConfigError

_MAY_CHANGE = {"model.base", "data.clients"}
"""Where files lie: what they hold is compared elsewhere, by hash, tasks and number of samples."""
_ANYWHERE = ("in_process", "processes", "ray")


def require_unchanged(config: SimulationConfig, began: Mapping[str, Any], file: str) -> None:
    """Check that a configuration is the one that was dumped as JSON values when the run began.

    Of section `run`, the seed alone has to be the same, and a run by Flower stays one: with other
    workers, in more time, or watched by others it is the same run.
    Raises: ConfigError, a sentence for each field of ``file`` that was changed.
    """
    now, problems = config.model_dump(mode="json"), []
    for leaf in leaves(SimulationConfig):
        value, before = (_at(leaf.path, content) for content in (now, began))
        if value != before and not _may_change(leaf.dotted, value, before):
            problems.append(
                f"{file}: {leaf.dotted} is {_said(value)}: expected {_said(before)}, as when the "
                "run began; a run goes on as it is, another one begins anew."
            )
    if problems:
        raise ConfigError(problems)


def _at(path: tuple[str, ...], content: Mapping[str, Any]) -> Any:
    return reduce(getitem, path, content)


def _may_change(dotted: str, value: Any, before: Any) -> bool:
    if dotted == "run.engine":
        return value in _ANYWHERE and before in _ANYWHERE
    return dotted in _MAY_CHANGE or (dotted.startswith("run.") and dotted != "run.seed")


def _said(value: Any) -> str:
    """A value as the file has it."""
    return f"a list of {len(value)}" if isinstance(value, list) else json.dumps(value)
