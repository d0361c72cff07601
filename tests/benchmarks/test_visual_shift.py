"""What connector and LoRA contribute: every part is trained by itself, on both bases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import visual_shift
from benchmarks.sharing_within_a_task import Bench
from pilot_secure.data import build_scenario
from pilot_secure.models import text_adapter_parameters


def test_every_base_task_and_part_is_scored(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--base", str(tiny_base), "--seeds", "1", "--samples", "2", "--images", "8"]
    arguments += ["--test-samples", "1", "--out", str(tmp_path), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["visual_shift", *arguments])
    visual_shift.main()
    scores = json.loads((tmp_path / "visual-shift.json").read_text())["scores"]
    assert list(scores) == list(visual_shift.BASES)
    for tasks in scores.values():
        assert set(tasks) == {"question-answering", "captioning", "grounding"}
        assert all(list(row) == list(visual_shift.PARTS) for row in tasks.values())
    lines = (tmp_path / "visual-shift.md").read_text().splitlines()
    assert lines[0] == "| base | task | base | connector only | LoRA only | both |"
    assert len(lines) == 2 + 6 + 2 and lines[-1] == "One seed."


def test_what_is_not_trained_does_not_move(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, used = Bench(str(tiny_base)), []
    monkeypatch.setattr(
        "benchmarks.sharing_within_a_task.generate_answers",
        lambda model, processor, connector, asked, *rest, **options: (
            used.append(connector) or [""] * len(asked)
        ),
    )
    client = build_scenario("visual-shift", samples_per_client=2, test_samples=1)[0]
    start = {name: tensor.clone() for name, tensor in bench.start.items()}
    bench.score_after(client, [])
    fresh = used[-1].state_dict()
    bench.score_after(client, [client], ("connector",))
    text = text_adapter_parameters(bench.model)
    assert all(torch.equal(text[name], start[name]) for name in start)
    assert any(not torch.equal(used[-1].state_dict()[name], fresh[name]) for name in fresh)
    bench.score_after(client, [client], ("LoRA",))
    assert any(not torch.equal(text[name], start[name]) for name in start)
    assert all(torch.equal(used[-1].state_dict()[name], fresh[name]) for name in fresh)
