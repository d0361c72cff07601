"""Images in one client's training data and another's test: found by number and by pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pilot_secure.data.client_files import LoadedClients, load_clients
from pilot_secure.data.client_sources import ClientFiles, SplitSettings
from pilot_secure.data.images import decode
from pilot_secure.data.overlap import overlap_notes
from pilot_secure.errors import DataError


def _entries(root: Path, **gqa: Path) -> list[ClientFiles]:
    data = root / "data"
    coco, vg = data / "coco", data / "visual-genome" / "image_data.json"
    assert vg.is_file()
    return [
        ClientFiles(
            "questions",
            name="gqa",
            format="gqa",
            train=data / "gqa" / "train_balanced_questions.json",
            test=data / "gqa" / "testdev_balanced_questions.json",
            images=data / "gqa" / "images",
            **gqa,  # type: ignore[arg-type]
        ),
        ClientFiles(
            "captions",
            name="coco",
            format="coco_captions",
            train=coco / "dataset_coco.json",
            images=coco,
        ),
        ClientFiles(
            "boxes",
            name="ref",
            format="refcoco",
            train=data / "refcoco" / "refs(unc).p",
            images=coco / "train2014",
        ),
    ]


def _pairs(loaded: LoadedClients) -> dict[tuple[str, str], tuple[int, int]]:
    return {(o.train_client, o.test_client): (o.images, o.samples) for o in loaded.overlaps}


def test_captions_train_on_what_refcoco_tests_on(public_data: Path) -> None:
    """Images 7 to 10, two captions each."""
    loaded = load_clients(_entries(public_data), SplitSettings())
    assert _pairs(loaded) == {("coco", "ref"): (4, 8)}
    (note,) = overlap_notes(loaded.overlaps)
    assert note.startswith("images in the training data of captions are in the test of boxes, in 1")
    assert "at most 4 images (8 training samples of coco, tested by ref)" in note


def test_an_image_of_gqa_is_known_by_its_number_in_coco(public_data: Path) -> None:
    """GQA's copy has other pixels; Visual Genome's list says that it is COCO's image 201."""
    ids = public_data / "data" / "visual-genome" / "image_data.json"
    loaded = load_clients(_entries(public_data, coco_ids=ids), SplitSettings())
    assert _pairs(loaded) == {("coco", "ref"): (4, 8), ("gqa", "coco"): (1, 2)}


def test_shared_images_can_be_left_out_of_training(public_data: Path) -> None:
    ids = public_data / "data" / "visual-genome" / "image_data.json"
    entries = _entries(public_data, coco_ids=ids)
    kept = load_clients(entries, SplitSettings())
    dropped = load_clients(entries, SplitSettings(drop_shared_images=True))
    assert dropped.overlaps == []
    sizes = [(c.train.num_rows, c.test.num_rows) for c in kept.clients]
    assert sizes == [(18, 8), (30, 6), (12, 8)]
    left = [(c.train.num_rows, c.test.num_rows) for c in dropped.clients]
    assert left == [(16, 8), (22, 6), (12, 8)]
    assert [report.shared for report in dropped.reports] == [2, 0, 8, 0, 0, 0]


def test_copies_under_other_names_are_known_by_their_pixels(
    public_data: Path, tmp_path: Path
) -> None:
    """RefCOCO from its Hub layout, whose names and numbers are taken away, as PNG."""
    from datasets import load_dataset

    source = public_data / "hub" / "refcoco" / "data"
    for split in ("train", "testA"):
        files = str(source / f"{split}-00000-of-00001.parquet")
        table = load_dataset("parquet", data_files=files, split="train")
        table = table.remove_columns("file_name").map(
            lambda row: {"image": row["image"].convert("RGBA").convert("RGB")}
        )
        table.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    boxes = ClientFiles(
        "boxes", name="ref", format="refcoco", hub=str(tmp_path), test_splits=("testA",)
    )
    loaded = load_clients([_entries(public_data)[1], boxes], SplitSettings())
    assert _pairs(loaded) == {("coco", "ref"): (2, 4)}


def test_pixels_tell_images_apart(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (1, 2, 3))
    for name in ("a.png", "a.bmp"):
        image.save(tmp_path / name)
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "tall.png")
    image.putpixel((0, 0), (1, 2, 4))
    image.save(tmp_path / "b.png")

    def hashed(name: str) -> str:
        return decode({"path": str(tmp_path / name), "bytes": None}).pixel_hash

    assert hashed("a.png") == hashed("a.bmp")
    stored = {"path": None, "bytes": (tmp_path / "a.png").read_bytes()}
    assert decode(stored) == ((4, 2), hashed("a.png"))
    assert len({hashed(name) for name in ("a.png", "tall.png", "b.png")}) == 3
    with pytest.raises(DataError, match="the file is missing"):
        hashed("none.png")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode({"path": None, "bytes": b"no image"})
