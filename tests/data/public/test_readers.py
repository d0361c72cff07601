"""The public datasets from their official files and from their Hub layouts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from public_fixtures import COCO_IMAGE_OF_GQA, coco_file, picture

from pilot_secure.data.public import FORMATS, HubTables, OfficialFiles
from pilot_secure.data.samples import FileReport, Sample
from pilot_secure.errors import DataError

Read = Callable[..., tuple[list[Sample], FileReport]]

FILES = {
    "gqa": ("gqa/train_balanced_questions.json", "gqa/images"),
    "coco_captions": ("coco/dataset_coco.json", "coco"),
    "refcoco": ("refcoco/refs(unc).p", "coco/train2014"),
    "scienceqa": ("scienceqa/problems.json", "scienceqa/images"),
    "ocrvqa": ("ocrvqa/dataset.json", "ocrvqa/images"),
}
HUB = {**dict.fromkeys(FILES), "coco_captions": "coco"}


@pytest.fixture
def official(public_data: Path) -> Read:
    """Read a format's official files, those of its training splits unless told otherwise."""

    def read(name: str, **more: Any) -> tuple[list[Sample], FileReport]:
        annotations, images = (public_data / "data" / path for path in FILES[name])
        splits = more.pop("splits", FORMATS[name].train_splits)
        rows = FORMATS[name].read_files(OfficialFiles(annotations, images, splits, **more))
        return rows.samples, rows.log.report()

    return read


@pytest.fixture
def hub(public_data: Path) -> Read:
    """Read a format's Hub layout, its training splits unless told otherwise."""

    def read(name: str, **more: Any) -> tuple[list[Sample], FileReport]:
        source = str(public_data / "hub" / (HUB[name] or name))
        splits = more.pop("splits", FORMATS[name].hub_train_splits)
        rows = FORMATS[name].read_hub(HubTables(source, splits, **more))
        return rows.samples, rows.log.report()

    return read


def _pixels(sample: Sample) -> tuple[tuple[int, int], bytes]:
    stored = sample.image.encoded()
    source = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
    with Image.open(source) as image:
        return image.size, image.convert("RGB").tobytes()


@pytest.mark.parametrize("name", FILES)
def test_both_layouts_give_the_same_samples(name: str, official: Read, hub: Read) -> None:
    """Ids and rows apart: the Hub numbers what the official files name."""
    mine, report = official(name)
    theirs, hub_report = hub(name)
    assert mine and not report.broken and not hub_report.broken
    assert report.text_only == hub_report.text_only == (4 if name == "scienceqa" else 0)
    for one, other in zip(mine, theirs, strict=True):
        assert one.instruction == other.instruction
        assert (one.answer, one.references) == (other.answer, other.references)
        assert one.box == pytest.approx(other.box) if one.box else other.box is None
        assert one.coco_id == other.coco_id
        if name != "ocrvqa":  # whose image folder holds PNG copies
            assert _pixels(one) == _pixels(other)
        assert {k: v for k, v in one.keys.items() if k != "category"} == other.keys or (
            name == "scienceqa" and one.keys["topic"] == other.keys["topic"]
        )


def test_gqa(official: Read, public_data: Path) -> None:
    image_data = public_data / "data" / "visual-genome" / "image_data.json"
    samples, report = official("gqa", coco_ids=image_data)
    assert (report.rows, len(samples)) == (18, 18)
    first = samples[0]
    assert first.id == "500100"
    assert first.image.name == "5001.jpg"
    assert first.instruction == (
        "What colour is the box?\nAnswer the question using a single word or phrase."
    )
    assert first.answer == picture(5001)[1]
    assert first.keys == {"semantic": "attr", "structural": "query", "detailed": "attrQ"}
    known = {sample.image.name: sample.coco_id for sample in samples}
    assert known["5001.jpg"] == str(COCO_IMAGE_OF_GQA[1])
    assert known["5002.jpg"] is None


def test_coco_captions(official: Read) -> None:
    samples, report = official("coco_captions")
    assert (report.rows, len(samples)) == (15, 30)  # train and restval, two captions each
    assert [sample.id for sample in samples[:2]] == ["1#1", "1#2"]
    assert samples[0].instruction == "Provide a one-sentence caption for the provided image."
    assert samples[0].answer == f"A {picture(1)[1]} box."
    assert samples[0].image.name == "/".join(coco_file(1))
    assert samples[0].coco_id == "1"
    assert {sample.coco_id for sample in official("coco_captions", splits=("test",))[0]} == {
        str(number) for number in range(201, 207)
    }


def test_refcoco_boxes_of_a_tall_and_of_a_wide_image(official: Read) -> None:
    """By hand: a tall image of 16 x 24 pads 4 columns on the left, a wide one 4 rows above."""
    samples, report = official("refcoco")
    assert (report.rows, len(samples)) == (6, 12)
    boxes = {sample.coco_id: sample for sample in samples}
    for number, size in ((1, (16, 24)), (3, (24, 16)), (2, (20, 20))):
        image, _, (x, y, width, height) = picture(number)
        assert image.size == size
        left, top = {1: (4, 0), 3: (0, 4), 2: (0, 0)}[number]
        side = max(size)
        expected = (
            (x + left) / side,
            (y + top) / side,
            (x + width + left) / side,
            (y + height + top) / side,
        )
        sample = boxes[str(number)]
        assert sample.box == pytest.approx(expected)
        assert sample.answer == "[" + ", ".join(f"{corner:.2f}" for corner in expected) + "]"
    assert samples[0].instruction == (
        "Please provide the bounding box coordinate of the region this sentence describes: "
        f"the {picture(1)[1]} box"
    )
    assert samples[0].keys == {"category": "parcel"}
    assert [s.coco_id for s in official("refcoco", splits=("testA",))[0]] == ["7", "7", "8", "8"]


def test_scienceqa(official: Read) -> None:
    samples, report = official("scienceqa")
    assert (report.rows, report.text_only, len(samples)) == (16, 4, 12)
    first = samples[0]
    assert first.image.name == "train/1/image.png"
    lines = first.instruction.splitlines()
    assert lines[:2] == ["Which colour is the box?", "Context: Look at the box."]
    assert lines[-1] == "Answer with the option's letter from the given choices directly."
    right = next(line for line in lines if line.startswith(f"{first.answer}. "))
    assert right == f"{first.answer}. {picture(1)[1]}"
    assert "Context" not in samples[1].instruction  # its hint is empty
    assert first.keys["topic"] == "biology"
    assert len(official("scienceqa", splits=("train", "val"))[0]) == 14


def test_ocrvqa(official: Read) -> None:
    samples, report = official("ocrvqa")
    assert (report.rows, len(samples)) == (12, 24)
    assert [sample.image.name for sample in samples[:4:2]] == ["301.gif", "302.jpg"]
    assert samples[0].id == "301#1"
    assert samples[0].answer == f"The {picture(301)[1]} Box"
    assert samples[0].keys["genre"] == "Cookbooks"
    assert len(official("ocrvqa", splits=("val", "test"))[0]) == 14


def test_ocrvqa_images_may_all_be_called_jpg(official: Read, tmp_path: Path) -> None:
    """As in LLaVA's copies: a cover whose URL ends otherwise is looked for under .jpg, too."""
    Image.new("RGB", (4, 4)).save(tmp_path / "301.jpg")
    annotations = official("ocrvqa")[1].file
    files = OfficialFiles(Path(str(annotations).removesuffix(" (train)")), tmp_path, ("train",))
    assert FORMATS["ocrvqa"].read_files(files).samples[0].image.name == "301.jpg"


@pytest.mark.parametrize(
    ("name", "column"),
    [("coco_captions", "caption"), ("refcoco", "bbox"), ("scienceqa", "question"), ("gqa", "id")],
)
def test_a_table_of_another_dataset_is_told_by_its_missing_column(
    name: str, column: str, public_data: Path
) -> None:
    source = public_data / "hub" / "ocrvqa"
    if name == "gqa":
        source = public_data / "wrong-gqa"
        for part in ("instructions", "images"):
            folder = source / f"train_balanced_{part}"
            folder.mkdir(parents=True, exist_ok=True)
            table = public_data / "hub" / "scienceqa" / "data" / "train-00000-of-00001.parquet"
            (folder / table.name).write_bytes(table.read_bytes())
    with pytest.raises(DataError, match=f"column `{column}` is missing, expected it among"):
        FORMATS[name].read_hub(HubTables(str(source), FORMATS[name].hub_train_splits[:1]))


def test_a_hub_folder_or_split_that_is_not_there(public_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        FORMATS["scienceqa"].read_hub(HubTables(str(tmp_path / "none"), ("train",)))
    assert f"{tmp_path}/none (split train): cannot be loaded (" in str(caught.value)
    source = str(public_data / "hub" / "ocrvqa")
    with pytest.raises(DataError, match=r"ocrvqa \(split testA\): cannot be loaded \(ValueError"):
        FORMATS["ocrvqa"].read_hub(HubTables(source, ("testA",)))
