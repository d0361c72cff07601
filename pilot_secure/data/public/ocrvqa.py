"""OCR-VQA: questions about book covers.

Official file: `dataset.json`, a mapping from ids to covers with several questions each, `split`
being 1 (train), 2 (val) or 3 (test); images are `<id><extension of imageURL>`, or `<id>.jpg`. Hub
layout: as in howard-hou/OCR-VQA. Questions whose answer is empty are left out.
Source: Mishra et al., "OCR-VQA" (ICDAR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pilot_secure.data.images import is_file
from pilot_secure.data.json_rows import field, read_json, texts
from pilot_secure.data.prompts import short_answer_instruction
from pilot_secure.data.public.hub import HubTable, StoredImage, collect_table
from pilot_secure.data.public.source import DatasetFormat, HubTables, OfficialFiles
from pilot_secure.data.samples import ImageFile, ImageSource, Rows, Sample
from pilot_secure.errors import DataError

_SPLITS = {1: "train", 2: "val", 3: "test"}
_KEYS = ("genre", "authorName", "title")


def read_files(files: OfficialFiles) -> Rows:
    """The samples of the splits; `genre` is a key to split by."""
    files.require_images()
    covers = read_json(files.annotations, dict)

    def convert(number: int, item: tuple[str, Any]) -> list[Sample]:
        cover, row = item
        return _samples(number, cover, row, _image(files, cover, row))

    return files.collect(covers.items(), _split, convert, lambda item: f"cover {item[0]}")


def read_hub(hub: HubTables) -> Rows:
    """The samples of the Hub layout."""
    table = HubTable(hub.source, hub.splits)
    table.require("questions", "answers")

    def convert(number: int, row: Mapping[str, Any], image: StoredImage) -> list[Sample]:
        return _samples(number, str(row.get("image_id") or number), row, image)

    return collect_table(table, ("image_id", "questions", "answers", *_KEYS), convert)


def _split(item: tuple[str, Any]) -> str:
    number = field(item[1], "split", int)
    if number not in _SPLITS:
        raise DataError(f"key `split` is {number}, expected 1, 2 or 3")
    return _SPLITS[number]


def _image(files: OfficialFiles, cover: str, row: Any) -> ImageFile:
    """The authors' script keeps the URL's extension; LLaVA's copies are all called .jpg."""
    url = field(row, "imageURL", str)
    try:
        suffix = PurePosixPath(urlsplit(url).path).suffix
    except ValueError as error:
        raise DataError(f"key `imageURL` is {url[:60]}, expected a URL ({error})") from None
    image = files.image(f"{cover}{suffix}")
    other = files.image(f"{cover}.jpg")
    return other if suffix != ".jpg" and not is_file(image.path) else image


def _samples(number: int, cover: str, row: Mapping[str, Any], image: ImageSource) -> list[Sample]:
    questions, answers = texts(row, "questions"), texts(row, "answers")
    if len(questions) != len(answers):
        raise DataError(f"there are {len(questions)} `questions` and {len(answers)} `answers`")
    keys = {key: row.get(key) for key in _KEYS}
    return [
        Sample(
            id=f"{cover}#{index}",
            row=number,
            image=image,
            instruction=short_answer_instruction(question),
            answer=answer,
            references=(answer,),
            keys=keys,
        )
        for index, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1)
        if question
    ]


FORMAT = DatasetFormat(
    metric="ocrvqa_accuracy",
    read_files=read_files,
    read_hub=read_hub,
    train_splits=("train",),
    test_splits=("test",),
)
