"""Private steps: per-sample gradients as a loop finds them, noise of the right size, and nothing
else moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pilot_secure.config import ModelConfig, SimulationConfig, TrainingConfig
from pilot_secure.errors import FederationError
from pilot_secure.federation.methods import Local, Pilot
from pilot_secure.federation.plan import ProximalTerm
from pilot_secure.federation.state import ClientState
from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.models import Connector, text_adapter_parameters
from pilot_secure.privacy.dp_sgd import PrivateUpdate
from pilot_secure.privacy.noise import ProtectiveNoise
from pilot_secure.privacy.planning import ExampleNoise
from pilot_secure.run_data import load_data
from protocols.entropy import DeterministicEntropy

MODES = ["hooks", "ghost"]
ROWS = [0, 1, 2, 4, 6]
BATCH = 4


@pytest.fixture(scope="module")
def worker(tiny_base: Path) -> Worker:
    model = ModelConfig(base=str(tiny_base), lora_rank=2)
    return Worker(model, TrainingConfig(batch_size=BATCH), seed=0)


@pytest.fixture(scope="module")
def samples(worker: Worker) -> Samples:
    """Answers of unlike length: captions."""
    config = SimulationConfig.model_validate(
        {
            "data": {"samples_per_client": 7, "test_samples": 1, "clients_per_task": 1},
            "federation": {"num_neighbours": 2},
        }
    )
    return worker.encode(load_data(config)[0][1])


def parts(worker: Worker, stage: int) -> tuple[Connector, list[nn.Parameter]]:
    """A stage's connector in training, every trained tensor away from zero, and these."""
    method = Local if stage == 0 else Pilot
    state = ClientState(worker.initial_text_adapter())
    for reached in range(1, stage + 1) if stage else (1,):
        method(SimulationConfig(), ("one", "two", "three")).begin_stage(
            state, reached, worker, "two"
        )
    connector = worker._put_in_place(state)
    text = list(text_adapter_parameters(worker.model).values())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in text:  # B begins at zero, which hides A's gradients
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    worker.model.train()
    connector.train()
    return connector, [*text, *connector.train_own_parts().values()]


def update_of(
    worker: Worker,
    connector: Connector,
    trained: list[nn.Parameter],
    *,
    mode: Any = "hooks",
    noise: float = 1e-12,
    clip: float = 0.5,
    rate: float = 1.0,
    pull: float = 0.0,
) -> PrivateUpdate:
    return PrivateUpdate(
        [worker.model, connector],
        torch.optim.SGD(trained, lr=rate),
        ProximalTerm(pull, trained),
        ExampleNoise(noise, clip, BATCH, mode),
        ProtectiveNoise(DeterministicEntropy(b"test")),
    )


def loop(
    worker: Worker,
    connector: Connector,
    samples: Samples,
    trained: list[nn.Parameter],
    rows: list[int],
) -> list[torch.Tensor]:
    """The flat gradient of each sample by itself."""
    gradients = []
    for row in rows:
        loss = worker.losses(connector, samples, [row])["total"].sum()
        found = torch.autograd.grad(loss, trained)
        gradients.append(torch.cat([g.flatten() for g in found]))
    return gradients


def flat(trained: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_step_is_the_sum_of_gradients_clipped_one_by_one(
    worker: Worker, samples: Samples, stage: int, mode: str
) -> None:
    """All auxiliary losses on; divided by the expected batch size, not the drawn one."""
    connector, trained = parts(worker, stage)
    gradients = loop(worker, connector, samples, trained, ROWS)
    norms = torch.stack([g.norm() for g in gradients])
    clip = float(norms.median())
    assert norms.min() < clip < norms.max()
    expected = sum(g * min(1.0, clip / float(g.norm())) for g in gradients) / BATCH
    before = flat(trained)
    with update_of(worker, connector, trained, mode=mode, clip=clip) as update:
        update.step(worker.losses(connector, samples, ROWS)["total"])
    moved = before - flat(trained)
    assert (moved - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_the_noise_has_the_stated_size(worker: Worker, samples: Samples, mode: str) -> None:
    connector, trained = parts(worker, 1)
    plain_before = flat(trained)
    with update_of(worker, connector, trained, mode=mode) as update:
        update.step(worker.losses(connector, samples, ROWS)["total"])
    plain = plain_before - flat(trained)
    connector, trained = parts(worker, 1)
    before = flat(trained)
    with update_of(worker, connector, trained, mode=mode, noise=3.0, clip=0.5) as update:
        update.step(worker.losses(connector, samples, ROWS)["total"])
    noise = (before - flat(trained) - plain) * BATCH / (3.0 * 0.5)
    count = len(noise)
    assert abs(float(noise.mean())) < 5 / math.sqrt(count)
    assert float(noise.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * count))


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_is_noise_alone(worker: Worker, mode: str) -> None:
    connector, trained = parts(worker, 2)
    before = flat(trained)
    with update_of(worker, connector, trained, mode=mode, noise=2.0) as update:
        update.step(None)
    noise = (before - flat(trained)) * BATCH / (2.0 * 0.5)
    assert float(noise.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * len(noise)))
    assert update.steps == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_proximal_pull_is_neither_clipped_nor_noised(worker: Worker, mode: str) -> None:
    connector, trained = parts(worker, 0)
    update = update_of(worker, connector, trained, mode=mode, pull=0.5)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(1.0)
    before = flat(trained)
    with update:
        update.step(None)
    assert (before - flat(trained)).numpy() == pytest.approx(0.5, abs=1e-5)


def test_batches_are_poisson_samples(worker: Worker) -> None:
    connector, trained = parts(worker, 0)
    with update_of(worker, connector, trained) as update:
        batches = [rows for _ in range(500) for rows in update.batches(10)]
    assert len(batches) == 500 * 3  # ceil(10 / 4) steps an epoch
    counts = np.bincount(np.concatenate(batches).astype(int), minlength=10) / len(batches)
    assert counts == pytest.approx(0.4, abs=5 * math.sqrt(0.4 * 0.6 / len(batches)))
    sizes = np.array([len(rows) for rows in batches])
    assert sizes.var() == pytest.approx(10 * 0.4 * 0.6, rel=0.2)  # a fixed size has none
    assert any(not rows for rows in batches) and all(len(set(r)) == len(r) for r in batches)


def test_hooks_are_gone_afterwards(worker: Worker, samples: Samples) -> None:
    connector, trained = parts(worker, 1)
    modules = [m for root in (worker.model, connector) for m in root.modules()]

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._backward_hooks) for m in modules]

    before = hooks()
    for mode in MODES:
        with update_of(worker, connector, trained, mode=mode) as update:
            assert sum(hooks()) > sum(before) + 10
            update.step(worker.losses(connector, samples, ROWS)["total"])
        assert hooks() == before
    assert not any(hasattr(p, "grad_sample") for m in modules for p in m.parameters())


def test_a_step_that_moves_another_weight_is_noticed(worker: Worker) -> None:
    connector, trained = parts(worker, 1)
    base = dict(worker.model.named_parameters())
    name = next(n for n in base if "embed_tokens" in n)
    for wrong in (base[name], connector.task_adapter.linear_1.weight):
        optimizer = torch.optim.SGD([p for p in trained if p is not wrong], lr=1.0)
        stepped = optimizer.step

        def step(wrong: torch.Tensor = wrong, stepped: Any = stepped) -> None:
            stepped()
            with torch.no_grad():
                wrong.mul_(1.0)

        optimizer.step = step  # type: ignore[method-assign]
        kept = [p for p in trained if p is not wrong]
        wrong.requires_grad_(False)
        update = PrivateUpdate(
            [worker.model, connector],
            optimizer,
            ProximalTerm(0.0, kept),
            ExampleNoise(1.0, 1.0, BATCH),
            ProtectiveNoise(DeterministicEntropy(b"test")),
        )
        with pytest.raises(FederationError, match="moved .*, which is not trained"), update:
            update.step(None)


def test_a_change_behind_torchs_back_is_noticed_at_the_end(worker: Worker) -> None:
    connector, trained = parts(worker, 1)
    weight = dict(worker.model.named_parameters())
    frozen = next(p for n, p in weight.items() if "embed_tokens" in n)
    kept = frozen.detach().clone()
    update = update_of(worker, connector, trained, noise=1.0)
    with pytest.raises(FederationError, match="moved weights of the base model"), update:
        update.step(None)
        frozen.data[0, 0] += 1.0
    frozen.data.copy_(kept)


def test_a_trained_weight_that_stays_is_noticed(worker: Worker) -> None:
    """A LoRA matrix that the optimiser does not hold."""
    connector, trained = parts(worker, 1)
    update = PrivateUpdate(
        [worker.model, connector],
        torch.optim.SGD(trained[1:], lr=1.0),
        ProximalTerm(0.0, trained),
        ExampleNoise(1.0, 1.0, BATCH),
        ProtectiveNoise(DeterministicEntropy(b"test")),
    )
    with pytest.raises(FederationError, match="lora_A"), update:
        update.step(None)


def test_a_trainable_weight_that_nobody_trains_is_refused(worker: Worker) -> None:
    connector, trained = parts(worker, 1)
    with pytest.raises(FederationError, match="are to be trained"):
        update_of(worker, connector, trained[1:])
