"""Where one side of a public dataset lies, and what a loader of it provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot_secure.data.samples import ImageFile, Rows
from pilot_secure.errors import DataError


@dataclass(frozen=True)
class OfficialFiles:
    """The files of a dataset as its authors publish them; `splits` says which rows are meant.

    `instances` (RefCOCO) and `coco_ids` (GQA) are further files of the two datasets.
    """

    annotations: Path
    images: Path
    splits: tuple[str, ...] = ()
    instances: Path | None = None
    coco_ids: Path | None = None

    @property
    def label(self) -> str:
        """What messages call these rows."""
        return str(self.annotations) + (f" ({'+'.join(self.splits)})" if self.splits else "")

    def require_images(self) -> None:
        """Raises: DataError if the folder of images is missing."""
        if not self.images.is_dir():
            raise DataError(
                f"{self.images}: expected the folder of the images of {self.annotations}, there "
                "is none."
            )

    def image(self, name: str) -> ImageFile:
        """The file of that name below the folder of images."""
        return ImageFile(self.images / name, name)

    def row_splits(self, rows: list[Any], split_of: Callable[[Any], object]) -> None:
        """Raises: DataError if no row is of one of the splits, naming those that there are."""
        present = {str(split_of(row)) for row in rows}
        missing = [split for split in self.splits if split not in present]
        if missing:
            raise DataError(
                f"{self.annotations}: no row is of split `{missing[0]}`, expected one of "
                f"{', '.join(sorted(present))}."
            )


@dataclass(frozen=True)
class HubTables:
    """A dataset in its Hub layout: a hub id or a local folder of the same layout."""

    source: str
    splits: tuple[str, ...]
    coco_ids: Path | None = None


@dataclass(frozen=True)
class DatasetFormat:
    """How a public dataset is read, and how it is scored.

    Splits are the defaults of `train_splits` and `test_splits`, of the official files and of the
    Hub layout. Where the official files have none (one file for each side), both are empty.
    """

    metric: str
    read_files: Callable[[OfficialFiles], Rows]
    read_hub: Callable[[HubTables], Rows]
    train_splits: tuple[str, ...] = ()
    test_splits: tuple[str, ...] = ()
    hub_train_splits: tuple[str, ...] = ("train",)
    hub_test_splits: tuple[str, ...] = ("test",)
