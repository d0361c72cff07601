"""Clients trained by several processes that `accelerate launch` starts, here on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import NINE, SIX, FinishedRun, merged

from pilot_secure.audit.__main__ import main as audit
from pilot_secure.federation.ranks import BatchPart
from pilot_secure.run_folder import RunFolder
from pilot_secure.saved_run import read_tensors

UNEVEN = {
    "data": {"samples_per_client": 7},
    "training": {"batch_size": 3, "gradient_accumulation": 2},
}
"""Batches of 3, 3 and 1, parts of 2 and 1: of some the second process has no row."""


def launch(path: Path, base: Path, *layers: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a configuration in two processes, which are one party."""
    settings = merged(NINE, SIX, *layers, {"model": {"base": str(base)}})
    file = path.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings))
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    processes = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port())]
    command = ["-m", "pilot_secure.simulate", "--config", str(file), "--out", str(path)]
    return subprocess.run(
        [*launcher, *processes, *command],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},  # as on GPUs, over gloo
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "method",
    [
        pytest.param({}, id="pilot"),
        pytest.param({"method": "fedprox"}, id="fedprox", marks=pytest.mark.slow),
        pytest.param({"method": "feddpa"}, id="feddpa", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_what_one_does(
    method: dict[str, str], tiny_base: Path, tmp_path: Path, run_tiny: Callable[..., FinishedRun]
) -> None:
    """The same batches, cut in two; sums of floats are taken in another order."""
    layers = [UNEVEN, {"federation": method}, {"security": {"sketch_size": None}}]
    path = tmp_path / "launched"
    ended = launch(path, tiny_base, *layers)
    assert ended.returncode == 0, ended.stderr
    assert "each client is trained by 2 processes" in ended.stderr
    assert audit(["verify", str(path)]) == 0
    alone = run_tiny(SIX, *layers)
    files = sorted((alone.path / "adapters").rglob("*.safetensors"))
    assert len(files) >= 6
    for file in files:
        ours = read_tensors(path / file.relative_to(alone.path))
        theirs = read_tensors(file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, atol=2e-3, rtol=0)
    found, expected = (
        {
            (r.client, r.stage, r.epoch): r.losses
            for r in RunFolder.open(run).history()
            if r.kind == "training"
        }
        for run in (path, alone.path)
    )
    assert found.keys() == expected.keys() and found
    for place, losses in expected.items():
        assert found[place] == pytest.approx(losses, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"run": {"engine": "processes"}}, "run.engine is processes: expected in_process"),
        (
            {"privacy": {"unit": "example", "noise_multiplier": 2.0, "delta": 0.05}},
            "privacy.unit is example: expected none or client under accelerate launch",
        ),
    ],
)
def test_what_no_launch_can_do_is_refused_in_one_sentence(
    settings: dict[str, Any], sentence: str, tiny_base: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    ended = launch(path, tiny_base, settings)
    assert ended.returncode != 0
    assert ended.stderr.count(sentence) == 1
    assert "pilot_secure/simulate.py" not in ended.stderr  # no traceback of ours
    assert not path.exists()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_the_processes_rows_are_all_of_a_part_once(count: int, rows: int) -> None:
    features = torch.arange(rows, dtype=torch.float32)
    whole = BatchPart(list(range(rows)), features, 0.5, last=True)  # type: ignore[arg-type]
    own = [whole.of_rank(rank, count) for rank in range(count)]
    assert [row for part in own for row in part.encoded] == list(range(rows))
    assert torch.cat([part.features for part in own]).equal(features)
    assert sum(part.share for part in own) == pytest.approx(0.5)
    assert all(part.share == pytest.approx(0.5 * len(part.encoded) / rows) for part in own)
    assert len(own[0].encoded) >= 1
