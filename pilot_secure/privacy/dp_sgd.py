"""DP-SGD on whatever a stage trains: Poisson batches, per-sample clipping, noise, one step.

Per-sample gradients are Opacus's, in one of two ways: ``hooks`` keeps every sample's gradient,
``ghost`` computes norms only (Li et al. 2022); both in one backward pass
(`pilot_secure.privacy.per_sample`). Hooks are attached for one training and removed after it, since
clients share the base model.

Source: Abadi et al. 2016, Algorithm 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import torch
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from torch import Tensor, nn

from pilot_secure.errors import FederationError
from pilot_secure.privacy.noise import ProtectiveNoise
from pilot_secure.privacy.per_sample import GradientNorms, KeptGradients
from pilot_secure.privacy.planning import ExampleNoise


class Pull(Protocol):
    """The trained parameters, and a loss that depends on nothing else."""

    parameters: list[nn.Parameter]

    def loss(self) -> Tensor | float:
        """Return the loss."""
        ...


class _KeyedNoise:
    """Replaces Opacus's noise, drawn from torch's generator, by that of a keyed stream.

    All tensors are noised and divided at once, through one flat vector: of the hundred that a LoRA
    has, each costs a step some ten small operations otherwise.
    """

    noise: ProtectiveNoise

    def add_noise(self: Any) -> None:
        """Put the noised sum of clipped gradients into ``grad``."""
        deviation = self.noise_multiplier * self.max_grad_norm
        sums = [parameter.summed_grad for parameter in self.params]
        total = torch.cat([gradient.reshape(-1) for gradient in sums])
        drawn = torch.from_numpy(self.noise.normal(len(total)) * deviation)
        total += drawn.to(total)
        sizes = [parameter.numel() for parameter in self.params]
        for parameter, gradient in zip(self.params, total.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def scale_grad(self: Any) -> None:
        """Divide by the expected batch size; a step takes one batch."""
        gradients = [parameter.grad for parameter in self.params]
        torch._foreach_div_(gradients, float(self.expected_batch_size))


class _HooksOptimizer(_KeyedNoise, DPOptimizer):  # type: ignore[misc]
    """Clips samples' gradients that are kept."""

    def clip_and_accumulate(self) -> None:
        """Put the sum of samples' gradients, each scaled to the clip together, into summed_grad."""
        flat = [p.grad_sample.reshape(-1, p.numel()) for p in self.params]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in flat]).norm(dim=0)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for parameter, gradients in zip(self.params, flat, strict=True):
            parameter.summed_grad = factors @ gradients


class _GhostOptimizer(_KeyedNoise, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Takes sums of gradients that were clipped before."""

    def accumulate(self) -> None:
        """Take the gradients as they are: a step takes one batch."""
        for parameter in self.params:
            parameter.summed_grad = parameter.grad


class PrivateUpdate:
    """The private steps of one training.

    ``modules`` hold the ``trained`` parameters, and frozen ones that must not move.
    ``pull`` holds the trained parameters and the proximal term, which depends on them alone: what
    it adds after the noise costs no privacy.
    Use as a context: afterwards hooks are gone, and frozen weights have been checked bit by bit.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        pull: Pull,
        settings: ExampleNoise,
        noise: ProtectiveNoise,
    ) -> None:
        self._root = nn.ModuleList(modules)
        self._trained, self._pull = pull.parameters, pull
        self._noise, self._batch_size = noise, settings.batch_size
        self._ghost = settings.mode == "ghost"
        self._watch = MovementWatch(self._root, self._trained)
        hooks, wrapper = (
            (GradientNorms, _GhostOptimizer) if self._ghost else (KeptGradients, _HooksOptimizer)
        )
        bound = {"max_grad_norm": settings.clipping_norm} if self._ghost else {}
        self._hooks = hooks(self._root, loss_reduction="sum", **bound)
        self._optimizer = wrapper(
            optimizer,
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clipping_norm,
            expected_batch_size=settings.batch_size,
            loss_reduction="mean",
        )
        self._optimizer.noise = noise
        self.steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._hooks.cleanup()
        for parameter in self._trained:
            parameter.grad = None
        if kind is None:
            self._watch.finish()

    def batches(self, count: int) -> Iterator[list[int]]:
        """An epoch's Poisson samples of ``range(count)``, of ``batch_size`` in the mean."""
        rate = self._batch_size / count
        return (self._noise.sample(count, rate) for _ in range(math.ceil(count / self._batch_size)))

    def step(self, losses: Tensor | None) -> None:
        """Take one step on the losses [B] of a batch; None: the batch is empty, noise alone.

        Raises: FederationError if anything else moved than what is trained.
        """
        self._optimizer.zero_grad(set_to_none=True)
        if losses is None:
            self._empty_batch()
        else:
            self._hooks.backward(losses)
            if self._ghost:
                self._hooks.clipped_sums()
        self._watch.before(self._optimizer.original_optimizer)
        if self._optimizer.pre_step():
            self._add_proximal_gradient()
            self._optimizer.original_optimizer.step()
        self._watch.after()
        self.steps += 1

    def _empty_batch(self) -> None:
        for parameter in self._trained:
            if self._ghost:
                parameter.grad = torch.zeros_like(parameter)
            else:
                empty = parameter.new_zeros((0, *parameter.shape))
                parameter.grad_sample = empty  # type: ignore[attr-defined]

    def _add_proximal_gradient(self) -> None:
        value = self._pull.loss()
        if isinstance(value, Tensor):
            gradients = torch.autograd.grad(value, self._trained)
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                assert parameter.grad is not None
                parameter.grad += gradient


class MovementWatch:
    """Notices when a step moves other weights than the trained ones, or not all of these.

    Per step: the trained tensors are compared with copies, the frozen ones by torch's count of
    in-place changes; over the whole training the frozen ones by a hash of their bytes.
    """

    def __init__(self, root: nn.Module, trained: Sequence[nn.Parameter]) -> None:
        own = {id(parameter) for parameter in trained}
        parameters = dict(root.named_parameters())
        self._trained = {name: p for name, p in parameters.items() if id(p) in own}
        self._frozen: dict[str, Tensor] = {n: p for n, p in parameters.items() if id(p) not in own}
        self._frozen |= dict(root.named_buffers())
        found = {id(p) for p in root.parameters() if p.requires_grad}
        if found != own:
            raise FederationError(
                f"private training: {len(own)} tensors are to be trained, {len(found)} of the "
                "model can be: expected the same."
            )
        self._digest = self._hash()
        self._copy = torch.empty(0)
        self._versions: dict[str, int] = {}
        self._rates: dict[int, float] = {}

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the weights before a step, and the learning rate of each."""
        self._copy = torch.cat([p.detach().reshape(-1) for p in self._trained.values()])
        self._versions = {name: tensor._version for name, tensor in self._frozen.items()}
        self._rates = {
            id(parameter): float(group["lr"])
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def after(self) -> None:
        """Compare. Raises: FederationError naming a tensor."""
        for name, version in self._versions.items():
            if self._frozen[name]._version != version:
                raise FederationError(f"a private step moved {name}, which is not trained.")
        now = torch.cat([p.detach().reshape(-1) for p in self._trained.values()])
        sizes = [p.numel() for p in self._trained.values()]
        moved = [int(part.any()) for part in (now != self._copy).split(sizes)]
        if all(moved) and bool(torch.isfinite(now).all()):
            return
        places = zip(self._trained.items(), moved, self._copy.split(sizes), strict=True)
        for (name, parameter), any_moved, copy in places:
            if not torch.isfinite(parameter).all():
                raise FederationError(f"a private step made {name} infinite or undefined.")
            rate = self._rates.get(id(parameter), math.inf)
            visible = rate > 8 * torch.finfo(copy.dtype).eps * float(copy.abs().min())
            if visible and not any_moved:
                raise FederationError(f"a private step left {name} as it was: expected it to move.")

    def finish(self) -> None:
        """Compare the frozen weights with what they were in the beginning, bit by bit."""
        if self._hash() != self._digest:
            raise FederationError("private training moved weights of the base model.")

    def _hash(self) -> bytes:
        digest = hashlib.blake2b()
        for tensor in self._frozen.values():
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.digest()
