"""Parameters as an attempt declared them, unsafe ones included: the rules judge them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError, model_validator

from protocols.codec import CodecError, decode
from protocols.errors import ParameterError
from protocols.parameters import AggregationParameters


class DeclaredParameters(AggregationParameters):
    """Parameters whose fields have the right types, without the rules across fields."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self


@dataclass(frozen=True)
class Problems:
    """What is wrong with declared parameters.

    ``malformed``: not the encoding of any; ``unsafe``: rules that they break, one text for all.
    """

    malformed: str | None = None
    unsafe: str | None = None


def read_declared(data: bytes, digest: str) -> tuple[DeclaredParameters | None, Problems]:
    """Return the parameters of an encoding and what is wrong with them."""
    if hashlib.sha256(data).hexdigest() != digest:
        return None, Problems(malformed="the file is not what its name is the hash of")
    unsafe = None
    try:
        AggregationParameters.from_encoded(data)
    except ParameterError as error:
        unsafe = str(error)
    try:
        content = decode(data)
        fields = content[1] if isinstance(content, tuple) and len(content) == 2 else None
        declared = DeclaredParameters.model_validate(fields)
    except (CodecError, ValidationError) as error:
        return None, Problems(malformed=str(error).splitlines()[0])
    return declared, Problems(unsafe=unsafe)
