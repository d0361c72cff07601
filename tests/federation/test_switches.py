"""Pilot's switches: each changes what is computed, in the way its name says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIX, FinishedRun, merged
from torch import nn

from pilot_secure.config import ModelConfig, SimulationConfig, TrainingConfig
from pilot_secure.evaluate import main as evaluate
from pilot_secure.federation.methods import Pilot
from pilot_secure.federation.state import ClientState
from pilot_secure.federation.worker import Worker
from pilot_secure.models import (
    ConnectorPath,
    SingleConnector,
    TowerPath,
    TwoAdapterConnector,
    tower_inputs,
    vision_features,
)
from protocols import SERVER
from protocols.selection import before_largest_gap

TASKS = {"a": "draw", "b": "draw", "c": "read"}
CLEAR = {"security": {"secure_agg": False}}
TWO_ROUNDS = {"federation": {"rounds": 2}}


class TinyConnector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(1, 1), nn.Linear(1, 1)


def pilot(**settings: Any) -> Pilot:
    return Pilot(SimulationConfig.model_validate({"federation": settings}), ("draw", "read"))


def worker() -> Any:
    return SimpleNamespace(
        initial_text_adapter=lambda: {"lora_B": torch.tensor([[1.0, 1.0]])},
        base_connector=TinyConnector(),
        seed=0,
    )


@pytest.mark.parametrize(
    ("rule", "sums"),
    [
        ("adaptive", {"text.a": "a", "text.b": "b", "text.c": "c"}),
        ("same_task", {"text.draw": SERVER, "text.read": SERVER}),
        ("all", {"text.all": SERVER}),
        ("none", {}),
    ],
)
def test_whose_text_adapters_are_combined(rule: str, sums: dict[str, str]) -> None:
    used = pilot(text_aggregation=rule)
    specs = used.sums(TASKS, ("c", "a", "b"), 1)
    text = [spec for spec in specs if spec.vector == "text_adapter"]
    assert {spec.id: spec.recipient for spec in text} == sums
    assert [spec.id for spec in specs] == sorted(spec.id for spec in specs)
    members = {spec.id: spec.contributors for spec in text}
    assert members.get("text.draw", ("a", "b")) == ("a", "b")
    assert members.get("text.all", ("a", "b", "c")) == ("a", "b", "c")
    assert {s.id for s in specs} - set(sums) == {"task.draw", "task.read"}
    sent = {"task_adapter", "text_adapter"} - ({"text_adapter"} if rule == "none" else set())
    assert used.start(worker()).keys() == sent
    assert used._config.selects_neighbours is (rule == "adaptive")


@pytest.mark.parametrize(("rule", "expected"), [("same_task", 3), ("all", 6), ("none", 9)])
def test_a_mean_of_text_adapters_takes_the_place_of_the_own(rule: str, expected: float) -> None:
    lent, used = worker(), pilot(text_aggregation=rule)
    state = ClientState({"lora_B": torch.tensor([[9.0, 9.0]])})
    used.begin_stage(state, 1, lent, "draw")
    assert used.upload(state).keys() == used.start(lent).keys()
    delivered = {"text.draw": np.full(2, 2, np.float32), "text.all": np.full(2, 5, np.float32)}
    ids = {spec.id for spec in used.sums(TASKS, "abc", 1)}
    means = {sum_id: mean for sum_id, mean in delivered.items() if sum_id in ids}
    used.absorb_means(state, means, lent, "draw")
    assert state.text_adapter["lora_B"].tolist() == [[expected, expected]]


@pytest.mark.parametrize("rule", ["same_task", "all"])
def test_simple_rules_need_no_distances(rule: str, run_tiny: Callable[..., FinishedRun]) -> None:
    run = run_tiny(SIX, {"federation": {"text_aggregation": rule, "num_neighbours": 99}})
    assert not {"distance_upload", "select"} & {phase.phase for phase in run.summary.phases}
    texts = {n: c.state.text_adapter for n, c in run.simulation.host.clients.items()}
    for name, tensor in texts["client-01"].items():
        assert torch.equal(tensor, texts["client-02"][name])
    equal = [torch.equal(t, texts["client-06"][n]) for n, t in texts["client-01"].items()]
    assert all(equal) is (rule == "all")


def test_auto_neighbours_are_each_clients_own_number(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """Nine clients, at least two neighbours each: in front of the gap of the row that it opened."""
    auto = {"federation": {"num_neighbours": "auto", "rounds": 1}}
    secure = run_tiny(auto)
    for client in secure.simulation.host.clients:
        result = secure.result(client)
        nearest = sorted(result.row, key=lambda peer: (result.row[peer], peer))
        count = before_largest_gap([result.row[peer] for peer in nearest], 2)
        assert count >= 2
        assert sorted(result.neighbours) == sorted(nearest[:count])
    clear = run_tiny(auto, CLEAR)
    for client in clear.simulation.host.clients:
        assert len(clear.result(client).neighbours) >= 2  # the minimum holds here, too
        count = before_largest_gap(sorted(clear.result(client).row.values()), 2)
        assert len(clear.result(client).neighbours) == count
    replayed = run_tiny(auto, CLEAR, {"federation": {"replay_selection": secure.path}})
    for name, client in secure.simulation.host.clients.items():
        again = replayed.simulation.host.clients[name].state.text_adapter
        assert all(torch.equal(t, again[n]) for n, t in client.state.text_adapter.items())


def test_without_cross_task_adapters_there_are_none(
    run_tiny: Callable[..., FinishedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    off = {"model": {"cross_task_adapter": False}, "data": {"test_samples": 3}}
    run = run_tiny(SIX, CLEAR, TWO_ROUNDS, off)
    connector = run.simulation.host.clients["client-01"].state.connector
    assert len(connector.cross_task_adapters) == 0
    assert len(connector.other_task_adapters) == 2
    assert evaluate([str(run.path)]) == 0
    assert "agrees with summary.json in all 6 scores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "gone"),
    [
        ({"difference_weight": 0.0}, {"difference"}),
        ({"load_balancing_weight": 0.0}, {"load_balancing"}),
        ({"load_balancing_weight": 0.0, "router_z_weight": 0.0}, {"load_balancing", "router_z"}),
    ],
)
def test_a_loss_of_weight_zero_is_left_out(
    weights: dict[str, float], gone: set[str], run_tiny: Callable[..., FinishedRun]
) -> None:
    run = run_tiny(SIX, CLEAR, TWO_ROUNDS, {"training": weights})
    losses = {
        name
        for record in run.simulation.folder.history()
        if record.kind == "training"
        for name in record.losses
    }
    assert losses == {"total", "answer", "difference", "load_balancing", "router_z"} - gone


@pytest.fixture(scope="module")
def clip_worker(tiny_base: Path) -> Worker:
    model = ModelConfig(base=str(tiny_base), lora_rank=2, ct_clip=True)
    return Worker(model, TrainingConfig(), seed=0)


def test_ct_clip_begins_as_the_base_model(clip_worker: Worker) -> None:
    """One adapter at each place, untrained: the tokens are those of tower and connector."""
    model = clip_worker.model
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    path, plain = TowerPath(model), ConnectorPath(model)
    assert len(path.places) == 2  # one block, and the connector
    inputs, features = tower_inputs(model, pixels), vision_features(model, pixels)
    assert path.image_tokens(inputs) == plain.image_tokens(features) == features.shape[1]
    tokens = path(SingleConnector(path.places), inputs, {}).image_tokens
    expected = plain(SingleConnector(plain.places), features, {}).image_tokens
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


def test_ct_clip_losses_are_the_mean_over_the_places(clip_worker: Worker) -> None:
    path = TowerPath(clip_worker.model)
    connector = TwoAdapterConnector(path.places)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    inputs = tower_inputs(clip_worker.model, pixels)
    seen: list[torch.Tensor] = []
    at = connector.at
    connector.at = lambda *given: seen.append(at(*given).losses["difference"]) or at(*given)
    loss = path(connector, inputs, {"difference": 0.1}).losses["difference"]
    assert len(seen) == 2
    torch.testing.assert_close(loss, (seen[0] + seen[1]) / 2)


def test_ct_clip_trains_sends_and_saves_every_place(
    run_tiny: Callable[..., FinishedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = merged(TWO_ROUNDS, {"model": {"ct_clip": True}}, {"data": {"test_samples": 3}})
    run = run_tiny(SIX, settings)
    sent = run.uploads[(2, 2, "client-01")]["task_adapter"]
    assert {name.split(".")[0] for name in sent} == {"0", "1"}
    assert all(np.abs(tensor).max() > 0 for name, tensor in sent.items() if "weight" in name)
    connector = run.simulation.host.clients["client-01"].state.connector
    assert len(connector.router) == 2
    crossing = connector.cross_task_adapters.state_dict()
    assert {name.split(".")[1] for name in crossing} == {"0", "1"}
    assert evaluate([str(run.path)]) == 0
    assert "agrees with summary.json in all 6 scores" in capsys.readouterr().out


def test_rivals_take_ct_clip_too(run_tiny: Callable[..., FinishedRun]) -> None:
    run = run_tiny(SIX, CLEAR, {"federation": {"method": "fedavg"}, "model": {"ct_clip": True}})
    sent = run.uploads[(1, 1, "client-01")]["connector"]
    assert {name.split(".")[0] for name in sent} == {"0", "1"}
