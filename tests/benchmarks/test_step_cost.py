"""The step benchmark runs, and times what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import step_cost


def test_every_kind_of_step_is_timed(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["step_cost", "--steps", "2", "--batch-size", "2", "--base", str(tiny_base)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(step_cost, "rates", lambda *given: None)
    step_cost.main()
    told = capsys.readouterr().out
    for kind in ("plain (LoRA and connector)", "stage 1, no difference loss", "stage 2"):
        assert f"\n{kind:32}" in told
    assert "difference loss by itself" in told
