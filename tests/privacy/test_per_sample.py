"""Per-sample gradients and norms from one backward pass, against a loop over samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pilot_secure.errors import FederationError
from pilot_secure.privacy.per_sample import GradientNorms, KeptGradients


class Mlp(nn.Module):
    """Two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Linear(6, width), nn.Linear(width, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh()).square().flatten(1).sum(dim=1)


def loop(model: nn.Module, batch: Tensor) -> list[list[Tensor]]:
    """Each sample's gradients by itself."""
    return [
        list(torch.autograd.grad(model(row[None]).sum(), list(model.parameters()))) for row in batch
    ]


@pytest.mark.parametrize("positions", [None, 2, 40])
def test_kept_gradients_are_those_of_each_sample(positions: int | None) -> None:
    model = Mlp(20)
    batch = torch.randn(4, 6) if positions is None else torch.randn(4, positions, 6)
    expected = loop(model, batch)
    hooks = KeptGradients(model, loss_reduction="sum")
    hooks.backward(model(batch))
    for parameter, found in zip(model.parameters(), zip(*expected, strict=True), strict=True):
        assert torch.allclose(parameter.grad_sample, torch.stack(found), rtol=1e-4, atol=1e-5)
        assert parameter.grad is None  # nobody needs the batch's
    hooks.cleanup()


@pytest.mark.parametrize("positions", [None, 2, 40])  # norms from inputs, positions, gradients
def test_the_clipped_sum_is_that_of_gradients_clipped_one_by_one(positions: int | None) -> None:
    model = Mlp(20)
    batch = torch.randn(4, 6) if positions is None else torch.randn(4, positions, 6)
    expected = loop(model, batch)
    norms = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in expected])
    clip = float(norms.median()) * 1.01
    assert norms.min() < clip < norms.max()
    factors = (clip / norms).clamp(max=1.0)
    hooks = GradientNorms(model, loss_reduction="sum", max_grad_norm=clip)
    for _again in range(2):
        hooks.backward(model(batch))
        hooks.clipped_sums()
        assert torch.allclose(hooks.per_sample_gradient_norms, norms, rtol=1e-4)
        for place, parameter in enumerate(model.parameters()):
            summed = sum(f * row[place] for f, row in zip(factors, expected, strict=True))
            assert torch.allclose(parameter.grad, summed, rtol=1e-4, atol=1e-4)
    hooks.cleanup()


def test_an_output_that_is_changed_in_place_is_refused() -> None:
    """Its gradient is that of the changed one, or none: neither is the layer's."""
    model = Mlp(20)
    hooks = KeptGradients(model, loss_reduction="sum")
    hidden = model.one(torch.randn(4, 3, 6))
    early = hidden.sum(dim=(1, 2))
    hidden *= 2.0
    with pytest.raises(FederationError, match="changed in place"):
        hooks.backward(early + model.two(hidden).sum(dim=(1, 2)))
    hooks.cleanup()


def test_norms_of_a_layer_that_is_used_twice_are_refused() -> None:
    model = Mlp(6)
    hooks = GradientNorms(model, loss_reduction="sum", max_grad_norm=1.0)
    hooks.backward(model(torch.randn(4, 40, 6)))
    with pytest.raises(NotImplementedError, match="tying"):
        model.one(model.one(torch.randn(4, 40, 6)))
    hooks.cleanup()
