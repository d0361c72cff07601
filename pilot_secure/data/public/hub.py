"""Datasets in their Hub layout, as the `datasets` library loads them.

A source is a hub id or a local folder of the same layout: Parquet files called after their split
(`test-00000-of-00001.parquet`) in the folder or in `data/`, or an image folder with
`metadata.jsonl`. The library runs no code of a dataset. Images stay encoded until somebody
decodes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import Dataset, Image, ReadInstruction, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from pilot_secure.data.images import is_dir
from pilot_secure.data.samples import NoImageError, Rows, Sample, collect
from pilot_secure.errors import DataError

_BATCH = 1000
_LOAD_ERRORS = (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError)
_CAST_ERRORS = (NotImplementedError, TypeError, ValueError)
"""What columns of another type raise: Arrow's errors derive from these."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A row's image in a table, still encoded."""

    table: HubTable
    row: int

    @property
    def key(self) -> str:
        """Table and row."""
        return f"{self.table.label}#{self.row}"

    @property
    def name(self) -> str:
        """The file name that the table keeps, if it does."""
        path = self.encoded()["path"]
        return Path(path).name if path else f"image of row {self.row + 1}"

    def encoded(self) -> Mapping[str, Any]:
        """What the table holds: bytes, or the path of a local file."""
        value: Mapping[str, Any] = self.table.images[self.row]["image"]
        return value


class HubTable:
    """One or more splits of a dataset, row after row, with an image column or without.

    Raises: DataError naming source and split if it cannot be loaded.
    """

    def __init__(self, source: str, splits: Sequence[str], *, config: str | None = None) -> None:
        self.label = f"{source} ({config + ', ' if config else ''}split {'+'.join(splits)})"
        self._dataset = _load(self.label, source, splits, config)
        columns = self._dataset.column_names
        if "image" in columns:
            column = self._dataset.select_columns("image")
            try:
                self.images = column.cast_column("image", Image(decode=False))
            except _CAST_ERRORS:
                kind = self._dataset.data.schema.field("image").type
                raise DataError(
                    f"{self.label}: column `image` holds {kind}, expected images."
                ) from None

    def require(self, *columns: str) -> None:
        """Raises: DataError naming the column that is missing and those that there are."""
        present = self._dataset.column_names
        for column in columns:
            if column not in present:
                raise DataError(
                    f"{self.label}: column `{column}` is missing, expected it among "
                    f"{', '.join(present)}."
                )

    def first_of(self, *columns: str) -> str:
        """The first of these columns that there is. Raises: DataError if there is none."""
        for column in columns:
            if column in self._dataset.column_names:
                return column
        self.require(columns[0])
        raise AssertionError("unreachable")

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows numbered from 1, those of the columns that there are."""
        present = [name for name in columns if name in self._dataset.column_names]
        number = 0
        for batch in self._dataset.select_columns(present).iter(batch_size=_BATCH):
            for values in zip(*(batch[name] for name in present), strict=True):
                number += 1
                yield number, dict(zip(present, values, strict=True))

    def with_image(self) -> list[bool]:
        """Which rows have an image."""
        valid: list[bool] = self.images.data.column("image").is_valid().to_pylist()
        return valid


def _load(label: str, source: str, splits: Sequence[str], config: str | None) -> Dataset:
    for split in splits:
        _require_split_name(label, split)
    files = {split: _parquet_files(Path(source), split, config) for split in splits}
    local = all(files.values())
    try:
        loaded = load_dataset(
            "parquet" if local else source,
            None if local else config,
            data_files=files if local else None,
            split="+".join(splits),
        )
    except _LOAD_ERRORS as error:
        reason = _fault(file for split in files.values() for file in split) or _reason(error)
        raise DataError(f"{label}: cannot be loaded ({reason}).") from None
    if not isinstance(loaded, Dataset):
        raise DataError(f"{label}: expected a table, got {type(loaded).__name__}.")
    return loaded


def _require_split_name(label: str, split: str) -> None:
    """Raises: DataError unless it is one as `datasets` writes them, such as `train[:10%]`."""
    try:
        ReadInstruction.from_spec(split)
    except ValueError as error:
        raise DataError(
            f"{label}: `{split}` is no name of a split ({str(error).rstrip('.')}), expected "
            "letters, digits, `_` and `.`."
        ) from None


def _reason(error: Exception) -> str:
    """The error in one line; its cause where it says by itself only that loading failed."""
    if type(error) is DatasetGenerationError and isinstance(error.__cause__, Exception):
        return _reason(error.__cause__)
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"


def _fault(files: Iterable[str]) -> str:
    """Which file is no Parquet, or has no rows or other columns than the first; empty if none.

    `datasets` writes its name to a log alone.
    """
    first: tuple[str, list[str]] | None = None
    for file in files:
        try:
            content = pyarrow.parquet.read_metadata(file)
            columns = content.schema.to_arrow_schema().names
        except (OSError, *_CAST_ERRORS) as error:
            return f"{file}: {_reason(error)}"
        if not content.num_rows:
            return f"{file} has no rows"
        first = first or (file, columns)
        if set(columns) != set(first[1]):
            return f"{file} has columns {', '.join(columns)}; {first[0]} has {', '.join(first[1])}"
    return ""


def _parquet_files(folder: Path, split: str, config: str | None) -> list[str]:
    """A split's files in a local folder, which holds a configuration in a subfolder of its name.

    `datasets` knows splits of any name only from a README with metadata, or in `data/`.
    """
    for place in (folder / config,) if config else (folder, folder / "data"):
        files = place.glob(f"{split}-*.parquet") if is_dir(place) else ()
        if paths := sorted(map(str, files)):
            return paths
    return []


def collect_table(
    table: HubTable,
    columns: Sequence[str],
    convert: Callable[[int, Mapping[str, Any], StoredImage], list[Sample]],
) -> Rows:
    """Samples of a table whose rows hold their own image.

    Raises: DataError if it has no such column or no rows.
    """
    table.require("image")
    present = table.with_image()

    def row(number: int, values: Mapping[str, Any]) -> list[Sample]:
        if not present[number - 1]:
            raise NoImageError
        return convert(number, values, StoredImage(table, number - 1))

    return collect(table.label, table.rows(*columns), row, lambda values: "this row")
