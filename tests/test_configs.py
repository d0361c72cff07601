"""Every file in ``configs/`` says how to run it, and that command runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pilot_secure.command_line import parse
from pilot_secure.config import SimulationConfig
from pilot_secure.run_folder import RunFolder
from pilot_secure.simulate import PROGRAM, main

ROOT = Path(__file__).parents[1]
FILES = sorted(file.name for file in (ROOT / "configs").glob("*.yaml"))
EMBEDDED = [name for name in FILES if not name.startswith(("own-data", "llava-"))]
PAPER = [name for name in FILES if name.startswith("llava-")]
TINY = [
    *("--samples-per-client", "2", "--test-samples", "1", "--max-new-tokens", "1"),
    *("--lora-rank", "2", "--sketch-size", "64", "--rounds", "1"),
]


def comment(name: str) -> str:
    """The lines before the first setting, without their signs."""
    lines = (ROOT / "configs" / name).read_text().splitlines()
    assert lines[0].startswith("# ")
    length = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line[1:].strip() for line in lines[:length])


def commands(name: str) -> list[list[str]]:
    """The arguments of every simulation that the file's comment tells to run."""
    joined = comment(name).replace("\\\n", " ")
    found = re.findall(rf"^{re.escape(PROGRAM)}\b(.*)$", joined, re.MULTILINE)
    return [shlex.split(arguments) for arguments in found]


def test_there_are_configurations() -> None:
    assert {"visual-understanding.yaml", "general-vqa.yaml"} <= set(EMBEDDED)


@pytest.mark.parametrize("name", FILES)
def test_the_comment_names_a_command_with_this_file(name: str) -> None:
    assert commands(name)
    for arguments in commands(name):
        assert arguments[arguments.index("--config") + 1] == f"configs/{name}"


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_command_runs(
    name: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = commands(name)[0]
    written = parse(SimulationConfig, arguments, program=PROGRAM, description="")
    out = tmp_path / "run"
    assert main([*arguments, *TINY, "--base", str(tiny_base), "--out", str(out)]) == 0
    summary = RunFolder.open(out).read_summary()
    assert summary.status == "finished"
    assert (summary.scenario, summary.method) == (written.data.scenario, written.federation.method)
    assert summary.secure_agg == written.security.secure_agg
    assert len(summary.clients) == written.num_clients
