"""Scoring a run again from its folder: the same adapters, the same scores, clear complaints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pilot_secure import evaluate
from pilot_secure.data.images import expand_to_square
from pilot_secure.models import pixel_values, vision_features
from pilot_secure.saved_run import SavedRun


@pytest.fixture
def wide_image(tmp_path: Path) -> Path:
    image = Image.new("RGB", (60, 20), (10, 10, 10))
    image.paste((220, 40, 40), (2, 2, 16, 18))
    image.save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


@pytest.fixture
def copied(secure_run: Any, tmp_path: Path) -> Path:
    """A copy of the secure run, without its messages, to be spoilt."""
    ignored = shutil.ignore_patterns("payloads", "transcript*")
    return Path(shutil.copytree(secure_run.path, tmp_path / "copied", ignore=ignored))


def _edit_summary(run: Path, change: Any) -> None:
    content = json.loads((run / "summary.json").read_text())
    change(content)
    (run / "summary.json").write_text(json.dumps(content))


def _complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a refused command."""
    assert evaluate.main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_the_scores_of_a_finished_run_are_found_again(
    secure_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(secure_run.path)]) == 0
    shown = capsys.readouterr().out
    assert "agrees with summary.json in all 9 scores" in shown
    assert all(f"client-{number:02d}" in shown for number in range(1, 10))


def test_what_is_loaded_is_what_the_client_had(secure_run: Any) -> None:
    run, worker = SavedRun.open(secure_run.path), secure_run.simulation.host.worker
    features = torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(0))
    for name, client in secure_run.simulation.host.clients.items():
        loaded = evaluate.client_state(run, worker, name)
        assert loaded.text_adapter.keys() == client.state.text_adapter.keys()
        for key, tensor in client.state.text_adapter.items():
            assert torch.equal(loaded.text_adapter[key], tensor)
        assert type(loaded.connector) is type(client.state.connector)
        assert torch.equal(loaded.connector(features), client.state.connector(features))


def test_another_score_in_the_summary_is_told_and_sets_the_exit_code(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(summary: Any) -> None:
        summary["clients"][2]["after_aggregation"] += 12.5

    _edit_summary(copied, change)
    assert evaluate.main([str(copied)]) == 1
    shown = capsys.readouterr().out
    assert "differs from summary.json in 1 of 9 scores, most for client-03" in shown
    assert evaluate.main([str(copied), "--client", "client-03", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["agrees"] is False
    (client,) = content["clients"]
    assert client["recorded"] == pytest.approx(client["score"] + 12.5)
    assert evaluate.main([str(copied), "--client", "client-04", "--json"]) == 0
    assert [c["client"] for c in json.loads(capsys.readouterr().out)["clients"]] == ["client-04"]


def test_another_base_model_is_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit_summary(copied, lambda summary: summary.update(base_sha256="0" * 64))
    line = _complaint(capsys, copied, "--client", "client-01")
    assert "is another base model than the run's" in line and line.endswith(f"{'0' * 64}.")


def test_a_run_without_last_scores_has_nothing_to_agree_with(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(summary: Any) -> None:
        for client in summary["clients"]:
            client["after_aggregation"] = None

    _edit_summary(copied, change)
    assert evaluate.main([str(copied), "--client", "client-01"]) == 0
    assert "holds no score after aggregation" in capsys.readouterr().out


def test_a_question_is_asked_word_for_word_about_the_padded_image(
    secure_run: Any,
    wide_image: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pilot_secure.federation import worker as worker_module

    seen: dict[str, Any] = {}

    def generate(model: Any, processor: Any, connector: Any, asked: Any, features: Any, **_: Any):
        square = expand_to_square(Image.open(wide_image), (127, 127, 127))
        seen["expected"] = vision_features(model, pixel_values(processor, [square]))
        seen["asked"], seen["features"], seen["connector"] = list(asked), features[:], connector
        return ["a red square"]

    monkeypatch.setattr(worker_module, "generate_answers", generate)
    words = ["--client", "client-05", "--image", str(wide_image), "--question", "What is it?"]
    assert evaluate.main([str(secure_run.path), *words]) == 0
    assert capsys.readouterr().out == "a red square\n"
    assert seen["asked"] == ["What is it?"]
    assert torch.equal(seen["features"], seen["expected"])
    own = secure_run.simulation.host.clients["client-05"].state.connector
    assert torch.equal(seen["connector"](seen["features"]), own(seen["features"]))
    assert evaluate.main([str(secure_run.path), *words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["client"], content["answer"]) == ("client-05", "a red square")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--client", "client-33"], "--client is 'client-33': expected one of client-01, "),
        (["--question", "What?"], "--question is given without --image"),
        (["--image", "x.png", "--client", "client-01"], "--image is given without --question"),
        (["--image", "x.png", "--question", "What?"], "--image is given without --client"),
        (
            ["--image", "x.png", "--question", " ", "--client", "client-01"],
            "--question is empty",
        ),
        (
            ["--image", "x.png", "--question", "What?", "--client", "client-01"],
            "--image is x.png: the file is missing",
        ),
        (
            ["--image", __file__, "--question", "What?", "--client", "client-01"],
            "the image cannot be decoded",
        ),
        (["--sample"], "--sample is no option of this command"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    secure_run: Any, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert sentence in _complaint(capsys, secure_run.path, *words)


def test_what_is_no_run_or_has_no_adapters_is_told(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "run is missing" in _complaint(capsys)
    assert "expected a run folder, it has no summary.json" in _complaint(capsys, tmp_path)
    tensors = copied / "adapters" / "client-07" / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    assert f"{tensors}: no safetensors file" in _complaint(capsys, copied, "--client", "client-07")
    tensors.unlink()
    assert f"{tensors}: there is no such file" in _complaint(
        capsys, copied, "--client", "client-07"
    )
    (copied / "config.yaml").unlink()
    assert "expected a run folder, it has no config.yaml" in _complaint(capsys, copied)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ("interrupted", "interrupted by the user", "the run was interrupted and has no saved"),
        ("running", None, "the run is still running or was killed and has no saved"),
        ("failed", "FederationError: x", "the run failed (FederationError: x) and has no saved"),
    ],
)
def test_a_run_that_did_not_finish_says_so(
    copied: Path, capsys: pytest.CaptureFixture[str], status: str, reason: str | None, words: str
) -> None:
    shutil.rmtree(copied / "adapters")
    _edit_summary(copied, lambda summary: summary.update(status=status, reason=reason))
    line = _complaint(capsys, copied)
    assert words in line and "expected a finished run" in line


def test_adapters_of_another_rank_are_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("lora_rank: 2", "lora_rank: 3"))
    line = _complaint(capsys, copied, "--client", "client-01")
    assert "the text adapter does not fit the base model" in line and "lora_rank 3" in line
