"""What a run is said to need, against what it does need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import FinishedRun

from pilot_secure import dry_run
from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.dry_run import Cost, aggregation_cost, memory_bytes
from pilot_secure.federation.parameter_counts import count_parameters
from pilot_secure.models.shapes import meta_llava

PAPER = Path(__file__).parents[1] / "configs" / "llava-1.5-7b-visual-understanding.yaml"


def paper(**model: object) -> SimulationConfig:
    """The paper's settings in float32, since a process has one precision for good."""
    content = read_config_file(PAPER)
    content["model"] |= {"mixed_precision": "no", **model}
    return validate(SimulationConfig, content)


def test_llava_15_7b_has_the_sizes_that_the_paper_gives() -> None:
    counts = count_parameters(paper())
    assert counts.base == 7_063_427_072  # of llava-hf/llava-1.5-7b-hf
    assert counts.connector == 20_979_712
    first, second = counts.stages
    text = 159_907_840  # LoRA of rank 64 on the seven linear layers of 32 blocks
    assert first.communicated == second.communicated
    assert first.communicated == {"task_adapter": counts.connector, "text_adapter": text}
    assert first.trained == first.activated == text + 2 * counts.connector
    router = 3 * (1024 + 1)
    assert second.trained == text + 3 * counts.connector + router
    assert second.activated == second.trained + 3 * counts.connector


def test_every_mlp_of_the_tower_is_counted_for_ct_clip() -> None:
    plain, tower = count_parameters(paper()), count_parameters(paper(ct_clip=True))
    mlp = 2 * 1024 * 4096 + 1024 + 4096
    assert tower.connector == plain.connector + 23 * mlp  # features are of the last layer but one
    assert tower.stages[0].communicated["task_adapter"] == tower.connector


def test_counts_are_those_of_a_real_run(secure_run: FinishedRun) -> None:
    counts = count_parameters(secure_run.config)
    lengths = secure_run.simulation.server._agreement.vector_lengths
    assert [stage.communicated for stage in counts.stages] == [lengths, lengths]
    state = secure_run.simulation.host.clients["client-01"].state
    text = sum(tensor.numel() for tensor in state.text_adapter.values())
    connector = sum(p.numel() for p in state.connector.parameters())
    assert counts.stages[-1].activated == text + connector
    trained = sum(p.numel() for p in state.connector.train_own_parts().values())
    assert counts.stages[-1].trained == text + trained
    state.connector.requires_grad_(False)


@pytest.mark.parametrize("long", [dry_run.LONG, 400])
def test_bytes_are_those_of_a_real_run(
    long: int, secure_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run's own lengths, or extrapolated from others; only varying number sizes differ."""
    monkeypatch.setattr(dry_run, "SHORT", min(dry_run.SHORT, long // 2))
    monkeypatch.setattr(dry_run, "LONG", long)
    cost = aggregation_cost(secure_run.config, count_parameters(secure_run.config).stages[0])
    rounds, clients = 2, 9
    phases = [p for p in secure_run.summary.phases if p.phase not in ("train", "evaluate")]
    up = sum(p.upload_bytes for p in phases) / rounds / clients
    down = sum(p.download_bytes for p in phases) / rounds / clients
    assert cost.upload_bytes == pytest.approx(up, rel=0.02)
    assert cost.download_bytes == pytest.approx(down, rel=0.02)
    if max(count_parameters(secure_run.config).stages[0].communicated.values()) <= long:
        assert cost.client_seconds > 0 and cost.server_seconds > 0  # measured as they are


def test_seconds_do_not_hang_on_what_is_loaded_once_or_on_distances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second that the first aggregation loses, or distances gain, would be 150 for the 7B."""
    calls = []

    def measured(config: SimulationConfig, stage: int, lengths: Mapping[str, int]) -> Cost:
        calls.append(lengths)
        distances = 0.5 * len(calls) if config.security.sketch_size == 65536 else 0.0
        once = 5.0 if len(calls) == 1 else 0.0
        linear = 1e-7 * lengths["task_adapter"] + 3e-7 * lengths["text_adapter"]
        return Cost(linear, linear, linear + distances + once, linear + once)

    monkeypatch.setattr(dry_run, "_measure", measured)
    stage = count_parameters(paper()).stages[0]
    cost = aggregation_cost(paper(), stage)
    linear = 1e-7 * 20_979_712 + 3e-7 * 159_907_840
    assert cost.server_seconds == pytest.approx(linear)
    assert cost.client_seconds == pytest.approx(linear + 0.5 * 2)  # of the second call
    assert all(max(lengths.values()) <= dry_run.LONG for lengths in calls)


def test_memory_grows_with_what_it_is_made_of() -> None:
    config = paper()
    counts = count_parameters(config)
    first, second = counts.stages
    assert memory_bytes(config, counts, first) > 4 * counts.base + 16 * first.trained
    assert memory_bytes(config, counts, first) < memory_bytes(config, counts, second)
    settings = config.model_dump()
    settings["training"]["gradient_checkpointing"] = not config.training.gradient_checkpointing
    other = SimulationConfig.model_validate(settings)
    assert memory_bytes(other, counts, first) != memory_bytes(config, counts, first)


def test_the_dry_run_of_a_7b_model_takes_less_than_2_gib(tmp_path: Path) -> None:
    code = f"""
import resource, sys
from pilot_secure.simulate import main
assert main(["--config", {str(PAPER)!r}, "--secure-agg", "--dry-run"]) == 0
print("KiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *told, memory = run.stdout.strip().splitlines()
    assert int(memory.split()[1]) < 2 << 20
    text = "\n".join(told)
    assert "7,063,427,072 parameters" in text
    assert "201.87" in text
    assert "180.89" in text  # communicated
    assert "aggregation after stage 1 or 2: cryptography on one core" in text
    assert list(tmp_path.iterdir()) == []
    missing = [line for line in told if "not on this machine" in line]
    assert "data.clients[0].train is data/gqa/train_balanced_questions.json: not" in missing[0]
    assert len(missing) == 4 + 2 + 3


def test_what_is_there_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    files = {"train": str(tmp_path / "a.json"), "images": str(tmp_path)}
    client = {"metric": "cider", "split_into": 4, **files}
    config = paper().model_dump()
    clients = [{"name": task, "task": task, **client} for task in ("ask", "draw")]
    config["data"] = {"scenario": "files", "clients": clients}
    config["federation"]["replay_selection"] = str(tmp_path / "run")
    missing = dry_run.missing_lines(SimulationConfig.model_validate(config))
    told = f"federation.replay_selection is {tmp_path / 'run'}: not on this machine"
    assert [line.partition(",")[0] for line in missing] == [told]


def test_shapes_have_no_storage() -> None:
    model = meta_llava("llava-hf/llava-1.5-13b-hf")
    assert {p.device for p in model.parameters()} == {torch.device("meta")}
    assert sum(p.numel() for p in model.parameters()) > 13e9
