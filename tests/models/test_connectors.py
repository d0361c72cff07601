import copy

import pytest
import torch
from tiny_models import random_features, random_llava
from torch import nn

from pilot_secure.models import (
    MixtureConnector,
    SingleConnector,
    TwoAdapterConnector,
    base_connector,
)
from pilot_secure.models.connectors import new_adapter

STAGE1 = {"difference": 0.1}
STAGE2 = {"load_balancing": 0.1, "router_z": 0.01}


@pytest.fixture(scope="module")
def base():
    return base_connector(random_llava())


def distinct(base, seed):
    """An adapter that differs from the base connector."""
    adapter = new_adapter(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapter


def mixture(base, **options):
    others = {"captioning": distinct(base, 3), "grounding": distinct(base, 4)}
    return MixtureConnector(distinct(base, 1), distinct(base, 2), others, **options)


def connectors(base):
    return [SingleConnector(base), TwoAdapterConnector(base), mixture(base)]


def test_stage1_at_half_scale_starts_as_the_base_connector(base):
    features = random_features()
    torch.testing.assert_close(TwoAdapterConnector(base)(features), base(features))
    doubled = TwoAdapterConnector(base, init_scale=1.0)(features)
    torch.testing.assert_close(doubled, 2 * base(features))


def test_new_adapters_share_no_storage_with_the_base(base):
    before = {k: v.clone() for k, v in base.state_dict().items()}
    connector = TwoAdapterConnector(base)
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


def test_mixture_is_equation_5_and_6(base):
    connector, features = mixture(base), random_features()
    gates = (features @ connector.router.weight.T + connector.router.bias).softmax(-1)
    expected = connector.client_adapter(features)
    expected = expected + gates[..., [0]] * connector.task_adapter(features)
    for gate, task in ((1, "captioning"), (2, "grounding")):
        psi_i, psi_c = connector.other_task_adapters[task], connector.cross_task_adapters[task]
        expected = expected + gates[..., [gate]] * (psi_i(features) + psi_c(features))
    torch.testing.assert_close(connector(features), expected)


def test_cross_task_adapters_start_as_the_task_adapter_or_at_random(base):
    own = mixture(base)
    for adapter in own.cross_task_adapters.values():
        for name, value in adapter.state_dict().items():
            assert torch.equal(value, own.task_adapter.state_dict()[name])
    first = mixture(base, cross_task_init="random", seed=5)
    same = mixture(base, cross_task_init="random", seed=5)
    weight = "cross_task_adapters.grounding.linear_1.weight"
    assert torch.equal(first.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], own.state_dict()[weight])


def test_random_cross_task_adapters_are_bounded_as_new_linear_layers_are():
    """By the weight's fan-in, the bias too: here four times the length of the first bias."""
    base = nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 64))
    crossing = MixtureConnector(base, base, {"grounding": base}, cross_task_init="random")
    first, _, second = crossing.cross_task_adapters["grounding"]
    for linear, bound in ((first, 64**-0.5), (second, 16**-0.5)):
        for parameter in (linear.weight, linear.bias):
            assert 0.8 * bound < parameter.abs().max() <= bound


def test_losses_come_per_sample_and_only_when_weighted(base):
    features = random_features(batch=3)
    stage1, stage2 = TwoAdapterConnector(base), mixture(base)
    assert stage1.forward_with_losses(features, {}).losses == {}
    assert stage1.forward_with_losses(features, {"difference": 0.0}).losses == {}
    losses = stage1.forward_with_losses(features, STAGE1).losses
    assert {k: v.shape for k, v in losses.items()} == {"difference": (3,)}
    losses = stage2.forward_with_losses(features, STAGE2).losses
    assert {k: v.shape for k, v in losses.items()} == {"load_balancing": (3,), "router_z": (3,)}
    alone = stage2.forward_with_losses(features[1:2], STAGE2).losses
    torch.testing.assert_close(alone["router_z"], losses["router_z"][1:2])


@pytest.mark.parametrize("index", range(3))
def test_forward_is_the_same_with_and_without_losses(base, index):
    connector, features = connectors(base)[index], random_features()
    with_losses = connector.forward_with_losses(features, {**STAGE1, **STAGE2}).image_tokens
    assert torch.equal(connector(features), with_losses)


EXPECTED_PARTS = [
    {"task_adapter"},
    {"task_adapter", "client_adapter"},
    {"task_adapter", "cross_task_adapters", "router"},
]


@pytest.mark.parametrize(("index", "parts"), list(enumerate(EXPECTED_PARTS)))
def test_a_step_moves_exactly_the_stages_own_parts(base, index, parts):
    connector = connectors(base)[index]
    trained = connector.train_own_parts()
    before = {k: v.clone() for k, v in connector.state_dict().items()}
    optimiser = torch.optim.SGD(trained.values(), 0.1)
    out = connector.forward_with_losses(random_features(), {**STAGE1, **STAGE2})
    (out.image_tokens.square().mean() + sum(v.mean() for v in out.losses.values())).backward()
    optimiser.step()
    moved = {k for k, v in connector.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == set(trained)
    assert {name.split(".")[0] for name in moved} == parts


@pytest.mark.parametrize("index", range(3))
def test_deepcopy_after_a_forward_is_independent(base, index):
    connector, features = connectors(base)[index], random_features()
    before = connector.forward_with_losses(features, {**STAGE1, **STAGE2}).image_tokens
    twin = copy.deepcopy(connector)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(connector(features), before)
    assert not torch.equal(twin(features), before)


def test_only_the_task_adapter_is_sent(base):
    connector = mixture(base)
    sent = connector.task_adapter_state()
    assert set(sent) == set(base.state_dict())
    connector.load_task_adapter_state({k: v + 1 for k, v in sent.items()})
    for name, value in connector.task_adapter_state().items():
        torch.testing.assert_close(value, sent[name] + 1)


def test_new_means_of_other_tasks_replace_only_those_named(base):
    connector = mixture(base)
    caption = connector.other_task_adapters["captioning"].state_dict()
    before = {k: v.clone() for k, v in caption.items()}
    mean = {k: torch.ones_like(v) for k, v in before.items()}
    connector.load_other_task_adapters({"grounding": mean})
    grounding = connector.other_task_adapters["grounding"].state_dict()
    assert all(torch.equal(v, mean[k]) for k, v in grounding.items())
    assert all(torch.equal(caption[k], before[k]) for k in before)
    with pytest.raises(KeyError):
        connector.load_other_task_adapters({"unknown": mean})


def test_state_dict_round_trip_and_readable_names(base):
    connector, other = mixture(base), mixture(base, cross_task_init="random", seed=9)
    expected = {f"router.{tensor}" for tensor in ("weight", "bias")}
    for adapter in (
        *("task_adapter", "client_adapter"),
        *("other_task_adapters.captioning", "other_task_adapters.grounding"),
        *("cross_task_adapters.captioning", "cross_task_adapters.grounding"),
    ):
        expected |= {f"{adapter}.{name}" for name in base.state_dict()}
    assert set(connector.state_dict()) == expected
    other.load_state_dict(connector.state_dict())
    assert torch.equal(other(random_features()), connector(random_features()))


def test_a_mixture_of_one_task_is_refused(base):
    with pytest.raises(ValueError, match="at least one other task"):
        MixtureConnector(base, base, {})
