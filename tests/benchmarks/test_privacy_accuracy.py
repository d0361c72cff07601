"""The grid's cells, its results, and the whole command on the smallest grid, killed and resumed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from benchmarks import cells
from benchmarks.cells import ROOT, Cell
from benchmarks.privacy_accuracy.__main__ import main
from benchmarks.privacy_accuracy.grid import (
    CLEAR,
    SECURE,
    GridConfig,
    Protection,
    cell,
    priced_cells,
    protections,
)
from benchmarks.privacy_accuracy.results import Difference
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file

FILES = sorted((ROOT / "configs" / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_grid_is_a_legal_run(path: Path) -> None:
    grid = validate(GridConfig, read_config_file(path), file=str(path))
    assert f"--config configs/benchmarks/{path.name}" in path.read_text()
    made = [cell(grid, m, p, 0) for m in grid.methods for p in protections(grid, m)]
    made += priced_cells(grid).values()
    for one in made:
        assert one.config.federation.rounds == 3
    units = {c.config.privacy.unit for c in made}
    asked = {"example": grid.example_epsilons, "client": grid.client_epsilons}
    assert units == {"none", *(unit for unit, epsilons in asked.items() if epsilons)}
    assert {c.config.security.secure_agg for c in made} == {True, False}


def test_protections_fit_their_method() -> None:
    grid = GridConfig(methods=("pilot", "local"), example_epsilons=(1.0,), client_epsilons=(2.0,))
    example = Protection("example-level", "example", 1.0)
    client = Protection("client-level", "client", 2.0)
    assert protections(grid, "pilot") == [CLEAR, SECURE, example, client]
    assert protections(grid, "local") == [CLEAR, example]
    assert protections(grid, "centralized") == [CLEAR]
    private = cell(grid, "pilot", example, 3).config
    assert private.security.secure_agg and private.run.seed == 3
    assert private.privacy.target_epsilon == 1.0
    assert set(priced_cells(grid)) == {
        *("clear", "visible", "hidden, peer", "key holder", example.label, client.label)
    }


def test_a_difference_is_noise_when_its_interval_holds_zero() -> None:
    assert Difference("m", "t", 0.5, 0.6, 5).is_noise
    assert not Difference("m", "t", 0.7, 0.6, 5).is_noise
    assert not Difference("m", "t", 0.0, math.nan, 1).is_noise


def test_the_command_goes_on_and_writes_one_page(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(1))
    run: list[str] = []
    carry_out = cells.carry_out

    def noted(one: Cell, folder: Path, code: str) -> float:
        run.append(one.label)
        if len(run) == 2:
            raise KeyboardInterrupt
        return carry_out(one, folder, code)

    monkeypatch.setattr(cells, "carry_out", noted)
    settings = {
        "data": {"samples_per_client": 4, "test_samples": 1, "clients_per_task": 3},
        "model": {"base": str(tiny_base), "lora_rank": 2, "max_new_tokens": 1},
        "training": {"batch_size": 2},
        "federation": {"rounds": 1, "score_base": False},
    }
    config = {
        "methods": ["fedavg"],
        "seeds": 1,
        "example_epsilons": [8.0],
        "price": False,
        "settings": settings,
        "private": {"privacy": {"delta": 0.01}},
    }
    path, out = tmp_path / "grid.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(config))
    arguments = ["--config", str(path), "--out", str(out)]
    assert main(arguments) == 130
    assert main(arguments) == 0
    assert len(run) == 4  # three cells, one of them begun twice
    content = json.loads((out / "results.json").read_text())
    protections_run = {row["protection"] for row in content["scores"]}
    assert protections_run == {"clear", "secure", "example-level ε = 8"}
    (audit,) = content["audits"].values()
    assert audit["verdict"] == "PASS" and 7 < audit["claimed_at_run_delta"] <= 8
    assert audit["lower_bound"] <= audit["claimed"]
    assert audit["audits"] == 1  # the clients' mechanisms are alike
    page = (out / "index.html").read_text()
    assert "outside epsilon" in page.split("What epsilon does not cover")[1]
    assert page.count("data:image/png;base64,") == 2 and "<h2>Audit</h2>" in page
    for name in ("scores.csv", "differences.csv", "curve.png", "audit.png"):
        assert (out / name).stat().st_size > 0
    assert "3 are there" not in capsys.readouterr().err
    assert main(arguments) == 0 and len(run) == 4


def test_processes_of_a_killed_benchmark_end_with_it() -> None:
    """They would go on with the cells that they were given, and then wait for ever."""
    script = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pilot_secure.engines.processes import end_with_the_starter
pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_the_starter)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 300)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert ended.returncode == -9
    status = Path("/proc", ended.stdout.strip(), "status")
    deadline = time.monotonic() + 20
    while status.exists() and "(zombie)" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_mistake_in_the_grid_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("methods: [pilot]\nseeds: 0\n")
    assert main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert "seeds is 0: expected an integer, at least 1" in error and "Traceback" not in error
