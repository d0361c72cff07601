"""What every section of the configuration is made of: the frozen base, bounded types, names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pilot_secure.metrics import METRICS
from protocols.identity import KEY_HOLDER, NAME_PATTERN, SERVER
from protocols.parameters import MAX_BOUND, MIN_BOUND

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Bound = Annotated[float, Field(ge=MIN_BOUND, le=MAX_BOUND)]
"""Of a norm or a coordinate, as far as the protocol's float32 scales reach."""

RESERVED = (SERVER, KEY_HOLDER)
LONGEST_NAME = 56
"""Of a client or task: `text.<client>-<number>` is a name of the protocol, at most 64 long."""


def _party_name(name: str) -> str:
    """Names go into messages and file names. Raises: ValueError, saying what was expected."""
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > LONGEST_NAME or name in RESERVED:
        raise ValueError(
            "lower-case letters, digits, `.`, `_` or `-`, beginning with a letter or a digit, "
            f"at most {LONGEST_NAME} characters, other than `{SERVER}` and `{KEY_HOLDER}`"
        )
    return name


def _task_name(name: str) -> str:
    """A task's adapters are modules, whose names torch wants without dots."""
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > LONGEST_NAME or "." in name:
        raise ValueError(
            "lower-case letters, digits, `_` or `-`, beginning with a letter or a digit, at most "
            f"{LONGEST_NAME} characters"
        )
    return name


def _metric_name(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"one of {', '.join(METRICS)}")
    return name


PartyName = Annotated[str, AfterValidator(_party_name)]
TaskName = Annotated[str, AfterValidator(_task_name)]
MetricName = Annotated[str, AfterValidator(_metric_name)]


class Section(BaseModel):
    """A frozen group of fields; an unknown field or a number that is not finite is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
