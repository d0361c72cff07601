"""Official files that are missing, of another dataset, or have rows that cannot be used."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilot_secure.data.client_files import load_clients
from pilot_secure.data.client_sources import ClientFiles, SplitSettings
from pilot_secure.data.public import FORMATS, OfficialFiles
from pilot_secure.errors import DataError

Broken = Callable[[str, Callable[[Any], None]], Any]

ANNOTATIONS = {
    "gqa": "gqa/train_balanced_questions.json",
    "coco_captions": "coco/dataset_coco.json",
    "refcoco": "refcoco/refs(unc).p",
    "scienceqa": "scienceqa/problems.json",
    "ocrvqa": "ocrvqa/dataset.json",
}


@pytest.fixture
def broken(public_data: Path, tmp_path: Path) -> Broken:
    """Read a format after a change to its annotations: the report."""

    def read(name: str, change: Callable[[Any], None]) -> Any:
        folder = tmp_path / "copy"
        shutil.copytree((public_data / "data" / ANNOTATIONS[name]).parent, folder)
        path = folder / Path(ANNOTATIONS[name]).name
        if path.suffix == ".p":
            content = pickle.loads(path.read_bytes())
            change(content)
            path.write_bytes(pickle.dumps(content))
        else:
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        splits = FORMATS[name].train_splits
        return FORMATS[name].read_files(OfficialFiles(path, folder, splits)).log.report()

    return read


def _first(content: Any) -> Any:
    """The first row, however the file keeps its rows."""
    if isinstance(content, dict) and "images" in content:
        content = content["images"]
    return next(iter(content.values() if isinstance(content, dict) else content))


@pytest.mark.parametrize(
    ("name", "key", "row_name"),
    [
        ("gqa", "question", "question 500100"),
        ("gqa", "imageId", "question 500100"),
        ("coco_captions", "sentences", "COCO_train2014_000000000001.jpg"),
        ("coco_captions", "cocoid", "COCO_train2014_000000000001.jpg"),
        ("refcoco", "ann_id", "ref_id 41"),
        ("refcoco", "sentences", "ref_id 41"),
        ("scienceqa", "choices", "problem 1"),
        ("scienceqa", "answer", "problem 1"),
        ("scienceqa", "image", "problem 1"),
        ("ocrvqa", "imageURL", "cover 301"),
        ("ocrvqa", "answers", "cover 301"),
        ("coco_captions", "split", "COCO_train2014_000000000001.jpg"),
        ("refcoco", "split", "ref_id 41"),
        ("ocrvqa", "split", "cover 301"),
    ],
)
def test_a_missing_key_is_told_with_its_row(
    broken: Broken, name: str, key: str, row_name: str
) -> None:
    report = broken(name, lambda content: _first(content).pop(key))
    (row,) = report.broken
    assert (row.row, row.image) == (1, row_name)
    assert row.reason == f"key `{key}` is missing"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("gqa", {"answer": " "}, "key `answer` is empty"),
        ("gqa", {"question": 3}, "key `question` holds an integer, expected text"),
        ("coco_captions", {"sentences": []}, "there is no caption"),
        ("coco_captions", {"filename": None}, "key `filename` holds null, expected text"),
        ("refcoco", {"ann_id": 5}, "ann_id 5 is not among the annotations of instances.json"),
        ("refcoco", {"image_id": 99}, "image_id 99 is not among the images of instances.json"),
        ("scienceqa", {"answer": 7}, "key `answer` is 7, expected the index of one of 3"),
        ("scienceqa", {"choices": ["a"]}, "key `choices` has 1 options, expected 2 to 26"),
        ("gqa", {"question": "Half\ud800?"}, "the question holds U+D800, half of a character"),
        ("scienceqa", {"hint": "\udfff"}, "the question holds U+DFFF, half of a character"),
        ("ocrvqa", {"answers": ["No"]}, "there are 2 `questions` and 1 `answers`"),
        ("ocrvqa", {"questions": "What?"}, "key `questions` holds text, expected a list"),
        (
            "ocrvqa",
            {"imageURL": "http://[x/1.gif"},
            "key `imageURL` is http://[x/1.gif, expected a URL (Invalid IPv6 URL)",
        ),
        ("coco_captions", {"split": ["train"]}, "key `split` holds a list, expected text"),
        ("refcoco", {"split": 1}, "key `split` holds an integer, expected text"),
        ("ocrvqa", {"split": "1"}, "key `split` holds text, expected an integer"),
        ("ocrvqa", {"split": 4}, "key `split` is 4, expected 1, 2 or 3"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_why(
    broken: Broken, name: str, change: dict[str, Any], reason: str
) -> None:
    report = broken(name, lambda content: _first(content).update(change))
    assert [row.reason for row in report.broken] == [reason]


@pytest.mark.parametrize(
    ("name", "add", "row_name"),
    [
        ("coco_captions", lambda content: content["images"].append([1]), "no mapping"),
        ("refcoco", lambda content: content.append([1]), "no ref_id"),
        ("ocrvqa", lambda content: content.update({"999": [1]}), "cover 999"),
    ],
)
def test_a_row_that_is_no_mapping(
    broken: Broken, name: str, add: Callable[[Any], None], row_name: str
) -> None:
    (row,) = broken(name, add).broken
    assert (row.image, row.reason) == (row_name, "the row is a list, expected a mapping")


def test_data_deeper_than_python_can_print(tmp_path: Path) -> None:
    """A pickle can hold it under any key, though `pickle.dumps` cannot write it."""
    deep = b"]" * 200_000 + b"a" * 199_999
    rows = b"}(Vsplit\n" + deep + b"u" + b"}(Vsplit\nVtrain\nVref_id\n" + deep + b"u"
    file = tmp_path / "refs(unc).p"
    file.write_bytes(b"](" + rows + b"e.")
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": []}')
    rows_read = FORMATS["refcoco"].read_files(OfficialFiles(file, tmp_path, ("train",)))
    assert [(row.image, row.reason) for row in rows_read.log.report().broken] == [
        ("no ref_id", "key `split` holds a list, expected text"),
        ("no ref_id", "key `image_id` is missing"),
    ]


def test_a_name_longer_than_a_files_can_be(broken: Broken) -> None:
    """It is counted as missing where its image is taken; no reader stops at it."""

    def rename(covers: dict[str, Any]) -> None:
        covers["3" * 300] = {**_first(covers), "imageURL": "https://shop.example/cover.png"}

    assert broken("ocrvqa", rename).broken == ()


def _refcoco_with(
    changes: dict[str, dict[str, Any]], public_data: Path, folder: Path
) -> OfficialFiles:
    """RefCOCO's files with changes to the first row of lists of `instances.json`: 16 x 24."""
    source = public_data / "data" / "refcoco"
    instances = json.loads((source / "instances.json").read_text())
    for key, change in changes.items():
        instances[key][0].update(change)
    changed = folder / "instances.json"
    changed.write_text(json.dumps(instances))
    images = public_data / "data" / "coco" / "train2014"
    return OfficialFiles(source / "refs(unc).p", images, ("train",), instances=changed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotations": {"bbox": [1, 2, 0, 5]}}, "is empty"),
        ({"annotations": {"bbox": [1, 2, 5, -1]}}, "is empty"),
        ({"annotations": {"bbox": [1, 2, 3]}}, "expected 4 numbers"),
        ({"annotations": {"bbox": [1000, 1000, 5, 5]}}, "is not in its image of 16 x 24 pixels"),
        ({"annotations": {"bbox": [-1.5, 0, 5, 5]}}, "is not in its image of"),
        ({"annotations": {"bbox": [0, -1.5, 5, 5]}}, "is not in its image of"),
        ({"annotations": {"bbox": [0, 0, 17.5, 5]}}, "is not in its image of"),
        ({"annotations": {"bbox": [0, 20, 5, 5.5]}}, "is not in its image of"),
        (
            {"images": {"width": 0, "height": 0}},
            "image 1 has 0 x 0 pixels in instances.json, expected `width` and `height` to be at "
            "least 1",
        ),
        ({"images": {"width": -16}}, "image 1 has -16 x 24 pixels"),
    ],
)
def test_a_box_or_a_size_that_cannot_be(
    changes: dict[str, dict[str, Any]], words: str, public_data: Path, tmp_path: Path
) -> None:
    files = _refcoco_with(changes, public_data, tmp_path)
    (row,) = FORMATS["refcoco"].read_files(files).log.report().broken
    assert words in row.reason and row.image == "ref_id 41"


def test_a_box_may_reach_beyond_its_image_by_part_of_a_pixel(
    public_data: Path, tmp_path: Path
) -> None:
    box = [-0.4, 0, 16.8, 24.5]
    files = _refcoco_with({"annotations": {"bbox": box}}, public_data, tmp_path)
    assert not FORMATS["refcoco"].read_files(files).log.report().broken


def test_an_image_of_another_size_than_its_box_is_for(public_data: Path, tmp_path: Path) -> None:
    """The box lies in both, so that only the decoded image can tell."""
    files = _refcoco_with({"images": {"width": 500, "height": 400}}, public_data, tmp_path)
    client = ClientFiles(
        "boxes",
        format="refcoco",
        train=files.annotations,
        images=files.images,
        instances=files.instances,
    )
    report, _ = load_clients([client], SplitSettings(max_broken_share=1.0)).reports
    (row,) = report.broken
    assert row.reason == "the image has 16 x 24 pixels, its box is for one of 500 x 400 pixels"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("coco_captions", lambda c: c.pop("images"), "dataset_coco.json: key `images` is missing"),
        (
            "coco_captions",
            lambda c: [row.update(split="all") for row in c["images"]],
            "no row is of split `train`, expected one of all",
        ),
        ("refcoco", lambda c: c.clear(), r"no row is of split `train`"),
        (
            "ocrvqa",
            lambda c: [row.update(split="1") for row in c.values()],
            "no row is of split `train`, expected at least one; row 1: key `split` holds text",
        ),
        ("ocrvqa", lambda c: _keep_split(c, 3), "no row is of split `train`, expected one of test"),
        ("gqa", lambda c: c.clear(), "questions.json: expected at least one row"),
    ],
)
def test_a_file_of_another_kind_is_an_error(
    broken: Broken, name: str, change: Callable[[Any], None], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        broken(name, change)


def _keep_split(covers: dict[str, Any], split: int) -> None:
    for cover in [cover for cover, row in covers.items() if row["split"] != split]:
        del covers[cover]


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_missing_files_and_folders_are_named(name: str, public_data: Path, tmp_path: Path) -> None:
    there = public_data / "data" / ANNOTATIONS[name]
    read = FORMATS[name].read_files
    with pytest.raises(DataError, match=r"none: expected the folder of the images of"):
        read(OfficialFiles(there, tmp_path / "none", ("train",)))
    with pytest.raises(DataError, match=r"a{300}: expected the folder of the images of"):
        read(OfficialFiles(there, Path("a" * 300), ("train",)))
    with pytest.raises(DataError, match=r"none\.json: there is no such file or folder"):
        read(OfficialFiles(tmp_path / "none.json", tmp_path, ("train",)))


@pytest.mark.parametrize(
    ("name", "beside"), [("refcoco", "instances.json"), ("scienceqa", "pid_splits.json")]
)
def test_files_beside_the_annotations_are_named(
    name: str, beside: str, public_data: Path, tmp_path: Path
) -> None:
    source = public_data / "data" / ANNOTATIONS[name]
    alone = tmp_path / source.name
    shutil.copy(source, alone)
    with pytest.raises(DataError, match=rf"{beside}: there is no such file or folder"):
        FORMATS[name].read_files(OfficialFiles(alone, tmp_path, ("train",)))


def test_a_split_that_scienceqa_has_not(public_data: Path, tmp_path: Path) -> None:
    source = public_data / "data" / ANNOTATIONS["scienceqa"]
    with pytest.raises(DataError, match=r"pid_splits\.json: key `minitest` is missing"):
        FORMATS["scienceqa"].read_files(OfficialFiles(source, tmp_path, ("minitest",)))


def test_visual_genome_rows_are_told_by_number(public_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "image_data.json"
    file.write_text(json.dumps([{"image_id": 1, "coco_id": None}, {"image_id": 2}]))
    source = public_data / "data" / ANNOTATIONS["gqa"]
    with pytest.raises(DataError, match=r"image_data\.json: row 2: key 'coco_id' is missing"):
        FORMATS["gqa"].read_files(OfficialFiles(source, tmp_path, coco_ids=file))
