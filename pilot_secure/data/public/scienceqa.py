"""ScienceQA: multiple choice with a hint, the problems with an image.

Official files: `problems.json` with `pid_splits.json` beside it; images are
`<split>/<id>/image.png`. Hub layout: as in derek-thomas/ScienceQA. Problems without an image are
skipped and counted. The answer is the letter of an option.
Source: Lu et al., "Learn to Explain" (NeurIPS 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot_secure.data.json_rows import entry, field, read_json, texts
from pilot_secure.data.prompts import multiple_choice_instruction, option_letter
from pilot_secure.data.public.hub import HubTable, StoredImage, collect_table
from pilot_secure.data.public.source import DatasetFormat, HubTables, OfficialFiles
from pilot_secure.data.samples import ImageSource, NoImageError, Rows, Sample, collect
from pilot_secure.errors import DataError

_KEYS = ("subject", "topic", "category", "skill", "grade", "task")
_COLUMNS = ("question", "choices", "answer", "hint", *_KEYS)


def read_files(files: OfficialFiles) -> Rows:
    """The samples of the splits; `subject`, `topic` and the like are keys to split by."""
    files.require_images()
    problems = read_json(files.annotations, dict, without=("lecture", "solution"))
    splits_file = files.annotations.with_name("pid_splits.json")
    splits = read_json(splits_file, dict)
    ids = [str(pid) for split in files.splits for pid in entry(splits_file, splits, split, list)]

    def convert(number: int, pid: str) -> list[Sample]:
        if pid not in problems:
            raise DataError(f"it is not in {files.annotations.name}")
        row = problems[pid]
        if isinstance(row, Mapping) and row.get("image", "") is None:
            raise NoImageError
        name = f"{field(row, 'split', str)}/{pid}/{field(row, 'image', str)}"
        return [_sample(number, pid, row, files.image(name))]

    rows = enumerate(ids, start=1)
    return collect(files.label, rows, convert, lambda pid: f"problem {pid}")


def read_hub(hub: HubTables) -> Rows:
    """The samples of the Hub layout, which has no ids: rows are numbered."""
    table = HubTable(hub.source, hub.splits)
    table.require("question", "choices", "answer")

    def convert(number: int, row: Mapping[str, Any], image: StoredImage) -> list[Sample]:
        return [_sample(number, f"{'+'.join(hub.splits)}-{number}", row, image)]

    return collect_table(table, _COLUMNS, convert)


def _sample(number: int, pid: str, row: Mapping[str, Any], image: ImageSource) -> Sample:
    options, right = texts(row, "choices"), field(row, "answer", int)
    if not 2 <= len(options) <= 26:
        raise DataError(f"key `choices` has {len(options)} options, expected 2 to 26")
    if not 0 <= right < len(options):
        raise DataError(f"key `answer` is {right}, expected the index of one of {len(options)}")
    hint, letter = str(row.get("hint") or "").strip(), option_letter(right)
    return Sample(
        id=pid,
        row=number,
        image=image,
        instruction=multiple_choice_instruction(field(row, "question", str), options, hint),
        answer=letter,
        references=(letter,),
        keys={key: row.get(key) for key in _KEYS},
    )


FORMAT = DatasetFormat(
    metric="scienceqa_accuracy",
    read_files=read_files,
    read_hub=read_hub,
    train_splits=("train",),
    test_splits=("test",),
)
