"""The main command: what a person reads when it is wrong, and what is left when it stops."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import FinishedRun

from pilot_secure.adapter_files import load_connector, restore_connector
from pilot_secure.federation.connector_kinds import build_connector
from pilot_secure.federation.worker import Worker
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import main
from pilot_secure.transcript import chained, read_heads, read_payload, read_transcript
from protocols import Roster

TINY = [
    *("--samples-per-client", "4", "--test-samples", "1", "--max-new-tokens", "1"),
    *("--lora-rank", "2", "--sketch-size", "64", "--batch-size", "4"),
    *("--clients-per-task", "2", "--num-neighbours", "3"),
    *("--max-colluders", "0", "--min-contributors", "2"),
]
NOT_EMPTY, NO_RUN = "an-old-run", "no-run"


def tiny(base: Path, out: Path, *options: str) -> list[str]:
    return [*TINY, "--base", str(base), "--rounds", "1", "--out", str(out), *options]


def errors(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error: ")]


BAD = {
    "an option that there is not": (
        ["--round", "3"],
        r"--round is no option of this command; did you mean --rounds\?",
    ),
    "a word for a number": (
        ["--rounds", "many"],
        r'--rounds is "many": expected an integer, at least 1',
    ),
    "a number without end": (["--clip", "inf"], r"--clip is Infinity: expected a finite number"),
    "no number": (["--learning-rate-stage1", "nan"], r"stage1 is NaN: expected a finite number"),
    "a value for yes or no": (
        ["--secure-agg=yes"],
        r"--secure-agg is 'yes': expected --secure-agg or --no-secure-agg, without a value",
    ),
    "a number below its bound": (["--rounds", "0"], r"--rounds .*0.* expected .*1"),
    "none of the choices": (["--method", "fedsgd"], r"--method .*fedsgd.*pilot"),
    "a configuration that is missing": (
        ["--config", "nowhere.yaml"],
        r"--config is nowhere\.yaml: expected a YAML file",
    ),
    "as many neighbours as clients": (
        ["--num-neighbours", "9"],
        r"federation\.num_neighbours is 9: expected fewer than the 9 clients",
    ),
    "more neighbours than take part": (
        ["--participation", "0.34", "--num-neighbours", "4"],
        r"num_neighbours is 4: expected fewer than the 3 clients",
    ),
    "a task of two": (
        ["--secure-agg", "--clients-per-task", "2", "--num-neighbours", "3"],
        r"clients_per_task is 2: expected at least security\.min_contributors = 3",
    ),
    "a share of too few to hide among": (
        ["--secure-agg", "--participation", "0.67", "--num-neighbours", "5"],
        r"federation\.participation is 0\.67: expected a share .* it keeps 2 of 3",
    ),
    "a threshold that opens twice": (
        ["--secure-agg", "--threshold", "5"],
        r"security\.threshold is 5: expected 2·threshold > clients \+ max_colluders, at least 6",
    ),
    "a threshold above the cohort": (
        ["--secure-agg", "--threshold", "10"],
        r"security\.threshold is 10: expected at most the 9 clients",
    ),
    "too few to hide among": (
        ["--secure-agg", "--min-contributors", "2"],
        r"security\.min_contributors is 2: expected at least max_colluders \+ 2 = 3",
    ),
    "an unknown base model": (
        ["--base", "no/such-model-folder/here"],
        r"model\.base: expected a LLaVA checkpoint .*no/such-model-folder/here",
    ),
    "a folder that holds something": (
        ["--out", NOT_EMPTY],
        r"--out is an-old-run: expected a new or empty folder, it holds 1 entry",
    ),
    "a replay of no run": (
        ["--replay-selection", NO_RUN],
        r"no-run: expected a run folder, it has no summary\.json",
    ),
    "a replay under masks": (
        ["--secure-agg", "--replay-selection", NO_RUN],
        r"federation\.replay_selection is no-run: expected .* without secure_agg",
    ),
    "a sample bound below the data": (
        ["--secure-agg", "--max-samples", "2", "--samples-per-client", "4", "--test-samples", "1"],
        r"security\.max_samples is 2: expected at least 4",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NOT_EMPTY).mkdir()
    (tmp_path / NOT_EMPTY / "summary.json").write_text("kept")
    (tmp_path / NO_RUN).mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments, expected = BAD[case]
    out = [] if "--out" in arguments else ["--out", "run"]
    assert main([*arguments, *out]) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert re.search(expected, sentence), sentence
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / NOT_EMPTY / "summary.json").read_text() == "kept"


def test_all_problems_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--secure-agg", "--threshold", "3", "--rounds", "x", "--sead", "1"]) == 2
    told = errors(capsys.readouterr().err)
    assert len(told) == 3
    assert {"--sead", "--rounds", "threshold"} <= set(
        re.findall(r"--sead|--rounds|threshold", " ".join(told))
    )


@pytest.mark.parametrize(
    ("dropout", "expected"),
    [
        ("{client: client-77, round: 1, stage: 1, phase: share}", "names client client-77"),
        (
            "{client: client-01, round: 4, stage: 1, phase: share}",
            "names round 4: expected at most",
        ),
        ("{client: client-01, round: 1, stage: 1, phase: shares}", 'phase is "shares"'),
        (
            "{client: client-01, round: 1, stage: 1, phase: share, part: 1}",
            "names part 1 of phase share: expected phase masked_input or deliver",
        ),
        (
            "&x {client: client-01, round: 1, stage: 1, phase: share}\n    - *x",
            "names client-01 in phase share of round 1, stage 1, twice",
        ),
    ],
)
def test_a_drop_out_that_could_never_happen_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dropout: str, expected: str
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"security:\n  dropouts:\n    - {dropout}\n")
    small = ["--samples-per-client", "2", "--test-samples", "1"]
    assert main(["--config", str(config), "--out", str(tmp_path / "run"), *small]) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert expected in sentence
    assert not (tmp_path / "run").exists()


def replay(run: Path, out: Path, *options: str) -> list[str]:
    """The documented command that repeats a run in the clear."""
    words = ["--config", str(run / "config.yaml"), "--no-secure-agg", "--out", str(out)]
    return [*words, "--replay-selection", str(run), *options]


@pytest.fixture
def copied(secure_run: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the secure run, without its messages, to be spoilt."""
    ignored = shutil.ignore_patterns("payloads", "transcript*", "adapters")
    return Path(shutil.copytree(secure_run.path, tmp_path / "copied", ignore=ignored))


def test_a_run_is_replayed_from_its_own_configuration(
    secure_run: FinishedRun, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(replay(secure_run.path, out)) == 0
    assert adapters_of(out) == adapters_of(secure_run.path)
    summary = RunFolder.open(out).read_summary()
    assert summary.secure_agg is False
    assert summary.base_sha256 == secure_run.summary.base_sha256


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rounds", "3"], r"its federation\.rounds is 2, expected 3 as in this run"),
        (["--samples-per-client", "8"], r"its data\.samples_per_client is 6, expected 8"),
        (["--lora-rank", "4"], r"its model\.lora_rank is 2, expected 4"),
        (["--epochs", "2", "--seed", "1"], r"its training\.epochs is 1, expected 2"),
        (["--seed", "1"], r"its run\.seed is 0, expected 1"),
    ],
)
def test_a_replay_of_another_configuration_is_refused(
    secure_run: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    assert main(replay(secure_run.path, tmp_path / "run", *options)) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert re.search(expected, sentence), sentence
    assert not (tmp_path / "run").exists()


def test_a_replay_of_other_clients_or_another_base_is_refused(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied / "summary.json"
    summary = json.loads(file.read_text())
    file.write_text(json.dumps({**summary, "base_sha256": "0" * 64}))
    assert main(replay(copied, tmp_path / "run")) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert "is another base model than the run's" in sentence and "0" * 64 in sentence
    summary["clients"][4]["samples"] = 7
    file.write_text(json.dumps(summary))
    assert main(replay(copied, tmp_path / "run")) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert "its client-05 has 7 samples of task" in sentence and "expected 6 samples" in sentence
    assert not (tmp_path / "run").exists()


def test_a_replay_of_too_few_rounds_is_found_before_training(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (copied / "history.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["round"] < 2]
    (copied / "history.jsonl").write_text("".join(kept))
    assert main(replay(copied, tmp_path / "run")) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert "no aggregation of round 2, stage 2" in sentence
    assert not (tmp_path / "run").exists()


def test_the_default_command_line_prints_its_tables(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(tiny(tiny_base, out)) == 0
    printed = capsys.readouterr()
    for client in RunFolder.open(out).read_summary().clients:
        assert client.client in printed.out
        assert client.task in printed.out
    for expected in ("MB up", "clear_update", "wall time", "peak memory", str(out)):
        assert expected in printed.out
    assert "clear mode: the server sees every adapter" in printed.err
    assert "…" not in printed.out  # no name is cut short
    written = (out / "config.yaml").read_text()
    assert f"# python -m pilot_secure.simulate {TINY[0]} {TINY[1]}" in written
    again = tmp_path / "again"
    assert main(["--config", str(out / "config.yaml"), "--out", str(again)]) == 0
    assert adapters_of(again) == adapters_of(out)


def test_the_wall_time_counts_from_the_command(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Worker.__init__

    def slow(self: Worker, *args: object, **options: object) -> None:
        loading.append(time.monotonic())
        time.sleep(1.0)
        build(self, *args, **options)
        loading.append(time.monotonic())

    loading: list[float] = []
    monkeypatch.setattr(Worker, "__init__", slow)
    began = time.monotonic()
    assert main(tiny(tiny_base, tmp_path / "run", "--method", "local")) == 0
    whole = time.monotonic() - began
    after_loading = time.monotonic() - loading[1]
    seconds = RunFolder.open(tmp_path / "run").read_summary().wall_seconds
    assert after_loading < seconds <= whole
    assert seconds > whole - 0.9  # so the second of loading is in it


def adapters_of(run: Path) -> dict[str, bytes]:
    files = (run / "adapters").rglob("*.safetensors")
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_another_seed_is_another_run(run_tiny: Callable[..., FinishedRun]) -> None:
    clear = {"security": {"secure_agg": False}, "federation": {"rounds": 1}}
    runs = [run_tiny(clear, {"run": {"seed": seed}}) for seed in (1, 2)]
    first, second = (adapters_of(run.path) for run in runs)
    assert first.keys() == second.keys()
    assert not any(first[name] == second[name] for name in first)


def test_local_exchanges_nothing(run_tiny: Callable[..., FinishedRun]) -> None:
    run = run_tiny({"federation": {"method": "local"}})  # under secure_agg, which changes nothing
    phases = {phase.phase for phase in run.summary.phases}
    assert phases == {"train", "evaluate"}
    for client in run.summary.clients:
        assert client.after_aggregation == client.after_local is not None
    for adapter in (run.path / "adapters").iterdir():
        assert load_connector(adapter)[0].kind == "SingleConnector"


def test_scores_of_every_round_are_in_the_history(run_tiny: Callable[..., FinishedRun]) -> None:
    clear = {"security": {"secure_agg": False}}
    run = run_tiny(clear, {"federation": {"evaluate": "every_round", "schedule": "both_stages"}})
    scored = {
        (r.round, r.stage, r.moment)
        for r in RunFolder.open(run.path).history()
        if r.kind == "score"
    }
    assert scored == {
        (0, 0, "before"),
        (1, 2, "after_local"),
        (1, 2, "after_aggregation"),
        (2, 2, "after_local"),
        (2, 2, "after_aggregation"),
    }


def test_saved_adapters_load_with_plain_peft(secure_run: FinishedRun, tiny_base: Path) -> None:
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import LlavaForConditionalGeneration

    folder = secure_run.path / "adapters" / "client-01"
    base = LlavaForConditionalGeneration.from_pretrained(tiny_base)
    loaded = get_peft_model_state_dict(PeftModel.from_pretrained(base, folder))
    expected = secure_run.simulation.host.clients["client-01"].state.text_adapter
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_base)


def test_saved_adapters_name_the_base_as_the_user_did(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pilot_secure.models.base.SHIPPED_CHECKPOINT", tiny_base)
    assert main([*TINY, "--rounds", "1", "--out", "run"]) == 0  # no --base: the shipped one
    settings = json.loads((tmp_path / "run/adapters/client-01/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny-llava"


def test_saved_connectors_are_restored_bit_for_bit(secure_run: FinishedRun) -> None:
    config = secure_run.config
    worker = Worker(config.model, config.training, seed=99)
    for name, client in secure_run.simulation.host.clients.items():
        folder = RunFolder(secure_run.path).adapter_folder(name)
        module = build_connector(load_connector(folder)[0], worker.base_connector)
        restore_connector(module, folder)
        expected = client.state.connector.state_dict()
        assert module.state_dict().keys() == expected.keys()
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, expected[key])
        assert module.other_tasks == client.state.connector.other_tasks


class FullDisk:
    """Lets ``calls`` writes through, and then has no space left."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self._write = os.write

    def __call__(self, descriptor: int, content: bytes) -> int:
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        return self._write(descriptor, content)


@pytest.mark.parametrize("calls", [0, 3, 40])
def test_a_full_disk_is_one_sentence(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    calls: int,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FullDisk(calls))
        assert main(tiny(tiny_base, out)) == 2
    (sentence,) = errors(capsys.readouterr().err)
    assert sentence.endswith(": the disk is full.")
    assert str(out) in sentence
    if calls == 0:
        assert not out.exists()
    elif calls == 40:
        assert RunFolder.open(out).read_summary().status == "running"  # no space to say more
        assert_valid_prefix(out)


def assert_valid_prefix(run: Path) -> int:
    """Every record chained, every frame the one that was recorded; return their number."""
    records = list(chained(read_transcript(run)))
    for record in records:
        assert read_payload(run, record) is not None
    return len(records)


def assert_interrupted(run: Path) -> None:
    summary = RunFolder.open(run).read_summary()
    assert (summary.status, summary.reason) == ("interrupted", "interrupted by the user")
    assert len(summary.clients) == 6
    assert list(RunFolder.open(run).history())
    count = assert_valid_prefix(run)
    head = list(read_heads(run))[-1]
    assert not head.final  # the run may go on
    head.verify(Roster.model_validate_json((run / "roster.json").read_text()))
    assert head.count == count > 6


def test_ctrl_c_during_training_leaves_a_run_that_says_so(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train, trained = Worker.train, []

    def interrupted(self: Worker, *args: object, **options: object) -> None:
        if len(trained) == 4:
            raise KeyboardInterrupt
        trained.append(options["label"])
        train(self, *args, **options)

    monkeypatch.setattr(Worker, "train", interrupted)
    assert main(tiny(tiny_base, tmp_path / "run", "--secure-agg")) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert_interrupted(tmp_path / "run")
    summary = RunFolder.open(tmp_path / "run").read_summary()
    assert all(c.before is not None and c.after_local is None for c in summary.clients)


@pytest.mark.parametrize("step", ["__init__", "encode"])
def test_ctrl_c_while_loading_leaves_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupted(self: Worker, *args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, step, interrupted)
    (tmp_path / "mine").mkdir()
    for name in ("run", "mine"):
        assert main(tiny(tiny_base, tmp_path / name)) == 130
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def wait_for_records(run: Path, count: int, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    transcript = run / "transcript.jsonl"
    while not transcript.exists() or len(transcript.read_bytes().splitlines()) < count:
        assert alive(), "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_real_sigint_ends_in_code_130(tiny_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pilot_secure.simulate"]
    arguments = tiny(tiny_base, tmp_path / "run", "--secure-agg", "--rounds", "50")
    process = subprocess.Popen(
        [*command, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background ignores SIGINT, and passes that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for_records(tmp_path / "run", 30, lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in told
    assert told.endswith("interrupted\n")
    assert_interrupted(tmp_path / "run")


@pytest.fixture
def killed_run(tiny_base: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that was killed while messages were flying."""
    arguments = tiny(tiny_base, tmp_path / "run", "--secure-agg", "--rounds", "50")
    process = multiprocessing.get_context("forkserver").Process(target=main, args=(arguments,))
    process.start()
    try:
        wait_for_records(tmp_path / "run", 60, process.is_alive)
    finally:
        process.kill()
        process.join()
    yield tmp_path / "run"


def test_a_killed_run_leaves_a_valid_prefix(killed_run: Path) -> None:
    assert assert_valid_prefix(killed_run) >= 60
    assert not any(head.final for head in read_heads(killed_run))
    assert RunFolder.open(killed_run).read_summary().status == "running"
    assert list(RunFolder.open(killed_run).history())


def test_a_finished_run_is_not_continued(
    secure_run: FinishedRun, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in secure_run.path.glob("*.json*")}
    assert main(tiny(tiny_base, secure_run.path)) == 2
    assert "a run is never overwritten" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in secure_run.path.glob("*.json*")} == before
