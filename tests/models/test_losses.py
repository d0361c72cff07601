import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot_secure.models import (
    difference_loss,
    load_balancing_loss,
    router_z_loss,
    weighted_sum,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_difference_loss_is_the_printed_frobenius_norm():
    task, client = random(4, 6, 9, seed=1), random(4, 6, 9, seed=2)
    printed = torch.stack([(a.T @ b).square().sum() for a, b in zip(task, client, strict=True)])
    torch.testing.assert_close(difference_loss(task, client, normalise=False), printed)


@given(seed=st.integers(0, 2**20), tokens=st.integers(2, 8), scale=st.floats(0.1, 50))
@settings(max_examples=25, deadline=None)
def test_normalised_difference_loss_ignores_scale_and_is_bounded(seed, tokens, scale):
    task, client = random(2, tokens, 5, seed=seed), random(2, tokens, 5, seed=seed + 1)
    value = difference_loss(task, client)
    torch.testing.assert_close(value, difference_loss(scale * task, client / scale))
    assert torch.all(value >= 0) and torch.all(value <= 1 + 1e-9)


def test_orthogonal_outputs_cost_nothing_and_equal_ones_the_most():
    channels = random(1, 1, 6)
    left = torch.tensor([1.0, -1.0, 0.0, 0.0]).view(1, 4, 1) * channels
    right = torch.tensor([0.0, 0.0, 1.0, -1.0]).view(1, 4, 1) * channels
    assert difference_loss(left, right).item() == pytest.approx(0, abs=1e-9)
    assert difference_loss(left, left).item() == pytest.approx(0.25)  # two of four tokens
    line = torch.tensor([[[-1.0], [1.0]]])  # two opposite tokens: both gram matrices are ±1
    assert difference_loss(line, line).item() == pytest.approx(1)


def test_load_balancing_worked_values():
    even = torch.eye(3).repeat(2, 1)[None]  # six tokens, two to each expert
    assert load_balancing_loss(even).item() == pytest.approx(1)
    one = torch.tensor([1.0, 0.0, 0.0]).expand(1, 6, 3)
    assert load_balancing_loss(one).item() == pytest.approx(3)
    gates = torch.tensor([[[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]]])
    # shares (3/4, 1/4), a tie goes to the first; mean gates (0.45, 0.55)
    assert load_balancing_loss(gates).item() == pytest.approx(2 * (0.75 * 0.45 + 0.25 * 0.55))


def test_router_z_worked_value():
    logits = torch.tensor([[[0.0, 0.0, 0.0], [math.log(2), math.log(3), 0.0]]])
    expected = (math.log(3) ** 2 + math.log(6) ** 2) / 2
    assert router_z_loss(logits).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [load_balancing_loss, router_z_loss])
def test_no_sample_changes_anothers_loss(loss):
    values = random(3, 5, 4).softmax(-1)
    changed = values.clone()
    changed[1] = random(5, 4, seed=9).softmax(-1)
    before, after = loss(values), loss(changed)
    assert before[1] != after[1]
    assert torch.equal(before[[0, 2]], after[[0, 2]])


def test_weighted_sum_is_per_sample_and_needs_every_weight():
    losses = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0])}
    assert weighted_sum(losses, {"a": 2, "b": 0.1}).tolist() == [3.0, 6.0]
    assert weighted_sum({}, {}) == 0.0
    with pytest.raises(KeyError):
        weighted_sum(losses, {"a": 1.0})
