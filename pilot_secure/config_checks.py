"""Validating a configuration and saying all that is wrong with it, one sentence a problem."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pilot_secure.config_fields import annotated, describe, is_model, leaves, strip_constraints
from pilot_secure.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)
Path = tuple[str | int, ...]

_SHOWN_CHARACTERS = 60


def validate(
    model: type[Config],
    content: Mapping[str, Any],
    *,
    sources: Mapping[Path, str] | None = None,
    file: str | None = None,
    earlier_problems: Sequence[str] = (),
) -> Config:
    """Build the model from nested plain values, strictly: no text for numbers.

    `sources` names the option that set a path; other paths are said to come from `file`.
    Rules across fields are checked even where single fields are wrong: see
    `_rules_with_defaults`.
    Raises: ConfigError with `earlier_problems` and all found here.
    """
    problems = list(earlier_problems)
    try:
        config = _build(model, content)
    except ValidationError as error:
        wrong = {_known_part(model, detail["loc"]): detail for detail in error.errors()}
        crossed = [path for path in wrong if _is_rule(model, path, wrong[path])]
        fields = [path for path in wrong if path not in crossed]
        names = _Names(model, sources or {}, file)
        problems += [names.sentence(path, wrong[path]) for path in fields]
        for path in crossed:
            problems += _rule_sentences(wrong[path])
        if fields and not crossed:
            problems += _rules_with_defaults(model, content, fields)
    if problems:
        raise ConfigError(problems)
    return config


def _build(model: type[Config], content: Mapping[str, Any]) -> Config:
    """Validate as JSON, where strict still allows a list for a tuple and text for a path."""
    return model.model_validate_json(json.dumps(content, default=str), strict=True)


def _known_part(model: type[BaseModel], loc: Path) -> Path:
    """A pydantic location without the union members that it appends to a field's path.

    An unknown key is kept: it is the last element that is no field of a model.
    """
    annotation: Any = model
    for position, name in enumerate(loc):
        if is_model(annotation):
            field = annotation.model_fields.get(str(name))
            if field is None:
                return loc[: position + 1]
            annotation = annotated(field)
        elif isinstance(name, int):
            annotation = _item(annotation)
        else:
            return loc[:position]
        if is_model(strip_constraints(annotation)[0]):
            annotation = strip_constraints(annotation)[0]
    return loc


def _item(annotation: Any) -> Any:
    arguments = get_args(strip_constraints(annotation)[0])
    return arguments[0] if arguments else Any


def _annotation_at(model: type[BaseModel], path: Path) -> Any:
    annotation: Any = model
    for name in path:
        inner = strip_constraints(annotation)[0]
        annotation = (
            annotated(inner.model_fields[str(name)]) if is_model(inner) else _item(annotation)
        )
    return annotation


def _is_rule(model: type[BaseModel], path: Path, detail: ErrorDetails) -> bool:
    """Whether a problem comes from a validator across fields rather than from one field."""
    if detail["type"] not in ("value_error", "assertion_error"):
        return False
    return is_model(strip_constraints(_annotation_at(model, path))[0])


def _rule_sentences(detail: ErrorDetails) -> list[str]:
    """The lines of a cross-field ValueError, each a sentence."""
    raised = detail.get("ctx", {}).get("error", detail["msg"])
    return [f"{line.rstrip('.')}." for line in str(raised).splitlines() if line.strip()]


def _rules_with_defaults(
    model: type[BaseModel], content: Mapping[str, Any], wrong: Sequence[Path]
) -> list[str]:
    """Broken rules across fields, with the defaults in place of wrong fields.

    A rule that names a wrong field is left out, and nothing is said where a wrong field stands
    inside a list: too much would hang on what is missing.
    """
    if any(isinstance(name, int) for path in wrong for name in path):
        return []
    remaining: Any = copy.deepcopy(content)
    for path in wrong:
        with contextlib.suppress(KeyError):  # a missing field is wrong, too
            _remove(remaining, path)
    try:
        _build(model, remaining)
    except ValidationError as error:
        rules = [
            sentence
            for detail in error.errors()
            if _is_rule(model, _known_part(model, detail["loc"]), detail)
            for sentence in _rule_sentences(detail)
        ]
        named = [str(path[-1]) for path in wrong if path]
        return [rule for rule in rules if not any(name in rule for name in named)]
    return []


def _remove(content: Any, path: Path) -> None:
    """Delete what a path of names leads to."""
    for name in path[:-1]:
        content = content[name]
    del content[path[-1]]


class _Names:
    """How sentences call fields: by the option that set them, else by file and path."""

    def __init__(
        self, model: type[BaseModel], sources: Mapping[Path, str], file: str | None
    ) -> None:
        self._model = model
        self._sources = sources
        self._file = file

    def sentence(self, path: Path, detail: ErrorDetails) -> str:
        """What a field is and what was expected."""
        where = self._where(path)
        if detail["type"] == "extra_forbidden":
            return f"{where} is no field of the configuration; {self._suggestion(path)}"
        expected = describe(_annotation_at(self._model, path))
        if detail["type"] == "missing":
            return f"{where} is missing: expected {expected}."
        if detail["type"] in ("value_error", "assertion_error"):
            expected = str(detail.get("ctx", {}).get("error", detail["msg"])).rstrip(".")
        if detail["type"] == "finite_number":
            expected = expected.replace("a number", "a finite number")
        value = json.dumps(detail["input"], ensure_ascii=False, default=str)
        if len(value) > _SHOWN_CHARACTERS:
            value = value[:_SHOWN_CHARACTERS] + "…"
        return f"{where} is {value}: expected {expected}."

    def _where(self, path: Path) -> str:
        if path in self._sources:
            return self._sources[path]
        dotted = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
        dotted = dotted or "the configuration"
        return f"{self._file}: {dotted}" if self._file else dotted

    def _suggestion(self, path: Path) -> str:
        """The nearest name: a sibling first, then any field of any section."""
        name = str(path[-1])
        section = strip_constraints(_annotation_at(self._model, path[:-1]))[0]
        siblings = list(section.model_fields) if is_model(section) else []
        everywhere = {leaf.path[-1]: leaf.dotted for leaf in leaves(self._model)}
        if name in everywhere:
            return f"did you mean {everywhere[name]}?"
        for known, shown in ((siblings, {n: n for n in siblings}), (everywhere, everywhere)):
            close = get_close_matches(name, known, n=1)
            if close:
                return f"did you mean {shown[close[0]]}?"
        return f"expected one of {', '.join(siblings)}."
