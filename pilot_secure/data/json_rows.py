"""Reading JSON files and the fields of their rows, with errors that name file and key."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pilot_secure.errors import DataError, os_sentence

Value = TypeVar("Value")

_NAMES: dict[type, str] = {str: "text", int: "an integer", list: "a list", dict: "a mapping"}


def read_json(file: Path, kind: type[Value], *, without: Collection[str] = ()) -> Value:
    """The content of a JSON file, a list or a mapping.

    Keys in `without` are dropped wherever they occur, while reading: some official files hold
    ten times what is used of them.
    Raises: DataError naming the file if it is missing, no JSON, or of another kind.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in items if key not in without}

    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors put a mark first
        content = json.loads(text, object_pairs_hook=pairs if without else None)
    except OSError as error:
        raise DataError(os_sentence(error, file)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected JSON, but {error}.") from None
    if not isinstance(content, kind):
        raise DataError(f"{file}: expected {_NAMES[kind]} at the top, got {_kind(content)}.")
    return content


def entry(file: Path, content: Mapping[str, Any], key: str, kind: type[Value]) -> Value:
    """What a file holds under a key. Raises: DataError naming file and key."""
    try:
        return field(content, key, kind)
    except DataError as error:
        raise DataError(f"{file}: {error}.") from None


def field(row: Any, key: str, kind: type[Value]) -> Value:
    """A row's value under a key, of one kind; text is stripped and not empty.

    Raises: DataError naming the key, for the row to be counted as broken.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"the row is {_kind(row)}, expected a mapping")
    if key not in row:
        raise DataError(f"key `{key}` is missing")
    value = row[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"key `{key}` holds {_kind(value)}, expected {_NAMES[kind]}")
    if isinstance(value, str) and not value.strip():
        raise DataError(f"key `{key}` is empty")
    return cast(Value, value.strip()) if isinstance(value, str) else value


def identifier(row: Any, key: str) -> str:
    """A row's id under a key, an integer or text. Raises: DataError naming the key."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return field(row, key, str)


def numbers(row: Any, key: str, count: int) -> tuple[float, ...]:
    """A row's list of `count` finite numbers. Raises: DataError naming the key."""
    values = field(row, key, list)
    if len(values) != count or not all(
        isinstance(value, int | float) and abs(value) < 1e9 for value in values
    ):
        raise DataError(f"key `{key}` is {str(values)[:60]}, expected {count} numbers")
    return tuple(float(value) for value in values)


def texts(row: Any, key: str) -> list[str]:
    """A row's list of texts, stripped. Raises: DataError naming the key."""
    values = field(row, key, list)
    if not values or not all(isinstance(value, str) for value in values):
        raise DataError(f"key `{key}` is {str(values)[:60]}, expected a list of texts")
    return [value.strip() for value in values]


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), "null" if value is None else type(value).__name__)
