"""Per-sample gradients and their clipped sum, in one backward pass.

Opacus attaches full backward hooks, which cost more than what they compute for modules as small as
a LoRA's, and lets autograd compute the batch's weight gradients that nobody needs. Here autograd is
asked for the gradients at the outputs of the trained modules and for nothing else; Opacus's own
functions make per-sample gradients (`KeptGradients`) or norms (`GradientNorms`) of them. The
clipped sum follows from what is at hand, so norms take no second pass either.

Source: Bu et al., "Differentially Private Optimization on Large Model at Small Cost" (ICML 2023),
the book-keeping technique.
"""

from __future__ import annotations

from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from opacus.grad_sample.functorch import prepare_layer
from torch import Tensor, nn

from pilot_secure.errors import FederationError


class _OneBackward:
    """Opacus's hooks without its backward hooks; :meth:`backward` gives them what these would."""

    hooks_enabled: bool
    autograd_grad_sample_hooks: list[Any]

    def add_hooks(self: Any, **_options: object) -> None:
        """Note activations and outputs in the forward pass."""
        self._outputs: list[tuple[nn.Module, Tensor, int]] = []
        self.autograd_grad_sample_hooks = self._module.autograd_grad_sample_hooks = []
        for module in self.iterate_submodules(self._module):
            if type(module) not in self.GRAD_SAMPLERS:
                prepare_layer(module, batch_first=True)
            handle = module.register_forward_hook(self.capture_activations_hook)
            self.autograd_grad_sample_hooks.append(handle)
        self.enable_hooks()

    def capture_activations_hook(
        self: Any, module: nn.Module, given: list[Tensor], output: Tensor
    ) -> None:
        """Note the inputs, as Opacus does, and the output."""
        before = len(getattr(module, "activations", ()))
        super().capture_activations_hook(module, given, output)  # type: ignore[misc]
        if len(getattr(module, "activations", ())) > before:
            self._outputs.append((module, output, output._version))

    def backward(self: Any, losses: Tensor) -> None:
        """Take the losses [B] back to every noted output, the last one first.

        Raises: FederationError for an output that was changed in place, whose gradient is lost.
        """
        noted, self._outputs = self._outputs, []
        if any(output._version != version for _, output, version in noted):
            raise FederationError(
                "private training: a trained layer's output was changed in place."
            )
        gradients = torch.autograd.grad(losses.sum(), [output for _, output, _ in noted])
        for (module, *_), gradient in zip(reversed(noted), reversed(gradients), strict=True):
            self.take(module, gradient)

    def take(self: Any, module: nn.Module, gradient: Tensor) -> None:
        """Hand Opacus the gradient of one output."""
        self.capture_backprops_hook(
            module, None, (gradient,), loss_reduction="sum", batch_first=True
        )


class KeptGradients(_OneBackward, GradSampleHooks):  # type: ignore[misc]
    """Leaves every sample's gradient in ``grad_sample``."""


class GradientNorms(_OneBackward, GradSampleHooksFastGradientClipping):  # type: ignore[misc]
    """Computes norms alone; :meth:`clipped_sums` leaves the clipped sum in ``grad``.

    For linear layers, each used once in a forward pass. A layer's norms come from products of its
    T positions, or from its samples' gradients, one layer's at a time, where these are smaller:
    Bu, Mao and Xu, "Scalable and Efficient Training of Large Convolutional Neural Networks with
    Differential Privacy" (NeurIPS 2022), section 4, as it is for a LoRA.
    """

    def backward(self, losses: Tensor) -> None:
        """Also keep the inputs and output gradients that the sums are made of."""
        self._factors: list[tuple[nn.Linear, Tensor, Tensor]] = []
        super().backward(losses)

    def take(self, module: nn.Module, gradient: Tensor) -> None:
        """Keep what the layer's gradient is made of, and its norms."""
        assert isinstance(module, nn.Linear)
        self._factors.append((module, module.activations[-1][0], gradient))  # type: ignore[index]
        positions = gradient.shape[1] if gradient.dim() == 3 else 1
        self.use_ghost_clipping = 2 * positions**2 < module.weight.numel()
        super().take(module, gradient)
        self.use_ghost_clipping = True  # Opacus refuses tied layers while it is

    def clipped_sums(self) -> None:
        """Put the sum of samples' gradients, each scaled to the clip together, into ``grad``."""
        factors, noted = self.get_clipping_coef(), self._factors
        self._factors = []
        for layer, inputs, gradient in noted:
            scaled = gradient * factors.view(-1, *[1] * (gradient.dim() - 1))
            if layer.weight.requires_grad:
                flat = scaled.reshape(-1, layer.out_features)
                layer.weight.grad = flat.T @ inputs.reshape(-1, layer.in_features)
            if layer.bias is not None and layer.bias.requires_grad:
                layer.bias.grad = scaled.sum(dim=tuple(range(scaled.dim() - 1)))
