"""Pilot's own arithmetic (Eq. 10 and 12) on cases worked by hand, and how adapters carry over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.clear import aggregate_in_clear
from pilot_secure.federation.messages import ClearUpdate, vector_bytes, vector_from_bytes
from pilot_secure.federation.methods import Pilot
from pilot_secure.federation.state import ClientState
from pilot_secure.models import MixtureConnector, TwoAdapterConnector
from protocols import SERVER, AggregationParameters, SealedSum, SumSpec

TASKS = ("draw", "read")


class TinyConnector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(2, 2)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(2, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


def worker(text: dict[str, torch.Tensor] | None = None) -> Any:
    torch.manual_seed(0)
    return SimpleNamespace(
        initial_text_adapter=lambda: dict(text or {}), base_connector=TinyConnector(), seed=0
    )


def pilot(**settings: Any) -> Pilot:
    config = SimulationConfig.model_validate({"federation": settings})
    return Pilot(config, TASKS)


def constant(adapter: nn.Module, value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(t, value) for name, t in adapter.state_dict().items()}


@pytest.mark.parametrize(
    ("form", "denominator"),
    [("literal", 2 + 4 + 1), ("normalised", 2 + 4 * 2 / 3 + 1 * 1 / 3)],
)
def test_equation_12_by_hand(form: str, denominator: float) -> None:
    """Own [2, 0], n 2; neighbours [3, -2], n 4, w 2/3 and [1, 2], n 1, w 1/3; start [1, -2].

    Numerator: 2·[2, 0] + 4·2/3·[3, -2] + 1·1/3·[1, 2] = [37/3, -14/3]. The literal form divides
    by 7 and so shrinks the public start along with the differences that are sent.
    """
    state = ClientState({"a": torch.tensor([2.0]), "b": torch.tensor([[0.0]])})
    sealed = SealedSum(
        vector_sum=np.array([4 * 1 * 2 + 1 * 0.5 * 0, 4 * 1 * 0 + 1 * 0.5 * 4], np.float32),
        sum_nu=4 * 1 + 1 * 0.5,
        sum_u=1.5,
        sum_n=5,
        num_contributors=2,
    )
    start = {"a": torch.tensor([1.0]), "b": torch.tensor([[-2.0]])}
    pilot(eq12=form).absorb_personal(state, sealed, worker(start), 2)
    assert state.text_adapter["a"].item() == pytest.approx(37 / 3 / denominator)
    assert state.text_adapter["b"].item() == pytest.approx(-14 / 3 / denominator)
    assert state.text_adapter["b"].shape == (1, 1)


@pytest.mark.parametrize("form", ["literal", "normalised"])
def test_equation_12_without_neighbours_changes_nothing(form: str) -> None:
    state = ClientState({"a": torch.tensor([2.0, 5.0])})
    sealed = SealedSum(np.zeros(2, np.float32), sum_nu=0.0, sum_u=0.0, sum_n=0, num_contributors=0)
    start = {"a": torch.tensor([1.0, 1.0])}
    pilot(eq12=form).absorb_personal(state, sealed, worker(start), 2)
    assert state.text_adapter["a"].tolist() == [2.0, 5.0]


def clear_updates(values: dict[str, tuple[int, list[float], list[float]]]) -> dict[str, Any]:
    return {
        client: ClearUpdate(
            run_id="run",
            round=1,
            stage=1,
            sender=client,
            recipient=SERVER,
            num_samples=samples,
            vectors={
                "task_adapter": vector_bytes(np.array(task, np.float32)),
                "text_adapter": vector_bytes(np.array(text, np.float32)),
            },
        )
        for client, (samples, task, text) in values.items()
    }


def clear_parameters(**changes: Any) -> AggregationParameters:
    cohort = ("a", "b", "c")
    task = SumSpec(id="task", vector="task_adapter", recipient=SERVER, contributors=("a", "b"))
    text = [
        SumSpec(id=f"text.{c}", vector="text_adapter", recipient=c, contributors="selected")
        for c in cohort
    ]
    fields = {
        "run_id": "run",
        "round": 1,
        "stage": 1,
        "roster": bytes(32),
        "cohort": cohort,
        "sums": (task, *text),
        "vector_lengths": {"task_adapter": 2, "text_adapter": 2},
        "clip": {"task_adapter": 8.0, "text_adapter": 8.0},
        "max_samples": 8,
        "threshold": 2,
        "max_colluders": 0,
        "min_contributors": 2,
        "num_neighbours": 2,
    }
    return AggregationParameters.build(**{**fields, **changes})


VALUES = {
    "a": (1, [1.0, 2.0], [0.0, 0.0]),
    "b": (3, [5.0, -2.0], [3.0, 4.0]),
    "c": (2, [9.0, 9.0], [0.0, 2.0]),
}


def test_equations_10_to_12_in_clear_by_hand() -> None:
    """a's distances: 5 to b, 2 to c, so u = 2/5 for b and 1 for c (Eq. 11); n b 3, n c 2."""
    results = aggregate_in_clear(clear_parameters(), clear_updates(VALUES), None)
    assert {tuple(vector_from_bytes(r["means"]["task"])) for r in results.values()} == {(4.0, -1.0)}
    assert results["a"]["row"] == {"b": 5.0, "c": 2.0}
    assert results["a"]["neighbours"] == ("b", "c")
    personal = results["a"]["personal"]
    np.testing.assert_allclose(
        vector_from_bytes(personal.vector_sum), [3 * 0.4 * 3, 3 * 0.4 * 4 + 2 * 1 * 2], rtol=1e-5
    )
    assert personal.sum_nu == pytest.approx(3 * 0.4 + 2)
    assert personal.sum_u == pytest.approx(1.4)
    assert (personal.sum_n, personal.num_contributors) == (5, 2)
    assert results["b"]["weights"]["a"] == pytest.approx(0.4, abs=1e-6)
    assert results["c"]["weights"]["a"] == 1.0


def test_the_nearest_alone_is_the_neighbour_of_m_1() -> None:
    results = aggregate_in_clear(clear_parameters(num_neighbours=1), clear_updates(VALUES), None)
    assert results["a"]["neighbours"] == ("c",)
    assert results["b"]["neighbours"] == ("c",)  # sqrt(13) away, a is 5
    assert results["a"]["weights"] == {"c": 1.0}


def test_a_replayed_selection_takes_the_place_of_distances() -> None:
    replayed = {"a": {"b": 0.5, "gone": 1.0}, "b": {}, "c": {"a": 1.0}}
    results = aggregate_in_clear(clear_parameters(), clear_updates(VALUES), replayed)
    fixed_step = 8.0 * 8 / (2**19 / 2 - 2)  # max_samples · clip / levels
    vector = vector_from_bytes(results["a"]["personal"].vector_sum)
    np.testing.assert_allclose(vector, [3 * 0.5 * 3, 3 * 0.5 * 4], atol=fixed_step)
    assert results["a"]["neighbours"] == ("b",)
    assert results["b"]["personal"] is None
    assert results["b"]["weights"] == {"a": 0.5}


def test_too_few_contributors_leave_the_mean_out() -> None:
    alone = {name: VALUES[name] for name in ("a", "c")}
    results = aggregate_in_clear(clear_parameters(), clear_updates(alone), {}, 2)
    assert results["a"]["means"] == {"task": None}
    results = aggregate_in_clear(clear_parameters(), clear_updates(alone), None)
    assert tuple(vector_from_bytes(results["c"]["means"]["task"])) == (1.0, 2.0)


def test_own_mean_becomes_the_task_adapter_and_others_are_kept_for_stage_2() -> None:
    method, lent = pilot(), worker()
    state = ClientState({})
    method.begin_stage(state, 1, lent, "draw")
    assert isinstance(state.connector, TwoAdapterConnector)
    client_adapter = {k: v.clone() for k, v in state.connector.client_adapter.state_dict().items()}
    start = method.start(lent)["task_adapter"]
    size = sum(tensor.numel() for tensor in start.values())
    means = {"task.draw": np.full(size, 0.5, np.float32), "task.read": np.full(size, 2, np.float32)}
    method.absorb_means(state, means, lent, "draw")
    for name, tensor in state.connector.task_adapter.state_dict().items():
        torch.testing.assert_close(tensor, start[name] + 0.5)
    method.begin_stage(state, 2, lent, "draw")
    mixture = state.connector
    assert isinstance(mixture, MixtureConnector)
    assert mixture.other_tasks == ("read",)
    for name in start:
        own = mixture.task_adapter.state_dict()[name]
        torch.testing.assert_close(own, start[name] + 0.5)
        torch.testing.assert_close(mixture.cross_task_adapters["read"].state_dict()[name], own)
        other = mixture.other_task_adapters["read"].state_dict()[name]
        torch.testing.assert_close(other, start[name] + 2)
        assert torch.equal(mixture.client_adapter.state_dict()[name], client_adapter[name])


@pytest.mark.parametrize("stage", [1, 2])
def test_a_client_that_first_trains_later_starts_from_its_tasks_mean(stage: int) -> None:
    method, lent = pilot(), worker()
    state = ClientState({})
    start = method.start(lent)["task_adapter"]
    size = sum(tensor.numel() for tensor in start.values())
    other_alone = {"task.read": np.full(size, 2, np.float32), "task.draw": None}
    method.absorb_means(state, other_alone, lent, "draw")
    assert state.connector is None  # nothing of its own yet: the base model's
    method.absorb_means(state, {"task.draw": np.full(size, 1, np.float32)}, lent, "draw")
    method.begin_stage(state, stage, lent, "draw")
    for name, tensor in method.upload(state)["task_adapter"].items():
        torch.testing.assert_close(tensor, start[name] + 1)
    for name, tensor in state.connector.client_adapter.state_dict().items():
        assert torch.equal(tensor, start[name])


def test_a_mean_that_was_not_opened_keeps_the_previous_one() -> None:
    method, lent = pilot(), worker()
    state = ClientState({})
    method.begin_stage(state, 1, lent, "draw")
    start = method.start(lent)["task_adapter"]
    size = sum(tensor.numel() for tensor in start.values())
    first = np.full(size, 1.0, np.float32)
    method.absorb_means(state, {"task.draw": first, "task.read": first}, lent, "draw")
    method.begin_stage(state, 2, lent, "draw")
    own = constant(state.connector.task_adapter, 7.0)  # as local training leaves it
    state.connector.load_task_adapter_state(own)
    third = np.full(size, 3.0, np.float32)
    method.absorb_means(state, {"task.draw": None, "task.read": third}, lent, "draw")
    for name in start:
        assert torch.equal(state.connector.task_adapter.state_dict()[name], own[name])
        other = state.connector.other_task_adapters["read"].state_dict()[name]
        torch.testing.assert_close(other, start[name] + 3)


def test_stages_follow_the_schedule() -> None:
    assert [pilot().stages(number) for number in (1, 2, 3)] == [(1,), (2,), (2,)]
    both = pilot(schedule="both_stages")
    assert [both.stages(number) for number in (1, 2)] == [(1, 2), (1, 2)]


def test_stage_1_after_stage_2_keeps_router_and_cross_task_adapters() -> None:
    method, lent = pilot(schedule="both_stages"), worker()
    state = ClientState({})
    for stage in (1, 2):
        method.begin_stage(state, stage, lent, "draw")
    mixture = state.connector
    with torch.no_grad():
        mixture.router.weight.fill_(0.25)
    mixture.cross_task_adapters["read"].load_state_dict(constant(mixture.task_adapter, 4.0))
    mixture.load_task_adapter_state(constant(mixture.task_adapter, 5.0))
    method.begin_stage(state, 1, lent, "draw")
    again = state.connector
    assert isinstance(again, TwoAdapterConnector)
    assert all((t == 5).all() for t in again.task_adapter.state_dict().values())
    again.load_task_adapter_state(constant(again.task_adapter, 6.0))
    again.client_adapter.load_state_dict(constant(again.client_adapter, 8.0))
    method.begin_stage(state, 2, lent, "draw")
    assert state.connector is mixture
    assert (mixture.router.weight == 0.25).all()
    for part, value in (
        (mixture.cross_task_adapters["read"], 4),
        (mixture.task_adapter, 6),
        (mixture.client_adapter, 8),
    ):
        assert all((t == value).all() for t in part.state_dict().values())


def test_what_is_uploaded_is_the_task_adapter_and_the_text_adapter_alone() -> None:
    method, lent = pilot(), worker()
    text = {"a": torch.tensor([1.0])}
    state = ClientState(text)
    for stage in (1, 2):
        method.begin_stage(state, stage, lent, "draw")
        state.connector.load_task_adapter_state(constant(state.connector.task_adapter, stage))
        sent = method.upload(state)
        assert sent.keys() == {"task_adapter", "text_adapter"}
        assert sent["task_adapter"].keys() == lent.base_connector.state_dict().keys()
        assert all((t == stage).all() for t in sent["task_adapter"].values())
        assert sent["text_adapter"] is text
