"""The public datasets as a user runs them: configurations, whole runs, mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilot_secure import evaluate, simulate
from pilot_secure.config_file import read_config_file
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import Summary

ROOT = Path(__file__).parents[1]
TINY = [
    *("--lora-rank", "2", "--lora-alpha", "4", "--lora-dropout", "0", "--mixed-precision", "no"),
    *("--max-new-tokens", "2", "--sketch-size", "64", "--rounds", "2", "--batch-size", "4"),
]
ALL_FIVE = {
    "data": {
        "scenario": "files",
        "clients": [
            {"task": "questions", "format": "gqa", "hub": "hub/gqa", "split_into": 3},
            {
                "task": "captions",
                "format": "coco_captions",
                "hub": "hub/coco",
                "split_into": 3,
                "divide_test": True,
            },
            {
                "task": "boxes",
                "format": "refcoco",
                "train": "data/refcoco/refs(unc).p",
                "images": "data/coco/train2014",
                "split_into": 3,
            },
            {
                "task": "choices",
                "format": "scienceqa",
                "hub": "hub/scienceqa",
                "split_into": 3,
                "split_by": "topic",
                "split_kind": "domain",
                "divide_test": True,
            },
            {
                "task": "covers",
                "format": "ocrvqa",
                "train": "data/ocrvqa/dataset.json",
                "images": "data/ocrvqa/images",
                "split_into": 3,
                "split_by": "genre",
                "split_kind": "stratified",
                "test_samples": 5,
            },
        ],
    },
    "federation": {"num_neighbours": 6},
}


@pytest.fixture(autouse=True)
def _beside_the_data(public_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(public_data)


def _run(config: Path, base: Path, out: Path, *more: str) -> Summary:
    words = ["--config", str(config), "--base", str(base), "--out", str(out)]
    assert simulate.main([*words, *TINY, *more]) == 0
    return RunFolder.open(out).read_summary()


@pytest.fixture
def all_five(tmp_path: Path) -> Path:
    path = tmp_path / "five.yaml"
    path.write_text(yaml.safe_dump(ALL_FIVE))
    return path


@pytest.mark.parametrize("mode", ["--secure-agg", "--no-secure-agg"])
def test_all_five_formats_run(
    mode: str, all_five: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = _run(all_five, tiny_base, tmp_path / "run", mode, "--rounds", "1")
    assert (summary.status, summary.secure_agg) == ("finished", mode == "--secure-agg")
    assert {client.task: client.metric for client in summary.clients} == {
        "questions": "vqa_accuracy",
        "captions": "cider",
        "boxes": "grounding_iou50",
        "choices": "scienceqa_accuracy",
        "covers": "ocrvqa_accuracy",
    }
    assert len(summary.clients) == 15
    assert [task.clients for task in summary.tasks] == [3] * 5
    assert all(client.after_aggregation is not None for client in summary.clients)
    assert {c.test_samples for c in summary.clients if c.task == "covers"} == {5}
    pairs = {(o.train_task, o.test_task) for o in summary.image_overlaps}
    assert pairs == {("captions", "boxes")}
    assert any("images in the training data of captions" in note for note in summary.notes)
    assert any("problems" not in n and "4 without an image skipped" in n for n in summary.notes)
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run")]) == 0
    assert "agrees with summary.json in all 15 scores" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["llava-1.5-7b-visual-understanding", "llava-1.5-7b-general-vqa"])
def test_the_paper_scenarios_run_on_the_fixtures(
    name: str, tiny_base: Path, tmp_path: Path
) -> None:
    config = ROOT / "configs" / f"{name}.yaml"
    summary = _run(config, tiny_base, tmp_path / "run", "--secure-agg", "--max-broken-share", "0")
    content = read_config_file(config)["data"]["clients"]
    assert [client.client for client in summary.clients] == [
        f"{entry['name']}-{part}" for entry in content for part in (1, 2, 3)
    ]
    assert summary.image_overlaps == ()
    assert any("samples about images of test sets dropped" in n for n in summary.notes) == (
        name == "llava-1.5-7b-visual-understanding"
    )


def _without(entry: dict[str, Any], task: str, **changes: Any) -> dict[str, Any]:
    return {**entry, **changes} if entry["task"] == task else entry


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("boxes", {"train": "data/refcoco/none.p"}, "data/refcoco/none.p: there is no such file"),
        ("boxes", {"images": "data/none"}, "data/none: expected the folder of the images of"),
        ("boxes", {"images": "data/gqa"}, "row 1 (COCO_train2014_000000000001.jpg: the file is"),
        ("boxes", {"test_splits": ["testC"]}, "no row is of split `testC`, expected one of test"),
        (
            "covers",
            {"train": "data/scienceqa/problems.json"},
            "row 1: key `split` holds text, expected an integer",
        ),
        ("questions", {"hub": "./none"}, "./none (train_balanced_instructions, split train)"),
        ("questions", {"hub": "hub/coco"}, "hub/coco (train_balanced_instructions, split train)"),
        ("choices", {"split_by": "colour"}, "split_by is 'colour', expected a key that rows have"),
        ("choices", {"format": "imagenet"}, 'format is "imagenet": expected one of llava, gqa, '),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    task: str,
    changes: dict[str, Any],
    words: str,
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clients = [_without(entry, task, **changes) for entry in ALL_FIVE["data"]["clients"]]  # type: ignore[index]
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**ALL_FIVE, "data": {"scenario": "files", "clients": clients}}))
    out = tmp_path / "run"
    words_given = ["--config", str(path), "--base", str(tiny_base), "--out", str(out), *TINY]
    assert simulate.main(words_given) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not out.exists()


def test_a_broken_image_and_a_missing_key_are_told_with_file_and_row(
    public_data: Path, all_five: Path, tiny_base: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "ocrvqa"
    shutil.copytree(public_data / "data" / "ocrvqa", folder)
    whole = (folder / "images" / "305.jpg").read_bytes()
    (folder / "images" / "305.jpg").write_bytes(whole[: len(whole) // 2])
    covers = json.loads((folder / "dataset.json").read_text())
    del covers["302"]["answers"]
    (folder / "dataset.json").write_text(json.dumps(covers))
    content = yaml.safe_load(all_five.read_text())
    content["data"]["clients"][-1].update(
        train=str(folder / "dataset.json"), images=str(folder / "images")
    )
    all_five.write_text(yaml.safe_dump(content))
    words = ["--config", str(all_five), "--base", str(tiny_base), *TINY]
    assert simulate.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "row 2 (cover 302: key `answers` is missing)" in capsys.readouterr().err
    more = ["--max-broken-share", "0.2", "--method", "local", "--rounds", "1"]
    assert simulate.main([*words, *more, "--out", str(tmp_path / "run")]) == 0
    notes = RunFolder.open(tmp_path / "run").read_summary().notes
    (note,) = [note for note in notes if "broken skipped: " in note]
    assert "dataset.json (train): 12 rows, 0 without an image skipped, 2 broken skipped" in note
    assert "row 2 (cover 302: key `answers` is missing)" in note
    assert "row 5 (305.jpg: the image cannot be decoded" in note
