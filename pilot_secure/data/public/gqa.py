"""GQA: short questions about photographs.

Official files: `train_balanced_questions.json` and its like, one for each side, mappings from
question ids to rows; images are `<imageId>.jpg`, those of Visual Genome. Hub layout: as in
lmms-lab/GQA, configurations `<name>_instructions` and `<name>_images` joined on the image's id,
where `<name>` is what `splits` holds (`train_balanced`).

About half of Visual Genome's images are COCO's under other numbers and in other sizes; only Visual
Genome's `image_data.json` says which (`coco_ids`).
Source: Hudson and Manning, "GQA" (CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pilot_secure.data.json_rows import field, identifier, read_json
from pilot_secure.data.prompts import short_answer_instruction
from pilot_secure.data.public.hub import HubTable, StoredImage
from pilot_secure.data.public.source import DatasetFormat, HubTables, OfficialFiles
from pilot_secure.data.samples import ImageSource, Rows, Sample, collect
from pilot_secure.errors import DataError

_UNUSED = (
    *("semanticStr", "annotations", "entailed", "equivalent"),
    *("operation", "dependencies", "argument"),  # of the programs under `semantic`
)
_TYPES = ("semantic", "structural", "detailed")
_COLUMNS = ("id", "imageId", "question", "answer", "types")

_ImageOf = Callable[[str], ImageSource]


def read_files(files: OfficialFiles) -> Rows:
    """The samples of a questions file. `types` of a row become keys to split by."""
    files.require_images()
    questions = read_json(files.annotations, dict, without=_UNUSED)
    coco = _coco_ids(files.coco_ids)

    def convert(number: int, item: tuple[str, Any]) -> list[Sample]:
        qid, row = item
        image_id = identifier(row, "imageId")
        return [_sample(number, qid, row, files.image(f"{image_id}.jpg"), coco.get(image_id))]

    return collect(
        files.annotations,
        enumerate(questions.items(), start=1),
        convert,
        lambda item: f"question {item[0]}",
    )


def read_hub(hub: HubTables) -> Rows:
    """The samples of the Hub layout."""
    coco = _coco_ids(hub.coco_ids)

    def convert(number: int, item: tuple[Mapping[str, Any], _ImageOf]) -> list[Sample]:
        row, image_of = item
        image_id = identifier(row, "imageId")
        return [_sample(number, str(row["id"]), row, image_of(image_id), coco.get(image_id))]

    rows = (item for name in hub.splits for item in _hub_rows(hub.source, name))
    return collect(
        f"{hub.source} ({'+'.join(hub.splits)})",
        enumerate(rows, start=1),
        convert,
        lambda item: f"question {item[0].get('id')}",
    )


def _hub_rows(source: str, name: str) -> Iterator[tuple[Mapping[str, Any], _ImageOf]]:
    """The rows of one configuration, each with what finds an image by its id."""
    split = [name.split("_")[0]]
    questions = HubTable(source, split, config=f"{name}_instructions")
    questions.require(*_COLUMNS[:-1])
    images = HubTable(source, split, config=f"{name}_images")
    images.require("id", "image")
    places = {str(row["id"]): number - 1 for number, row in images.rows("id")}
    present = images.with_image()

    def image_of(image_id: str) -> ImageSource:
        if image_id not in places:
            raise DataError(f"no row of {images.label} has `id` {image_id}")
        if not present[places[image_id]]:
            raise DataError(f"row {places[image_id] + 1} of {images.label} holds no `image`")
        return StoredImage(images, places[image_id])

    return ((row, image_of) for _number, row in questions.rows(*_COLUMNS))


def _sample(
    number: int, qid: str, row: Mapping[str, Any], image: ImageSource, coco_id: str | None
) -> Sample:
    answer = field(row, "answer", str)
    types = row.get("types")
    return Sample(
        id=qid,
        row=number,
        image=image,
        instruction=short_answer_instruction(field(row, "question", str)),
        answer=answer,
        references=(answer,),
        keys={key: types.get(key) for key in _TYPES} if isinstance(types, Mapping) else {},
        coco_id=coco_id,
    )


def _coco_ids(file: Path | None) -> dict[str, str]:
    """Visual Genome's image ids to COCO's, from `image_data.json`."""
    if file is None:
        return {}
    ids = {}
    for number, row in enumerate(read_json(file, list), start=1):
        try:
            if row["coco_id"] is not None:
                ids[identifier(row, "image_id")] = identifier(row, "coco_id")
        except (KeyError, TypeError, DataError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else error
            raise DataError(
                f"{file}: row {number}: {reason}, expected image_id, coco_id."
            ) from None
    return ids


FORMAT = DatasetFormat(
    metric="vqa_accuracy",
    read_files=read_files,
    read_hub=read_hub,
    hub_train_splits=("train_balanced",),
    hub_test_splits=("testdev_balanced",),
)
