"""RefCOCO: boxes of things that a phrase refers to.

Official files: `refs(unc).p`, a pickle of references without boxes, read as plain data
(`plain_pickle`), joined with `instances.json` (boxes as x, y, width, height in pixels, sizes and
names of images); images are COCO's train2014. Hub layout: as in lmms-lab/RefCOCO, `bbox` (x, y,
width, height), `answer` (the phrases) and `file_name`; it has no training split.

An answer writes the box relative to the image padded to a square (`data.images`).
Source: Kazemzadeh et al., "ReferItGame" (EMNLP 2014); Yu et al. (ECCV 2016) for the splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot_secure.data.images import Box, image_size, size_text, to_relative_box
from pilot_secure.data.json_rows import entry, field, identifier, numbers, read_json, texts
from pilot_secure.data.prompts import box_text, grounding_instruction
from pilot_secure.data.public.hub import HubTable, StoredImage, collect_table
from pilot_secure.data.public.plain_pickle import read_plain_pickle
from pilot_secure.data.public.source import DatasetFormat, HubTables, OfficialFiles
from pilot_secure.data.samples import ImageSource, Rows, Sample
from pilot_secure.errors import DataError

_TOLERANCE = 1.0
"""Pixels that a box may reach beyond its image: annotators' boxes do, by a fraction of one."""
_COCO_NAME = re.compile(r"COCO_[a-z]+\d{4}_0*(\d+)")


def read_files(files: OfficialFiles) -> Rows:
    """The samples of the references' splits; `category` is a key to split by."""
    files.require_images()
    references = read_plain_pickle(files.annotations)
    if not isinstance(references, list):
        raise DataError(f"{files.annotations}: expected a list of references in the pickle.")
    instances = _Instances(files.instances or files.annotations.with_name("instances.json"))

    def convert(number: int, row: Any) -> list[Sample]:
        image_id = identifier(row, "image_id")
        size, name = instances.image(image_id)
        box, category = instances.box(identifier(row, "ann_id"))
        phrases = [field(sentence, "sent", str) for sentence in field(row, "sentences", list)]
        where = (files.image(name), image_id)
        return _samples(number, identifier(row, "ref_id"), where, phrases, box, size, category)

    return files.collect(references, lambda row: field(row, "split", str), convert, _name)


def read_hub(hub: HubTables) -> Rows:
    """The samples of the Hub layout; sizes are those of the images themselves."""
    table = HubTable(hub.source, hub.splits)
    table.require("bbox", "answer")

    def convert(number: int, row: Mapping[str, Any], image: StoredImage) -> list[Sample]:
        numbered = _COCO_NAME.match(str(row.get("file_name")))
        where = (image, numbered.group(1) if numbered else None)
        size = image_size(image.encoded())
        row_id = str(row.get("question_id") or number)
        phrases, box = texts(row, "answer"), numbers(row, "bbox", 4)
        return _samples(number, row_id, where, phrases, box, size, None)

    return collect_table(table, ("question_id", "bbox", "answer", "file_name"), convert)


def _samples(
    number: int,
    row_id: str,
    where: tuple[ImageSource, str | None],
    phrases: list[str],
    box_xywh: tuple[float, ...],
    size: tuple[int, int],
    category: str | None,
) -> list[Sample]:
    if not phrases or not all(phrases):
        raise DataError("a phrase is empty")
    image, coco_id = where
    box = _relative(box_xywh, size)
    answer = box_text(box)
    return [
        Sample(
            id=f"{row_id}#{index}",
            row=number,
            image=image,
            instruction=grounding_instruction(phrase),
            answer=answer,
            references=(answer,),
            keys={"category": category} if category else {},
            box=box,
            size=size,
            coco_id=coco_id,
        )
        for index, phrase in enumerate(phrases, start=1)
    ]


def _relative(box_xywh: tuple[float, ...], size: tuple[int, int]) -> Box:
    x, y, width, height = box_xywh
    if width <= 0 or height <= 0:
        raise DataError(f"the box {list(box_xywh)} is empty")
    beyond = max(-x, -y, x + width - size[0], y + height - size[1])
    if beyond > _TOLERANCE:
        raise DataError(
            f"the box {list(box_xywh)} (x, y, width, height) is not in its image of "
            f"{size_text(size)}"
        )
    return to_relative_box((x, y, x + width, y + height), *size)


class _Instances:
    """The boxes, images and categories of `instances.json`.

    Raises: DataError naming the file and the key that is missing.
    """

    def __init__(self, file: Path) -> None:
        content = read_json(file, dict, without=("segmentation",))
        self._file = file
        self._boxes = self._by_id(content, "annotations")
        self._images = self._by_id(content, "images")
        self._categories = self._by_id(content, "categories") if "categories" in content else {}

    def _by_id(self, content: dict[str, Any], key: str) -> dict[str, Any]:
        rows = enumerate(entry(self._file, content, key, list), start=1)
        by_id = {}
        for number, row in rows:
            try:
                by_id[identifier(row, "id")] = row
            except DataError as error:
                raise DataError(f"{self._file}: row {number} of `{key}`: {error}.") from None
        return by_id

    def box(self, ann_id: str) -> tuple[tuple[float, ...], str | None]:
        """A box in pixels (x, y, width, height), and the name of its category."""
        if ann_id not in self._boxes:
            raise DataError(f"ann_id {ann_id} is not among the annotations of {self._file.name}")
        row = self._boxes[ann_id]
        category = self._categories.get(str(row.get("category_id")), {}).get("name")
        return numbers(row, "bbox", 4), category

    def image(self, image_id: str) -> tuple[tuple[int, int], str]:
        """Width and height in pixels, and the file name."""
        if image_id not in self._images:
            raise DataError(f"image_id {image_id} is not among the images of {self._file.name}")
        row = self._images[image_id]
        size = field(row, "width", int), field(row, "height", int)
        if min(size) < 1:
            raise DataError(
                f"image {image_id} has {size_text(size)} in {self._file.name}, expected `width` "
                "and `height` to be at least 1"
            )
        return size, field(row, "file_name", str)


def _name(row: Any) -> str:
    try:
        return f"ref_id {identifier(row, 'ref_id')}"
    except DataError:
        return "no ref_id"


FORMAT = DatasetFormat(
    metric="grounding_iou50",
    read_files=read_files,
    read_hub=read_hub,
    train_splits=("train",),
    test_splits=("testA", "testB"),
    hub_test_splits=("testA", "testB"),
)
