"""Entries of `data.clients`: what has to be there, and what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
from test_config import problems

FILES_OF = {
    "llava": {"metric": "cider", "train": "a.json", "images": "a"},
    "gqa": {"train": "a.json", "images": "a"},
    "hub gqa": {"hub": "lmms-lab/GQA"},
    "refcoco": {"train": "a.p", "images": "a", "instances": "b.json"},
}


def entry_problems(kind: str, **more: Any) -> list[str]:
    """Problems of a federation whose second entry is of a kind, with changes."""
    entry = {"task": "see", "format": kind.split()[-1], **FILES_OF[kind], **more}
    first = {"task": "read", **FILES_OF["llava"]}
    clients = [first, {name: value for name, value in entry.items() if value is not None}]
    settings = {"data": {"scenario": "files", "clients": clients}}
    return problems(settings, {"federation": {"num_neighbours": 1}})


@pytest.mark.parametrize("kind", FILES_OF)
def test_entries_that_are_whole(kind: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        entry_problems(kind)


@pytest.mark.parametrize(
    ("kind", "more", "sentence"),
    [
        ("llava", {"metric": None}, "metric is missing: expected how the answers are"),
        ("llava", {"train": None}, "train is missing: expected the file to train on"),
        ("llava", {"train_splits": ("train",)}, "train_splits is [train]: expected no splits"),
        ("llava", {"hub": "x/y"}, "hub is x/y: expected a public dataset's `format`"),
        ("llava", {"coco_ids": "b.json"}, "coco_ids is b.json: expected format gqa"),
        ("gqa", {"images": None}, "images is missing: expected a folder"),
        ("gqa", {"test_splits": ("val",)}, "test_splits is [val]: expected no splits"),
        ("gqa", {"instances": "b.json"}, "instances is b.json: expected format refcoco"),
        ("hub gqa", {"hub": ""}, "hub is empty: expected a hub id or a local folder"),
        ("hub gqa", {"train": "a.json"}, "train is a.json: expected either it or `hub`"),
        ("hub gqa", {"test": "a.json"}, "test is a.json: expected either it or `hub`"),
        ("hub gqa", {"train_splits": ()}, "train_splits is empty: expected at least one split"),
        ("refcoco", {"split_kind": "domain"}, "split_by is missing: expected the key that split"),
    ],
)
def test_entries_that_do_not_fit_together(kind: str, more: dict[str, Any], sentence: str) -> None:
    (problem,) = entry_problems(kind, **more)
    assert problem.startswith(f"data.clients[1].{sentence}")
