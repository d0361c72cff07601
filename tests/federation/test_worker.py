"""The worker: it trains what the stage trains and nothing else, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pilot_secure.config import ModelConfig, SimulationConfig, TrainingConfig
from pilot_secure.data import ClientData, prompt_lengths
from pilot_secure.errors import DataError
from pilot_secure.federation.methods import Local, Pilot
from pilot_secure.federation.plan import TrainingPlan
from pilot_secure.federation.state import ClientState, PersonalAdapter
from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.run_data import load_data

TRAINED = {
    1: {"task_adapter", "client_adapter"},
    2: {"task_adapter", "cross_task_adapters", "router"},
}
Snapshot = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def clients() -> list[ClientData]:
    settings = {"data": {"samples_per_client": 7, "test_samples": 3, "clients_per_task": 1}}
    config = SimulationConfig.model_validate({**settings, "federation": {"num_neighbours": 2}})
    return load_data(config)[0]


@pytest.fixture(scope="module")
def make_worker(tiny_base: Path) -> Callable[..., Worker]:
    def make(seed: int = 0, **training: object) -> Worker:
        model = ModelConfig(base=str(tiny_base), lora_rank=2, max_new_tokens=2)
        return Worker(model, TrainingConfig(**{"batch_size": 3, **training}), seed=seed)

    return make


@pytest.fixture(scope="module")
def worker(make_worker: Callable[..., Worker]) -> Worker:
    return make_worker()


@pytest.fixture(scope="module")
def samples(worker: Worker, clients: list[ClientData]) -> Samples:
    return worker.encode(clients[0])


def train(worker: Worker, state: ClientState, samples: Samples, stage: int, label: str = "c/1"):
    epochs: list[tuple[int, int, dict[str, float]]] = []
    worker.train(
        state,
        samples,
        stage=stage,
        label=label,
        journal=lambda *entry: epochs.append(entry),
        progress=lambda seconds: None,
    )
    return epochs


def pilot_state(worker: Worker, stage: int) -> ClientState:
    method = Pilot(SimulationConfig(), ("one", "two", "three"))
    state = ClientState(worker.initial_text_adapter())
    for reached in range(1, stage + 1):
        method.begin_stage(state, reached, worker, "two")
    return state


def copied(state: Snapshot) -> Snapshot:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("stage", [1, 2])
def test_exactly_lora_and_the_stages_own_parts_change(
    worker: Worker, samples: Samples, stage: int
) -> None:
    state = pilot_state(worker, stage)
    frozen = {k: v for k, v in worker.model.state_dict().items() if "lora_" not in k}
    base, shared = copied(frozen), copied(worker.base_connector.state_dict())
    connector, text = copied(state.connector.state_dict()), copied(state.text_adapter)
    train(worker, state, samples, stage)
    after = {k: v for k, v in worker.model.state_dict().items() if "lora_" not in k}
    assert any("vision_tower" in name for name in base)
    assert any("lm_head" in name for name in base)
    assert changed(base, after) == set()
    assert changed(shared, worker.base_connector.state_dict()) == set()
    assert changed(text, state.text_adapter) == set(text)
    expected = {name for name in connector if name.split(".")[0] in TRAINED[stage]}
    assert changed(connector, state.connector.state_dict()) == expected
    assert expected < set(connector) or stage == 1
    assert not any(p.requires_grad for p in state.connector.parameters())


def test_training_lowers_the_loss(make_worker: Callable[..., Worker], samples: Samples) -> None:
    worker = make_worker(epochs=6)
    epochs = train(worker, pilot_state(worker, 1), samples, 1)
    assert [epoch for epoch, _steps, _losses in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1][2]["answer"] < epochs[0][2]["answer"] - 0.05


@pytest.mark.parametrize(
    "setting", [{"gradient_accumulation": 2}, {"gradient_checkpointing": True}]
)
def test_what_saves_memory_trains_the_same(
    setting: dict[str, object], make_worker: Callable[..., Worker], samples: Samples
) -> None:
    """Steps of 3, 3 and 1 samples; in parts of 2 and 1, or with activations computed twice."""
    plain, saving = make_worker(), make_worker(**setting)
    states = [pilot_state(worker, 1) for worker in (plain, saving)]
    start = copied(states[0].connector.state_dict())
    ((_, steps, losses),) = train(plain, states[0], samples, 1)
    ((_, same_steps, same_losses),) = train(saving, states[1], samples, 1)
    assert same_steps == steps == 3
    assert same_losses == pytest.approx(losses, rel=1e-4)
    moved = [state.connector.state_dict() for state in states]
    for name, value in moved[0].items():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(moved[1][name], value, rtol=0, atol=2e-4)


def test_activations_are_recomputed_where_asked(
    make_worker: Callable[..., Worker], samples: Samples
) -> None:
    def forwards(worker: Worker) -> int:
        calls = []
        layer = worker.model.get_base_model().model.language_model.layers[0].input_layernorm
        hook = layer.register_forward_hook(lambda *_: calls.append(1))
        train(worker, pilot_state(worker, 1), samples, 1)
        hook.remove()
        return len(calls)

    assert forwards(make_worker()) == 3
    assert forwards(make_worker(gradient_checkpointing=True)) == 6


def test_bf16_trains_and_answers(
    tiny_base: Path, clients: list[ClientData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base in bf16, what is trained and sent in float32."""
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # one precision a process, else
    model = ModelConfig(base=str(tiny_base), lora_rank=2, max_new_tokens=2, mixed_precision="bf16")
    worker = Worker(model, TrainingConfig(batch_size=3, epochs=6), seed=0)
    samples = worker.encode(clients[0])
    assert samples.features[:].dtype == worker.model.dtype == torch.bfloat16
    for stage in (1, 2):
        state = pilot_state(worker, stage)
        epochs = train(worker, state, samples, stage)
        assert epochs[-1][2]["answer"] < epochs[0][2]["answer"] - 0.05
        assert {t.dtype for t in state.text_adapter.values()} == {torch.float32}
        assert {t.dtype for t in state.connector.state_dict().values()} == {torch.float32}
        answers = worker.answer(state, clients[0].test)
        assert len(answers) == 3 and any(answers)


def test_label_and_seed_fix_the_result(
    make_worker: Callable[..., Worker], worker: Worker, samples: Samples
) -> None:
    def result(lent: Worker, label: str) -> Snapshot:
        state = pilot_state(lent, 1)
        train(lent, state, samples, 1, label)
        modules = {f"connector.{k}": v for k, v in state.connector.state_dict().items()}
        return {**state.text_adapter, **modules}

    first = result(worker, "c/1")
    assert changed(first, result(make_worker(), "c/1")) == set()
    assert changed(first, result(worker, "c/2")) != set()  # the label orders the samples


def test_a_client_does_not_meet_the_one_before(worker: Worker, samples: Samples) -> None:
    """One model in memory serves all: a client's adapters are its own, whoever trained before."""
    alone = pilot_state(worker, 1)
    train(worker, alone, samples, 1)
    train(worker, pilot_state(worker, 1), samples, 1, "somebody/else")
    again = pilot_state(worker, 1)
    train(worker, again, samples, 1)
    assert changed(alone.text_adapter, again.text_adapter) == set()
    assert changed(alone.connector.state_dict(), again.connector.state_dict()) == set()


def test_dropout_is_fixed_by_seed_and_label(tiny_base: Path, samples: Samples) -> None:
    """Whoever trained before in this process, and whatever drew from torch's generator."""
    model = ModelConfig(base=str(tiny_base), lora_rank=2, lora_dropout=0.5)
    settings = TrainingConfig(batch_size=len(samples))  # one batch: its order changes nothing
    worker = Worker(model, settings, seed=0)

    def result(lent: Worker, label: str = "c/1") -> Snapshot:
        state = pilot_state(worker, 1)
        lent.train(
            state,
            samples,
            stage=1,
            label=label,
            journal=lambda *entry: None,
            progress=lambda seconds: None,
        )
        return state.text_adapter

    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = result(worker)
    assert torch.equal(torch.get_rng_state(), before)  # nothing outside changes
    torch.manual_seed(6)
    somebody_else = result(worker, "c/2")
    assert changed(alone, result(worker)) == set()
    assert changed(alone, somebody_else) != set()
    assert changed(alone, result(Worker(model, settings, seed=0))) == set()
    assert changed(alone, result(Worker(model, settings, seed=1))) != set()


def test_every_sample_is_used_once_in_each_epoch(
    make_worker: Callable[..., Worker], samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, rows = make_worker(epochs=2), []
    step = worker._step

    def noted(connector, taken, batch, *rest):
        rows.append(list(batch))
        return step(connector, taken, batch, *rest)

    monkeypatch.setattr(worker, "_step", noted)
    epochs = train(worker, pilot_state(worker, 1), samples, 1)
    assert [len(batch) for batch in rows] == [3, 3, 1, 3, 3, 1]
    first, second = sum(rows[:3], []), sum(rows[3:], [])
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert [steps for _epoch, steps, _losses in epochs] == [3, 3]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_prompt_without_room_for_an_answer_is_refused(
    tiny_base: Path, clients: list[ClientData], split: str
) -> None:
    """The limit is the longest prompt's: one token more and everything fits."""
    data, tokens = clients[0], 36
    lent = Worker(ModelConfig(base=str(tiny_base), lora_rank=2), TrainingConfig(), seed=0)
    lengths = {
        name: prompt_lengths(lent.processor.tokenizer, rows["instruction"], tokens)
        for name, rows in (("train", data.train), ("test", data.test))
    }
    limit = max(*lengths["train"], *lengths["test"]) + 1

    def worker_with(max_length: int) -> Worker:
        model = ModelConfig(base=str(tiny_base), lora_rank=2, max_length=max_length)
        return Worker(model, TrainingConfig(), seed=0)

    encoded = worker_with(limit).encode(data).encoded
    assert max(len(sample.input_ids) for sample in encoded) <= limit
    asked = [*getattr(data, split)["instruction"]]
    asked[2] = " ".join(["What"] * limit)
    longer = getattr(data, split).remove_columns("instruction").add_column("instruction", asked)
    with pytest.raises(DataError) as caught:
        worker_with(limit).encode(replace(data, **{split: longer}))
    sample, sentence = longer["id"][2], str(caught.value)
    assert sentence.startswith(f"data of {data.name}: the prompt of sample {sample} has ")
    assert f"expected fewer than model.max_length = {limit}, so" in sentence


def test_learning_rates_are_each_stages_own(
    make_worker: Callable[..., Worker], samples: Samples
) -> None:
    """AdamW's first step moves by the rate: cosine 1, no warm-up, one step."""
    worker = make_worker(
        batch_size=7,
        warmup_share=0.0,
        learning_rate_stage1=1e-3,
        learning_rate_stage2=4e-3,
        connector_rate_factor=0.5,
    )
    for stage, rate in ((1, 1e-3), (2, 4e-3)):
        state = pilot_state(worker, stage)
        before = copied(state.connector.state_dict())
        train(worker, state, samples, stage)
        moved = {
            "lora": max(float(t.abs().max()) for n, t in state.text_adapter.items() if "_B" in n),
            "connector": max(
                float((t - before[n]).abs().max()) for n, t in state.connector.state_dict().items()
            ),
        }
        assert moved["lora"] == pytest.approx(rate, rel=0.01)
        assert moved["connector"] == pytest.approx(rate / 2, rel=0.01)


def test_auxiliary_losses_follow_the_stage_and_their_weights(
    make_worker: Callable[..., Worker], samples: Samples
) -> None:
    worker = make_worker(router_z_weight=0.0)
    (_epoch, _steps, first), *_ = train(worker, pilot_state(worker, 1), samples, 1)
    assert first.keys() == {"total", "answer", "difference"}
    assert first["total"] == pytest.approx(first["answer"] + 0.1 * first["difference"], rel=1e-4)
    (_epoch, _steps, second), *_ = train(worker, pilot_state(worker, 2), samples, 2)
    assert second.keys() == {"total", "answer", "load_balancing"}


def test_local_trains_its_one_adapter(worker: Worker, samples: Samples) -> None:
    method, state = Local(SimulationConfig(), ()), ClientState(worker.initial_text_adapter())
    method.begin_stage(state, 1, worker, "two")
    connector, before = state.connector, copied(state.connector.state_dict())
    train(worker, state, samples, 1)
    assert changed(before, state.connector.state_dict()) == set(before)
    method.begin_stage(state, 1, worker, "two")
    assert state.connector is connector  # kept from round to round


def test_the_bare_state_scores_the_base_model(worker: Worker, clients: list[ClientData]) -> None:
    score = worker.score(worker.bare_state(), clients[0])
    assert (score.metric, score.count) == ("vqa_accuracy", 3)
    answers = worker.answer(worker.bare_state(), clients[0].test)
    state = pilot_state(worker, 1)  # two adapters at half scale each: the base model's tokens
    assert answers == worker.answer(state, clients[0].test)


def test_a_personal_stage_trains_the_personal_adapter_alone(
    worker: Worker, samples: Samples
) -> None:
    state = pilot_state(worker, 1)
    fresh = worker.initial_text_adapter()
    state.personal = PersonalAdapter(copied(fresh), max_weight=0.5, weighs="personal")
    connector, text = copied(state.connector.state_dict()), copied(state.text_adapter)
    worker.train(
        state,
        samples,
        stage=1,
        plan=TrainingPlan(personal_weight=0.5),
        label="c/1",
        journal=lambda *entry: None,
        progress=lambda seconds: None,
    )
    assert changed(connector, state.connector.state_dict()) == set()
    assert changed(text, state.text_adapter) == set()
    assert changed(fresh, state.personal.tensors) == set(fresh)


def test_both_adapters_answer_by_their_weights(
    worker: Worker, samples: Samples, clients: list[ClientData]
) -> None:
    """With λ = 0 the adapter that is weighed is out, and the other one answers as if alone."""
    state = pilot_state(worker, 1)
    train(worker, state, samples, 1)
    trained = copied(state.text_adapter)
    other = {name: t + 0.3 if "_B" in name else t for name, t in trained.items()}

    def answers(shared: Snapshot, personal: Snapshot | None, weighs: str = "personal") -> list[str]:
        state.text_adapter, state.personal = shared, None
        if personal is not None:
            state.personal = PersonalAdapter(personal, max_weight=0.0, weighs=weighs)
            state.personal.references = worker.reference_states(state, samples, 5)
            assert state.personal.references.shape[0] == 5
        return worker.answer(state, clients[0].test)

    alone = answers(trained, None)
    assert answers(other, None) != alone
    assert answers(trained, other, "personal") == alone
    assert answers(other, trained, "shared") == alone
