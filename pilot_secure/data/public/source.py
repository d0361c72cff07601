"""Where one side of a public dataset lies, and what a loader of it provides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot_secure.data.images import is_dir
from pilot_secure.data.samples import ImageFile, Rows, Sample, collect
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
        if not is_dir(self.images):
            raise DataError(
                f"{self.images}: expected the folder of the images of {self.annotations}, there "
                "is none."
            )

    def image(self, name: str) -> ImageFile:
        """The file of that name below the folder of images."""
        return ImageFile(self.images / name, name)

    def collect(
        self,
        rows: Iterable[Any],
        split_of: Callable[[Any], str],
        convert: Callable[[int, Any], list[Sample]],
        name: Callable[[Any], str],
    ) -> Rows:
        """The samples of the splits' rows (`samples.collect`).

        A row for which `split_of` raises DataError could be of any split: it is counted as broken.
        Raises: DataError if no row is of one of the splits, naming those that there are.
        """
        chosen, present, faults = [], set(), []
        for number, row in enumerate(rows, start=1):
            try:
                split = split_of(row)
            except DataError as error:
                faults.append(f"row {number}: {error}")
            else:
                present.add(split)
                if split not in self.splits:
                    continue
            chosen.append((number, row))
        missing = [split for split in self.splits if split not in present]
        if missing:
            there = f"one of {', '.join(sorted(present))}" if present else "at least one"
            raise DataError(
                f"{self.annotations}: no row is of split `{missing[0]}`, expected "
                f"{'; '.join([there, *faults[:1]])}."
            )

        def checked(number: int, row: Any) -> list[Sample]:
            split_of(row)
            return convert(number, row)

        return collect(self.label, chosen, checked, name)


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
