"""Hub layouts that cannot be loaded, or hold something else than what is expected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DatasetGenerationError

from pilot_secure.data.public import FORMATS, HubTables
from pilot_secure.data.public import hub as hub_module
from pilot_secure.data.samples import FileReport
from pilot_secure.errors import DataError

Change = Callable[[pyarrow.Table], pyarrow.Table]
Changed = Callable[[str, str, Change], FileReport]

TRAIN = "data/train-00000-of-00001.parquet"


@pytest.fixture
def changed(public_data: Path, tmp_path: Path) -> Changed:
    """Read a format's Hub layout after a change to one of its tables: the report."""

    def read(name: str, table: str, change: Change) -> FileReport:
        folder = tmp_path / name
        source = "coco" if name == "coco_captions" else name
        shutil.copytree(public_data / "hub" / source, folder)
        path = folder / table
        pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)
        tables = HubTables(str(folder), FORMATS[name].hub_train_splits)
        return FORMATS[name].read_hub(tables).log.report()

    return read


def _renamed(table: pyarrow.Table, old: str, new: str) -> pyarrow.Table:
    """Without what `datasets` keeps of the columns in the schema's metadata."""
    names = [new if name == old else name for name in table.column_names]
    return table.rename_columns(names).replace_schema_metadata(None)


def _with_images(table: pyarrow.Table, images: list[Any]) -> pyarrow.Table:
    place = table.column_names.index("image")
    kind = None if isinstance(images[0], int) else table.schema.field("image").type
    column = pyarrow.array(images, kind)
    return table.set_column(place, "image", column).replace_schema_metadata(None)


def test_an_image_column_of_numbers(changed: Changed) -> None:
    with pytest.raises(DataError, match="column `image` holds int64, expected images"):
        changed("scienceqa", TRAIN, lambda table: _with_images(table, [1] * len(table)))


def test_a_question_whose_image_is_null_is_a_broken_row(changed: Changed) -> None:
    """GQA keeps images in a table of their own; the first is that of two questions."""
    report = changed(
        "gqa",
        "train_balanced_images/train-00000-of-00001.parquet",
        lambda table: _with_images(table, [None, *table["image"].to_pylist()[1:]]),
    )
    assert [(row.row, row.image) for row in report.broken] == [
        (1, "question 500100"),
        (2, "question 500101"),
    ]
    assert "(train_balanced_images, split train) holds no `image`" in report.broken[0].reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.slice(0, 0), f"{TRAIN} has no rows"),
        (
            lambda table: _renamed(table, "caption", "texts"),
            "restval-00000-of-00001.parquet has columns image, cocoid, caption; ",
        ),
    ],
)
def test_a_table_that_cannot_be_loaded_is_named(
    change: Change, words: str, changed: Changed
) -> None:
    with pytest.raises(DataError) as caught:
        changed("coco_captions", TRAIN, change)
    assert words in str(caught.value)


def test_a_file_that_is_no_parquet_is_named(public_data: Path, tmp_path: Path) -> None:
    file = tmp_path / TRAIN
    file.parent.mkdir()
    whole = (public_data / "hub" / "scienceqa" / TRAIN).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        FORMATS["scienceqa"].read_hub(HubTables(str(tmp_path), ("train",)))
    assert f"cannot be loaded ({file}: ArrowInvalid: Parquet magic bytes not" in str(caught.value)


def test_the_cause_is_told_where_the_error_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_words: Any, **_more: Any) -> None:
        raise DatasetGenerationError("An error occurred") from ValueError("column `a`\nis odd.")

    monkeypatch.setattr(hub_module, "load_dataset", load)
    with pytest.raises(DataError, match=r"cannot be loaded \(ValueError: column `a` is odd\)\.$"):
        FORMATS["scienceqa"].read_hub(HubTables("some/where", ("train",)))


@pytest.mark.parametrize("split", ["/etc", "a**b", "../train", "", "my-split"])
def test_a_name_that_no_split_has(split: str, public_data: Path) -> None:
    source = str(public_data / "hub" / "scienceqa")
    with pytest.raises(DataError) as caught:
        FORMATS["scienceqa"].read_hub(HubTables(source, (split,)))
    assert f"`{split}` is no name of a split (" in str(caught.value)


def test_part_of_a_split_can_be_read(public_data: Path) -> None:
    source = str(public_data / "hub" / "scienceqa")
    assert FORMATS["scienceqa"].read_hub(HubTables(source, ("train[:4]",))).log.rows == 4


def test_a_folder_whose_name_is_longer_than_one_can_be() -> None:
    with pytest.raises(DataError, match="cannot be loaded"):
        FORMATS["scienceqa"].read_hub(HubTables("a" * 300, ("train",)))
