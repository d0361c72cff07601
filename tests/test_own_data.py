"""The user's own data, as a user brings them: the example folder and its configuration."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pilot_secure import evaluate, simulate
from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.data.images import expand_to_square
from pilot_secure.errors import ConfigError
from pilot_secure.metrics.grounding import iou, parse_box
from pilot_secure.run_data import load_data
from pilot_secure.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own-data"
CONFIG = ROOT / "configs" / "own-data.yaml"
CLIENTS = ["north", "south", "west", "boxes-1", "boxes-2", "boxes-3"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def own_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A secure run of the configuration, two rounds on the tiny base: its folder."""
    out = tmp_path_factory.mktemp("own") / "run"
    words = ["--rounds", "2", "--batch-size", "2", "--sketch-size", "64", "--max-new-tokens", "2"]
    rates = ["--learning-rate-stage1", "0.01", "--learning-rate-stage2", "0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        arguments = ["--config", "configs/own-data.yaml", "--secure-agg", "--base", str(tiny_base)]
        assert simulate.main([*arguments, *words, *rates, "--out", str(out)]) == 0
    return out


def _config(**changes: Any) -> SimulationConfig:
    """The configuration, with changes to its data section."""
    content = read_config_file(CONFIG)
    content["data"].update(changes)
    return validate(SimulationConfig, content)


def _rows(name: str) -> list[dict[str, Any]]:
    return json.loads((EXAMPLE / name).read_text())


def test_the_committed_example_is_what_its_script_draws(tmp_path: Path) -> None:
    script = ROOT / "examples" / "make_own_data.py"
    spec = importlib.util.spec_from_file_location("make_own_data", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    kept = {path.relative_to(EXAMPLE) for path in EXAMPLE.rglob("*.*")}
    assert drawn == kept - {Path("README.md")}
    for path in drawn:
        if path.suffix == ".json":
            assert (tmp_path / path).read_text() == (EXAMPLE / path).read_text()
        else:
            pixels = [np.asarray(Image.open(folder / path)) for folder in (tmp_path, EXAMPLE)]
            assert np.array_equal(*pixels), path
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*.*")) < 250_000


def test_boxes_enclose_what_they_name_in_the_padded_square() -> None:
    """Where an image shows one thing, its ink is the truth."""
    rows = _rows("boxes.json")
    images = [row["image"] for row in rows]
    alone = [row for row in rows if images.count(row["image"]) == 1]
    shapes = set()
    for row in alone:
        image = Image.open(EXAMPLE / "images" / row["image"])
        square = np.asarray(expand_to_square(image, image.getpixel((0, 0)))).astype(int)
        inked = np.abs(square - square[0, 0]).max(-1) > 12
        y, x = np.nonzero(inked)
        ink = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / len(square)
        box = parse_box(row["conversations"][1]["value"], "yxyx")
        assert iou(box, ink) > 0.6, row["id"]
        shapes.add(np.sign(image.width - image.height))
    assert len(alone) > 20 and {-1, 1} <= shapes  # tall ones and wide ones


def test_clients_and_their_samples() -> None:
    clients, report = load_data(_config())
    assert [client.name for client in clients] == CLIENTS
    assert [client.task for client in clients] == ["question-answering"] * 3 + ["grounding"] * 3
    sizes = [len(client.train) + len(client.test) for client in clients]
    assert sizes[:3] == [48, 48, 48] and sum(sizes[3:]) == len(_rows("boxes.json"))
    assert all(order == "yxyx" for c in clients[3:] for order in c.train["box_order"])
    (west,) = [file for file in report.files if file.broken]
    assert (west.file.name, west.text_only, west.broken[0].image) == (
        "questions-west.json",
        1,
        "west/lost.png",
    )


def test_a_secure_run_ends_with_scores_notes_and_adapters(own_run: Path) -> None:
    summary = RunFolder.open(own_run).read_summary()
    assert summary.status == "finished" and summary.secure_agg
    assert [client.client for client in summary.clients] == CLIENTS
    assert all(client.after_aggregation is not None for client in summary.clients)
    (note,) = [note for note in summary.notes if "broken" in note]
    assert "questions-west.json: 50 rows, 1 without an image skipped, 1 broken skipped" in note
    assert "row 10 (west/lost.png: the file is missing)" in note
    for client in CLIENTS:
        assert (own_run / "adapters" / client / "connector.safetensors").is_file()


def test_the_run_is_scored_again(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(own_run)]) == 0
    assert "agrees with summary.json in all 6 scores" in capsys.readouterr().out


def test_the_report_on_skipped_rows_is_printed(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(CONFIG), "--base", str(tiny_base), "--method", "local"]
    words += ["--rounds", "1", "--batch-size", "48", "--max-new-tokens", "1"]
    assert simulate.main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "west/lost.png: the file is missing" in " ".join(capsys.readouterr().out.split())


def test_too_many_broken_images_stop_the_command_and_leave_no_run(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--config", str(CONFIG), "--base", str(tiny_base), "--max-broken-share", "0.01"]
    assert simulate.main([*words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "questions-west.json" in error and "max_broken_share = 1.0%" in error
    assert not out.exists() or not list(out.iterdir())


def test_a_conversation_too_long_for_the_model_is_one_sentence(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(CONFIG), "--base", str(tiny_base), "--max-length", "48"]
    assert simulate.main([*words, "--out", str(tmp_path / "run")]) == 2
    *_progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data of north: the prompt of sample ")
    assert "expected fewer than model.max_length = 48" in line


def test_paths_are_relative_to_the_working_folder(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert simulate.main(["--config", str(CONFIG), "--base", str(tiny_base)]) == 2
    assert "questions-north.json: there is no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "North Clinic"}, 'data.clients[0].name is "North Clinic": expected lower-case'),
        ({"name": "server"}, "other than `server`"),
        ({"name": "../escape"}, "beginning with a letter or a digit"),
        ({"name": "n" * 57}, "at most 56 characters"),
        ({"task": "VQA"}, 'data.clients[0].task is "VQA": expected lower-case letters'),
        ({"task": "qa.v2"}, "expected lower-case letters, digits, `_` or `-`, beginning"),
        ({"metric": "bleu"}, 'data.clients[0].metric is "bleu": expected one of vqa_accuracy, '),
        ({"box_order": "xywh"}, 'box_order is "xywh": expected one of xyxy, yxyx'),
        ({"split_into": 0}, "split_into is 0: expected an integer, at least 1"),
    ],
)
def test_wrong_entries_are_told_by_their_field(changes: dict[str, Any], sentence: str) -> None:
    clients = read_config_file(CONFIG)["data"]["clients"]
    clients[0].update(changes)
    with pytest.raises(ConfigError) as caught:
        _config(clients=clients)
    (problem,) = caught.value.problems
    assert sentence in problem


def test_pilot_needs_a_second_task_to_mix_with() -> None:
    content = read_config_file(CONFIG)
    for client in content["data"]["clients"]:
        client["task"] = "reading"
    with pytest.raises(ConfigError) as caught:
        validate(SimulationConfig, content)
    (problem,) = caught.value.problems
    assert "data.clients has one task, reading: expected at least two for" in problem
    content["federation"]["method"] = "local"
    assert set(validate(SimulationConfig, content).task_sizes()) == {"reading"}


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("name: west", "name: boxes-2", "two clients would be called `boxes-2`"),
        ("task: grounding", "task: train", "task is `train`, expected another name"),
    ],
)
def test_names_that_clash_are_refused_before_any_file_is_read(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    sentence: str,
) -> None:
    """`boxes` divided among three is `boxes-1` to `boxes-3`."""
    file = tmp_path / "own.yaml"
    text = CONFIG.read_text().replace(before, after)
    file.write_text(text.replace("train: examples", "train: nowhere"))
    assert simulate.main(["--config", str(file), "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
