"""The leaves of a pydantic configuration: their paths, types, and how text becomes a value."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import TypeIs

_INT = re.compile(r"[-+]?\d+")
_NULLS = ("none", "null")
_TYPE_NAMES = {
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    bool: "true or false",
}
_METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false"}


@dataclass(frozen=True)
class Leaf:
    """One field that holds a value rather than more fields.

    `path` leads to it from the root model, such as ("federation", "rounds").
    """

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def dotted(self) -> str:
        """The path as configuration files and error messages write it."""
        return ".".join(self.path)

    @property
    def option(self) -> str:
        """The command-line option: the field's own name, without that of its section.

        `json_schema_extra={"option": "json"}` gives it another, where pydantic needs that name.
        """
        extra = self.field.json_schema_extra
        given = extra.get("option") if isinstance(extra, dict) else None
        return "--" + str(given or self.path[-1]).replace("_", "-")

    @property
    def annotation(self) -> Any:
        """The declared type, its constraints included."""
        return annotated(self.field)

    @property
    def default(self) -> Any:
        """The default value; `PydanticUndefined` where the field has to be given."""
        return self.field.get_default(call_default_factory=True)

    @property
    def positional(self) -> bool:
        """Whether it is an argument instead of an option (`json_schema_extra` says so)."""
        extra = self.field.json_schema_extra
        return isinstance(extra, dict) and bool(extra.get("positional"))

    @property
    def is_flag(self) -> bool:
        """Whether it is a plain yes or no, set by `--x` and `--no-x`."""
        return strip_constraints(self.annotation)[0] is bool

    @property
    def is_scalar(self) -> bool:
        """Whether one word on the command line can hold it; lists are set in the file."""
        return all(
            member in _TYPE_NAMES or member is type(None) or get_origin(member) is Literal
            for member in (strip_constraints(m)[0] for m in members(self.annotation))
        )


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """All leaves of a model, in the order of declaration."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if is_model(annotation):
            yield from leaves(annotation, (*path, name))
        else:
            yield Leaf((*path, name), field)


def is_model(annotation: Any) -> TypeIs[type[BaseModel]]:
    """Whether a type is a nested pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def annotated(field: FieldInfo) -> Any:
    """A field's type with the constraints that pydantic keeps beside it."""
    if field.metadata:
        return Annotated[field.annotation, *field.metadata]
    return field.annotation


def strip_constraints(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split `Annotated[T, c1, c2]` into T and (c1, c2)."""
    if get_origin(annotation) is Annotated:
        inner, *constraints = get_args(annotation)
        return inner, tuple(constraints)
    return annotation, ()


def members(annotation: Any) -> list[Any]:
    """The alternatives of a union, constraints left on each; otherwise the type alone."""
    inner, _ = strip_constraints(annotation)
    if get_origin(inner) in (Union, types.UnionType):
        return list(get_args(inner))
    return [annotation]


def describe(annotation: Any) -> str:
    """What a value has to be, in words: "an integer, at least 1, or `auto`"."""
    return ", or ".join(_describe_one(member) for member in members(annotation))


def _describe_one(annotation: Any) -> str:
    inner, _ = strip_constraints(annotation)
    if inner is type(None):
        return "null"
    if get_origin(inner) is Literal:
        choices = [str(choice) for choice in get_args(inner)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if is_model(inner):
        return "a section with " + ", ".join(inner.model_fields)
    if get_origin(inner) in (tuple, list):
        return "a list"
    name = _TYPE_NAMES.get(inner, getattr(inner, "__name__", str(inner)))
    return ", ".join([name, *bounds(annotation)])


def bounds(annotation: Any) -> list[str]:
    """The bounds on a value in words: ["at least 1"]."""
    return [
        words
        for member in members(annotation)
        for constraint in strip_constraints(member)[1]
        for words in _limits(constraint)
    ]


def _limits(constraint: Any) -> list[str]:
    """A field's bounds in words; a nested `Field(...)` carries them in its metadata."""
    if isinstance(constraint, FieldInfo):
        return [words for inner in constraint.metadata for words in _limits(inner)]
    words = {
        annotated_types.Ge: ("at least", "ge"),
        annotated_types.Gt: ("greater than", "gt"),
        annotated_types.Le: ("at most", "le"),
        annotated_types.Lt: ("less than", "lt"),
        annotated_types.MultipleOf: ("a multiple of", "multiple_of"),
    }.get(type(constraint))
    if not words:
        return []
    limit = getattr(constraint, words[1])
    return [f"{words[0]} {int(limit) if limit == int(limit) else limit}"]


def metavar(annotation: Any) -> str:
    """The placeholder that --help shows for a value."""
    shown = []
    for member in members(annotation):
        inner, _ = strip_constraints(member)
        if get_origin(inner) is Literal:
            shown += [str(choice) for choice in get_args(inner)]
        elif inner is type(None):
            shown += [] if _is_textual(annotation) else ["none"]
        else:
            shown.append(_METAVARS.get(inner, "VALUE"))
    return "|".join(shown)


def from_text(annotation: Any, text: str) -> Any:
    """The value that a word on the command line stands for.

    A word that fits no alternative of the type is returned as it is, for pydantic to refuse.
    """
    for member in members(annotation):
        inner, _ = strip_constraints(member)
        if get_origin(inner) is Literal:
            for choice in get_args(inner):
                if text == str(choice):
                    return choice
        elif inner is type(None) and text.lower() in _NULLS and not _is_textual(annotation):
            return None
        elif inner is int and _INT.fullmatch(text):
            return int(text)
        elif inner is float:
            try:
                return float(text)
            except ValueError:
                continue
        elif inner is bool and text in ("true", "false"):
            return text == "true"
    return text


def _is_textual(annotation: Any) -> bool:
    """Whether any text is a legal value, so that "none" cannot stand for null."""
    return any(strip_constraints(member)[0] in (str, Path) for member in members(annotation))


def has_default(leaf: Leaf) -> bool:
    """Whether a field may be left out."""
    return leaf.default is not PydanticUndefined
