"""Reading LLaVA conversation JSON, the format of the LLaVA-1.5 instruction mix.

    [{"id": "7", "image": "folder/7.jpg",
      "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                        {"from": "gpt", "value": "A star."}, ...]}, ...]

Every answered turn becomes a sample. Its instruction holds the earlier turns of the row in the
conversation template, so that a model reads what it reads when LLaVA trains on the whole row; the
loss is on the sample's own answer. Rows may carry more keys: "references", a list of texts that
are equally right (for a row with one answer), and any key to split by (`data.client_files`).

A row is skipped and counted where it has no image (text only), where its image is missing or
broken, or where it is malformed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilot_secure.data.images import check_image
from pilot_secure.data.prompts import ASSISTANT, IMAGE_TOKEN, SYSTEM_LINE, USER, conversation
from pilot_secure.errors import DataError, os_sentence

_SHOWN_ROWS = 5


@dataclass(frozen=True)
class Sample:
    """One question about an image with its answer; `row` counts a file's rows from 1."""

    id: str
    row: int
    image: Path
    instruction: str
    answer: str
    references: tuple[str, ...]
    keys: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used, and why."""

    row: int
    image: str
    reason: str


@dataclass(frozen=True)
class FileReport:
    """What became of the rows of one file.

    `unscorable` counts answers of usable rows that the client's metric cannot score.
    """

    file: Path
    rows: int
    text_only: int
    broken: tuple[BrokenRow, ...]
    unscorable: int = 0

    @property
    def broken_share(self) -> float:
        """Broken rows among those that should have an image, 0 to 1."""
        expected = self.rows - self.text_only
        return len(self.broken) / expected if expected else 0.0

    def __str__(self) -> str:
        text = f"{self.file}: {self.rows} rows, {self.text_only} without an image skipped"
        text += f", {len(self.broken)} broken skipped"
        if self.unscorable:
            text += f", {self.unscorable} answers that the metric cannot score left out"
        shown = [f"row {b.row} ({b.image}: {b.reason})" for b in self.broken[:_SHOWN_ROWS]]
        if len(self.broken) > _SHOWN_ROWS:
            shown.append(f"{len(self.broken) - _SHOWN_ROWS} more")
        return text + (": " + "; ".join(shown) if shown else "")


def read_conversations(
    file: Path, images: Path, *, max_broken_share: float = 0.05
) -> tuple[list[Sample], FileReport]:
    """Samples of a conversation file, whose image paths are relative to `images`.

    Every image is decoded once, so that none fails during training.
    Raises: DataError if the file is missing or no such JSON, if the folder is missing, if no row
    is left, or if more than `max_broken_share` of the rows with an image are broken.
    """
    rows = _read_rows(file)
    if not images.is_dir():
        raise DataError(f"{images}: expected the folder of the images of {file}, there is none.")
    samples: list[Sample] = []
    broken: list[BrokenRow] = []
    text_only = 0
    checked: dict[Path, str | None] = {}
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict) and not row.get("image"):
            text_only += 1
            continue
        try:
            samples += _row_samples(number, row, images, checked)
        except DataError as error:
            name = str(row.get("image")) if isinstance(row, dict) else "no image"
            broken.append(BrokenRow(number, name, str(error)))
    report = FileReport(file, len(rows), text_only, tuple(broken))
    if report.broken_share > max_broken_share:
        raise DataError(
            f"{report}; that is {report.broken_share:.1%} of the rows with an image, expected at "
            f"most max_broken_share = {max_broken_share:.1%}."
        )
    if not samples:
        raise DataError(f"{report}; expected at least one usable row.")
    return samples, report


def _read_rows(file: Path) -> list[Any]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(os_sentence(error, file)) from None
    except ValueError as error:
        raise DataError(f"{file}: expected LLaVA conversation JSON, but {error}.") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file}: expected a JSON list of conversations with at least one row.")
    return rows


def _row_samples(
    number: int, row: Any, images: Path, checked: dict[Path, str | None]
) -> list[Sample]:
    """The samples of one row. Raises: DataError, saying what is wrong with it."""
    if not isinstance(row, dict) or not isinstance(row["image"], str):
        raise DataError("the row is no mapping with one image")
    turns = _turns(row.get("conversations"))
    path = images / row["image"]
    if path not in checked:
        checked[path] = _fault(path)
    if fault := checked[path]:
        raise DataError(fault)
    row_id = str(row.get("id", number))
    references = _references(row.get("references"), len(turns))
    keys = {key: value for key, value in row.items() if key != "conversations"}
    return [
        Sample(
            id=row_id if len(turns) == 1 else f"{row_id}#{index + 1}",
            row=number,
            image=path,
            instruction=with_earlier_turns(turns[:index], question),
            answer=answer,
            references=references or (answer,),
            keys=keys,
        )
        for index, (question, answer) in enumerate(turns)
    ]


def _fault(path: Path) -> str | None:
    try:
        check_image(path)
    except DataError as error:
        return str(error)
    return None


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
