"""Reading LLaVA conversation JSON, the format of the LLaVA-1.5 instruction mix.

    [{"id": "7", "image": "folder/7.jpg",
      "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                        {"from": "gpt", "value": "A star."}, ...]}, ...]

Every answered turn becomes a sample. Its instruction holds the earlier turns of the row in the
conversation template, so that a model reads what it reads when LLaVA trains on the whole row; the
loss is on the sample's own answer. Rows may carry more keys: "references", a list of texts that
are equally right (for a row with one answer), and any key to split by (`data.client_files`).

A row is skipped and counted where it has no image (text only) or where it is malformed; images are
opened by whoever takes samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pilot_secure.data.images import is_dir
from pilot_secure.data.json_rows import read_json
from pilot_secure.data.prompts import ASSISTANT, IMAGE_TOKEN, SYSTEM_LINE, USER, conversation
from pilot_secure.data.samples import ImageFile, NoImageError, Rows, Sample, collect
from pilot_secure.errors import DataError

_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_|(?:train|val|test)\d{4}/)0*(\d{1,12})\.\w+$")
"""COCO's own file names, of 2014 and of 2017: an image has one number in both."""


def read_conversations(file: Path, images: Path) -> Rows:
    """Samples of a conversation file, whose image paths are relative to `images`.

    Raises: DataError if the file is missing or no such JSON, or if the folder is missing.
    """
    rows = read_json(file, list)
    if not is_dir(images):
        raise DataError(f"{images}: expected the folder of the images of {file}, there is none.")
    return collect(
        file,
        enumerate(rows, start=1),
        lambda number, row: _row_samples(number, row, images),
        lambda row: str(row.get("image")) if isinstance(row, dict) else "no image",
    )


def _row_samples(number: int, row: Any, images: Path) -> list[Sample]:
    """The samples of one row. Raises: DataError, saying what is wrong with it."""
    if isinstance(row, dict) and not row.get("image"):
        raise NoImageError
    if not isinstance(row, dict) or not isinstance(row["image"], str):
        raise DataError("the row is no mapping with one image")
    turns = _turns(row.get("conversations"))
    row_id = str(row.get("id", number))
    references = _references(row.get("references"), len(turns))
    keys = {key: value for key, value in row.items() if key != "conversations"}
    coco = _COCO_NAME.search(row["image"])
    return [
        Sample(
            id=row_id if len(turns) == 1 else f"{row_id}#{index + 1}",
            row=number,
            image=ImageFile(images / row["image"], row["image"]),
            instruction=with_earlier_turns(turns[:index], question),
            answer=answer,
            references=references or (answer,),
            keys=keys,
            coco_id=coco.group(1) if coco else None,
        )
        for index, (question, answer) in enumerate(turns)
    ]


def _turns(messages: Any) -> list[tuple[str, str]]:
    """(question, answer) pairs; the image's place-holder is removed from the first question.

    A last question without an answer is dropped.
    """
    if not isinstance(messages, list):
        raise DataError("`conversations` is no list")
    texts = [_text(message, ("human", "gpt")[i % 2]) for i, message in enumerate(messages)]
    pairs = list(zip(texts[::2], texts[1::2], strict=False))
    if not pairs:
        raise DataError("no question is answered")
    first, *later = pairs
    question = first[0].replace(IMAGE_TOKEN, "", 1).strip()
    pairs = [(question, first[1]), *later]
    if any(IMAGE_TOKEN in text for pair in pairs for text in pair):
        raise DataError(f"more than one {IMAGE_TOKEN}, or one outside the first question")
    if not all(text for pair in pairs for text in pair):
        raise DataError("a question or an answer is empty")
    return pairs


def _text(message: Any, speaker: str) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("value"), str):
        raise DataError("a turn has no text `value`")
    if message.get("from") != speaker:
        raise DataError(f"a turn is from {message.get('from')!r} where {speaker!r} is due")
    return str(message["value"]).strip()


def _references(references: Any, turns: int) -> tuple[str, ...]:
    if references is None:
        return ()
    if turns != 1 or not isinstance(references, list) or not references:
        raise DataError("`references` needs a list of texts and a row with one answer")
    if not all(isinstance(reference, str) for reference in references):
        raise DataError("`references` holds something else than text")
    return tuple(references)


def with_earlier_turns(turns: Iterable[tuple[str, str]], question: str) -> str:
    """A question with the earlier turns before it, as one human turn of the template.

    Put into the template by itself, it gives the text of the whole conversation so far.
    """
    text = conversation([*turns, (question, None)], with_image=False)
    return text.removeprefix(f"{SYSTEM_LINE} {USER} ").removesuffix(f" {ASSISTANT}")
