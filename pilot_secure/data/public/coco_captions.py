"""COCO captions in Karpathy's splits.

Official file: `dataset_coco.json`; images are `<filepath>/<filename>` below COCO's folder. Hub
layout: an image with its captions a row, under `caption`, `captions`, `sentences_raw` or
`sentences` (texts, or mappings with `raw`), and `cocoid` where the images' overlap with other
datasets is to be known. Training has one sample a caption; a test has one an image, with all of
its captions as references.
Source: Chen et al., "Microsoft COCO Captions" (2015); Karpathy and Fei-Fei (CVPR 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot_secure.data.json_rows import entry, field, identifier, read_json, texts
from pilot_secure.data.prompts import caption_instruction
from pilot_secure.data.public.hub import HubTable, StoredImage, collect_table
from pilot_secure.data.public.source import DatasetFormat, HubTables, OfficialFiles
from pilot_secure.data.samples import ImageSource, Rows, Sample
from pilot_secure.errors import DataError

_CAPTIONS = ("caption", "captions", "sentences_raw", "sentences")


def read_files(files: OfficialFiles) -> Rows:
    """The samples of the file's splits."""
    files.require_images()
    content = read_json(files.annotations, dict, without=("tokens",))
    images = entry(files.annotations, content, "images", list)

    def convert(number: int, row: Any) -> list[Sample]:
        name = f"{field(row, 'filepath', str)}/{field(row, 'filename', str)}"
        captions = [field(sentence, "raw", str) for sentence in field(row, "sentences", list)]
        return _samples(number, identifier(row, "cocoid"), files.image(name), captions)

    return files.collect(images, lambda row: field(row, "split", str), convert, _name)


def read_hub(hub: HubTables) -> Rows:
    """The samples of the Hub layout."""
    table = HubTable(hub.source, hub.splits)
    column = table.first_of(*_CAPTIONS)

    def convert(number: int, row: Mapping[str, Any], image: StoredImage) -> list[Sample]:
        captions = row[column]
        if isinstance(captions, list) and captions and isinstance(captions[0], Mapping):
            captions = [field(sentence, "raw", str) for sentence in captions]
        coco_id = None if row.get("cocoid") is None else identifier(row, "cocoid")
        return _samples(number, coco_id, image, texts({column: captions}, column))

    return collect_table(table, (column, "cocoid"), convert)


def _name(row: Any) -> str:
    return str(row.get("filename", "no file name")) if isinstance(row, Mapping) else "no mapping"


def _samples(
    number: int, coco_id: str | None, image: ImageSource, captions: list[str]
) -> list[Sample]:
    if not captions:
        raise DataError("there is no caption")
    return [
        Sample(
            id=f"{coco_id or number}#{index}",
            row=number,
            image=image,
            instruction=caption_instruction(),
            answer=caption,
            references=(caption,),
            coco_id=coco_id,
        )
        for index, caption in enumerate(captions, start=1)
    ]


FORMAT = DatasetFormat(
    metric="cider",
    read_files=read_files,
    read_hub=read_hub,
    train_splits=("train", "restval"),
    test_splits=("test",),
    hub_train_splits=("train", "restval"),
)
