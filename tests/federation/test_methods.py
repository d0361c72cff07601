"""The rival methods: each one's update on a case worked by hand, and whole runs of each."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIX, FinishedRun, merged
from torch import nn

from pilot_secure.comparison import compare_runs
from pilot_secure.config import SimulationConfig
from pilot_secure.errors import RunFolderError
from pilot_secure.evaluate import main as evaluate
from pilot_secure.federation.methods import METHODS, Method
from pilot_secure.federation.plan import ProximalTerm
from pilot_secure.federation.state import ClientState, PersonalAdapter
from pilot_secure.models import PERSONAL, SHARED
from pilot_secure.saved_run import SavedRun
from protocols import SERVER

TASKS = {"a": "draw", "b": "draw", "c": "read"}
CLEAR = {"security": {"secure_agg": False}}


class TwoNumbers(nn.Module):
    """A connector of one weight and one bias in each of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.act, self.linear_2 = nn.Linear(1, 1), nn.Identity(), nn.Linear(1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.linear_1(features))


def worker() -> Any:
    """Start: connector [1, 2, 3, 4], text adapter [5, 6]."""
    connector = TwoNumbers()
    with torch.no_grad():
        for value, parameter in enumerate(connector.parameters(), 1):
            parameter.fill_(value)
    text = {"lora_A": torch.tensor([[5.0]]), "lora_B": torch.tensor([[6.0]])}
    return SimpleNamespace(
        initial_text_adapter=lambda: {name: t.clone() for name, t in text.items()},
        base_connector=connector,
        seed=0,
    )


def method(name: str, **settings: Any) -> Method:
    config = {"federation": {"method": name}, "methods": settings}
    return METHODS[name](SimulationConfig.model_validate(config), ("draw", "read"))


def trained(name: str, lent: Any, **settings: Any) -> tuple[Method, ClientState]:
    """A client's state whose text adapter has moved by [1, -1], its connector by 10 everywhere."""
    used = method(name, **settings)
    state = ClientState(lent.initial_text_adapter())
    used.begin_stage(state, 1, lent, "draw")
    with torch.no_grad():
        for parameter in state.connector.parameters():
            parameter.add_(10)
    state.text_adapter["lora_A"] += 1
    state.text_adapter["lora_B"] -= 1
    return used, state


def connector_values(state: ClientState) -> list[float]:
    return [float(p) for p in state.connector.task_adapter.state_dict().values()]


def text_values(state: ClientState) -> list[float]:
    return [float(tensor) for tensor in state.text_adapter.values()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("local", {}),
        ("fedavg", {"text.all": "abc", "visual.all": "abc"}),
        ("fedprox", {"text.all": "abc", "visual.all": "abc"}),
        ("fedadam", {"text.all": "abc", "visual.all": "abc"}),
        ("centralized", {}),
        ("feddpa", {"text.all": "abc", "visual.all": "abc"}),
        ("shepherd", {"text.all": "abc"}),
        (
            "task_fedavg",
            {"text.draw": "ab", "text.read": "c", "visual.draw": "ab", "visual.read": "c"},
        ),
    ],
)
def test_who_is_summed_with_whom(name: str, expected: dict[str, str]) -> None:
    sums = method(name).sums(TASKS, ("c", "a", "b"), 1)
    assert {spec.id: "".join(spec.contributors) for spec in sums} == expected
    assert {spec.recipient for spec in sums} <= {SERVER}
    vectors = {"text": "text_adapter", "visual": "connector"}
    assert all(spec.vector == vectors[spec.id.partition(".")[0]] for spec in sums)
    assert [spec.id for spec in sums] == sorted(expected)


def test_what_is_sent() -> None:
    lent = worker()
    for name in ("fedavg", "task_fedavg", "shepherd", "local"):
        used, state = trained(name, lent)
        sent = used.upload(state)
        assert sent.keys() == used.start(lent).keys()
        if "text_adapter" in sent:
            assert [float(t) for t in sent["text_adapter"].values()] == [6, 5]
        if "connector" in sent:
            assert [float(t) for t in sent["connector"].values()] == [11, 12, 13, 14]
            assert [float(t) for t in used.start(lent)["connector"].values()] == [1, 2, 3, 4]
    assert used.upload(state) == {}  # local
    assert trained("shepherd", lent)[0].start(lent).keys() == {"text_adapter"}


def test_fedavg_puts_the_mean_in_the_place_of_what_was_trained() -> None:
    """n 1 with [1, -1] and n 3 with [5, 3] have the mean [4, 2] (the aggregation's work)."""
    lent = worker()
    used, state = trained("fedavg", lent)
    means = {"text.all": np.array([4, 2], np.float32), "visual.all": np.full(4, 0.5, np.float32)}
    used.absorb_means(state, means, lent, "draw")
    assert text_values(state) == [9, 8]
    assert connector_values(state) == [1.5, 2.5, 3.5, 4.5]


def test_a_mean_that_was_not_opened_keeps_what_was_trained() -> None:
    lent = worker()
    used, state = trained("fedavg", lent)
    used.absorb_means(state, {"text.all": None, "visual.all": None}, lent, "draw")
    assert text_values(state) == [6, 5]
    assert connector_values(state) == [11, 12, 13, 14]


def test_a_client_that_has_not_trained_yet_takes_the_means() -> None:
    lent = worker()
    used, state = method("fedavg"), ClientState(lent.initial_text_adapter())
    means = {"text.all": np.array([1, 1], np.float32), "visual.all": np.ones(4, np.float32)}
    used.absorb_means(state, means, lent, "draw")
    assert connector_values(state) == [2, 3, 4, 5]
    used.begin_stage(state, 1, lent, "draw")
    assert connector_values(state) == [2, 3, 4, 5]


def test_task_fedavg_takes_its_own_tasks_mean() -> None:
    lent = worker()
    used, state = trained("task_fedavg", lent)
    means = {
        f"{kind}.{task}": np.full(size, value, np.float32)
        for kind, size in (("text", 2), ("visual", 4))
        for task, value in (("draw", 2), ("read", 7))
    }
    used.absorb_means(state, means, lent, "draw")
    assert text_values(state) == [7, 8]
    assert connector_values(state) == [3, 4, 5, 6]


def test_shepherd_keeps_its_connector() -> None:
    lent = worker()
    used, state = trained("shepherd", lent)
    used.absorb_means(state, {"text.all": np.zeros(2, np.float32)}, lent, "draw")
    assert text_values(state) == [5, 6]
    assert connector_values(state) == [11, 12, 13, 14]


def test_fedadam_by_hand() -> None:
    """β1 0.5, β2 0.75, τ 1, η 2; v₋₁ = τ² = 1.

    First Δ = 2: m = 1, v = 0.75 + 0.25·4 = 1.75, x = 2·1/(√1.75 + 1). Then the mean is 3, so
    Δ = 3 − x: m = 0.5 + 0.5 Δ, v = 0.75·1.75 + 0.25 Δ², x moves by 2 m/(√v + 1).
    """
    lent = worker()
    settings = {"server_beta1": 0.5, "server_beta2": 0.75, "server_tau": 1.0}
    used, state = trained("fedadam", lent, server_learning_rate=2.0, **settings)
    visual = np.zeros(4, np.float32)
    used.absorb_means(
        state, {"text.all": np.array([2, 0], np.float32), "visual.all": visual}, lent, "draw"
    )
    first = 2 / (1.75**0.5 + 1)
    assert text_values(state) == pytest.approx([5 + first, 6])
    assert connector_values(state) == [1, 2, 3, 4]
    used.absorb_means(
        state, {"text.all": np.array([3, 0], np.float32), "visual.all": visual}, lent, "draw"
    )
    delta = 3 - first
    v = 0.75 * 1.75 + 0.25 * delta**2
    assert text_values(state) == pytest.approx(
        [5 + first + 2 * (0.5 + 0.5 * delta) / (v**0.5 + 1), 6]
    )


def test_the_proximal_term_by_hand() -> None:
    """μ 0.5, moved by [3, -1] and [2]: 0.25·(9 + 1 + 4) = 3.5, its gradient 0.5·(θ − θ₀)."""
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([5.0]))]
    pull = ProximalTerm(0.5, parameters)
    with torch.no_grad():
        parameters[0].copy_(torch.tensor([4.0, 1.0]))
        parameters[1].copy_(torch.tensor([7.0]))
    loss = pull.loss()
    assert isinstance(loss, torch.Tensor)
    assert loss.item() == 3.5
    loss.backward()
    assert parameters[0].grad.tolist() == [1.5, -0.5]
    assert parameters[1].grad.tolist() == [1.0]
    assert ProximalTerm(0.0, parameters).loss() == 0.0


def test_only_fedprox_has_a_proximal_term() -> None:
    assert method("fedprox", proximal_weight=0.25).plan(1).proximal_weight == 0.25
    others = set(METHODS) - {"fedprox"}
    assert {method(name).plan(1).proximal_weight for name in others} == {0.0}


def feddpa(variant: str, rounds: int = 3, **more: Any) -> Method:
    settings = {"feddpa_variant": variant, **more}
    config = {"federation": {"method": "feddpa", "rounds": rounds}, "methods": settings}
    return METHODS["feddpa"](SimulationConfig.model_validate(config), ("draw", "read"))


def test_feddpa_trains_the_personal_adapter_in_or_after_the_rounds() -> None:
    during, after = feddpa("training"), feddpa("fine_tuning")
    assert [during.stages(number) for number in (1, 2, 3)] == [(1,), (2, 1), (2, 1)]
    assert [after.stages(number) for number in (1, 2, 3)] == [(1,), (1,), (1, 2)]
    assert feddpa("training", feddpa_update_weight=0.3).plan(2).personal_weight == 0.3
    assert after.plan(2).personal_weight == 1.0
    assert during.plan(1) == after.plan(1) == method("fedavg").plan(1)
    assert during.sums(TASKS, "abc", 2) == ()
    assert [spec.id for spec in during.sums(TASKS, "abc", 1)] == ["text.all", "visual.all"]


@pytest.mark.parametrize(("variant", "expected"), [("training", [5, 6]), ("fine_tuning", [6, 5])])
def test_feddpa_begins_the_personal_adapter(variant: str, expected: list[float]) -> None:
    """Afresh (T), or as the shared adapter is (F); what is sent is the shared one."""
    lent = worker()
    _, state = trained("feddpa", lent)
    used = feddpa(variant)
    used.begin_stage(state, 2, lent, "draw")
    assert [float(t) for t in state.personal.tensors.values()] == expected
    state.personal.tensors["lora_A"] += 100
    assert text_values(state) == [6, 5]
    assert [float(t) for t in used.upload(state)["text_adapter"].values()] == [6, 5]
    used.begin_stage(state, 2, lent, "draw")  # kept from round to round
    assert float(state.personal.tensors["lora_A"]) == expected[0] + 100


@pytest.mark.parametrize("weighs", ["personal", "shared"])
def test_feddpa_mixes_by_similarity_by_hand(weighs: str) -> None:
    """Cosines of [3, 4] to [1, 0] and [0, 2]: 0.6 and 0.8, mean 0.7; of [1, 0]: 1 and 0."""
    references = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    personal = PersonalAdapter({}, max_weight=0.5, weighs=weighs, references=references)
    shares = personal.shares(torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    other = {"personal": SHARED, "shared": PERSONAL}[weighs]
    own = {"personal": PERSONAL, "shared": SHARED}[weighs]
    torch.testing.assert_close(shares[own], torch.tensor([0.35, 0.25]))
    torch.testing.assert_close(shares[other], torch.tensor([0.65, 0.75]))


def adapters(run: FinishedRun, client: str) -> dict[str, torch.Tensor]:
    state = run.simulation.host.clients[client].state
    return {**state.text_adapter, **state.connector.state_dict()}


@pytest.mark.parametrize(
    "name", ["fedavg", "task_fedavg", "fedprox", "fedadam", "shepherd", "feddpa"]
)
def test_protection_does_not_change_the_model(
    name: str, run_tiny: Callable[..., FinishedRun]
) -> None:
    """The same run under masks and in the clear: adapters differ by the fixed point's rounding."""
    chosen = {
        "federation": {"method": name, "rounds": 2},
        "training": {"learning_rate_stage1": 1e-3},
    }
    secure, clear = run_tiny(SIX, chosen), run_tiny(SIX, chosen, CLEAR)
    phases = {phase.phase for phase in secure.summary.phases}
    assert {"share", "masked_input", "unmask"} <= phases
    assert not phases & {"distance_upload", "distance_reply", "select"}
    for client in ("client-01", "client-06"):
        one, other = adapters(secure, client), adapters(clear, client)
        for tensor_name, tensor in one.items():
            torch.testing.assert_close(tensor, other[tensor_name], atol=2e-3, rtol=0)
    same_task, elsewhere = adapters(secure, "client-02"), adapters(secure, "client-06")
    first = adapters(secure, "client-01")

    def equal(other: dict[str, torch.Tensor], kind: str) -> bool:
        return all(torch.equal(first[n], other[n]) for n in first if n.startswith(kind))

    assert equal(same_task, "base_model")
    assert equal(same_task, "task_adapter") is (name != "shepherd")
    assert equal(elsewhere, "base_model") is (name != "task_fedavg")


def test_fedprox_stays_nearer_to_its_start(run_tiny: Callable[..., FinishedRun]) -> None:
    def moved(name: str, **settings: float) -> float:
        chosen = {"federation": {"method": name}, "methods": settings, "data": {"test_samples": 1}}
        run = run_tiny(SIX, CLEAR, chosen, {"training": {"epochs": 2}})
        update = run.uploads[(1, 1, "client-01")]
        return sum(float((t**2).sum()) for vector in update.values() for t in vector.values())

    assert moved("fedprox", proximal_weight=50.0) < 0.5 * moved("fedavg")


def test_fedadam_takes_no_step_twice_and_misses_none(
    run_tiny: Callable[..., FinishedRun],
) -> None:
    """client-01 hears of neither delivery, client-02 too late of the first: all end up equal."""
    lost = [
        {"client": "client-01", "round": 1, "stage": 1, "phase": "clear_deliver"},
        {"client": "client-01", "round": 2, "stage": 1, "phase": "train"},
        {"client": "client-01", "round": 2, "stage": 1, "phase": "clear_deliver"},
        {"client": "client-02", "round": 1, "stage": 1, "phase": "clear_deliver", "fault": "late"},
    ]
    settings = merged(CLEAR, {"federation": {"method": "fedadam", "rounds": 3}})
    run = run_tiny(SIX, settings, {"security": {"dropouts": lost}})
    reference = adapters(run, "client-03")
    for client in ("client-01", "client-02"):
        for name, tensor in adapters(run, client).items():
            assert torch.equal(tensor, reference[name]), (client, name)


def test_methods_without_an_exchange_are_scored_once(run_tiny: Callable[..., FinishedRun]) -> None:
    run = run_tiny(SIX, {"federation": {"method": "local"}})
    assert {c.after_aggregation == c.after_local for c in run.summary.clients} == {True}
    moments = [r.moment for r in run.simulation.folder.history() if r.kind == "score"]
    assert set(moments) == {"before", "after_local"}


@pytest.mark.parametrize("variant", ["training", "fine_tuning"])
def test_feddpa_from_training_to_a_saved_run(
    variant: str, run_tiny: Callable[..., FinishedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    """The personal adapters differ, the shared ones are equal; the saved run scores the same."""
    settings = {"federation": {"method": "feddpa", "rounds": 2}, "data": {"test_samples": 4}}
    run = run_tiny(SIX, CLEAR, settings, {"methods": {"feddpa_variant": variant}})
    first, second = (run.simulation.host.clients[c].state for c in ("client-01", "client-02"))
    for name, tensor in first.text_adapter.items():
        assert torch.equal(tensor, second.text_adapter[name])
    assert any(
        not torch.equal(tensor, second.personal.tensors[name])
        for name, tensor in first.personal.tensors.items()
    )
    assert first.personal.references.shape[0] == 5
    assert {place[1] for place in run.uploads} == {1}
    assert evaluate([str(run.path)]) == 0
    assert "agrees with summary.json in all 6 scores" in capsys.readouterr().out
    saved = SavedRun.open(run.path)
    tensors, references = saved.personal_adapter("client-01")
    assert torch.equal(references, first.personal.references)
    (part,) = [p for p in compare_runs(saved, saved).adapters if p.client == "client-02"][:1]
    assert (part.part, part.max_absolute) == ("text_adapter", 0.0)
    (run.path / "adapters/client-01/personal/references.safetensors").unlink()
    with pytest.raises(RunFolderError, match="references.safetensors"):
        saved.personal_adapter("client-01")


def test_centralized_is_one_model_on_everybodys_data(
    run_tiny: Callable[..., FinishedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_tiny(SIX, CLEAR, {"federation": {"method": "centralized", "rounds": 2}})
    states = {id(client.state) for client in run.simulation.host.clients.values()}
    assert len(states) == 1
    records = [r for r in run.simulation.folder.history() if r.kind == "training"]
    steps = [(r.client, r.round, r.steps) for r in records]
    assert steps == [("client-01", 1, 18), ("client-01", 2, 18)]
    assert run.uploads == {}
    assert all(c.after_aggregation == c.after_local is not None for c in run.summary.clients)
    assert evaluate([str(run.path)]) == 0
    assert "agrees with summary.json in all 6 scores" in capsys.readouterr().out
    tensors = {c: adapters(run, c) for c in run.simulation.host.clients}
    start = run.simulation.host.worker.initial_text_adapter()
    assert not torch.equal(
        *(t[next(n for n in start if "lora_B" in n)] for t in (tensors["client-01"], start))
    )
