"""Connectors: what stands between the frozen vision tower and the language model.

Each is a drop-in for the base model's connector (``forward``: features [B, N, C] to image tokens
[B, N, D]); ``forward_with_losses`` gives the auxiliary losses along with the same tokens. An
*adapter* is a copy of the base connector: two linear layers with an activation between them.
Nothing is kept on ``self`` between calls, so a connector can be deep-copied at any time.

Source: Xiong et al., AAAI 2025, Eq. 1-8. psi_t, psi_1: task adapter; psi_s: client adapter;
psi_i: another task's adapter; psi_c,i: cross-task adapter; P: gates.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pilot_secure.models.losses import difference_loss, load_balancing_loss, router_z_loss

TASK_ADAPTER = "task_adapter"


class ConnectorOutput(NamedTuple):
    """Image tokens [B, N, D], and unweighted losses [B] by name."""

    image_tokens: Tensor
    losses: dict[str, Tensor]


def new_adapter(base: nn.Module, *, scale: float = 1.0) -> nn.Module:
    """A trainable copy of a connector whose output is ``scale`` times as large, at every place."""
    adapter = copy.deepcopy(base).requires_grad_(True)
    with torch.no_grad():
        for part in _parts(adapter):
            for parameter in _linears(part)[-1].parameters():
                parameter.mul_(scale)
    return adapter


def _parts(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _linears(part: nn.Module) -> list[nn.Linear]:
    return [module for module in part.modules() if isinstance(module, nn.Linear)]


def part_at(module: nn.Module, place: int) -> nn.Module:
    """What of an adapter or router stands at a place."""
    return module[place] if isinstance(module, nn.ModuleList) else module


class Connector(nn.Module, ABC):
    """A connector with a task adapter, the one part of it that is ever sent.

    ``trained_parts`` names the children that its stage trains.
    """

    trained_parts: tuple[str, ...] = (TASK_ADAPTER,)
    task_adapter: nn.Module

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, N, C] to image tokens [B, N, D]."""
        return self.forward_with_losses(features, {}).image_tokens

    def forward_with_losses(
        self, features: Tensor, weights: Mapping[str, float]
    ) -> ConnectorOutput:
        """The same tokens, and each auxiliary loss with a weight other than zero, unweighted."""
        return self.at(0, features, weights)

    @abstractmethod
    def at(self, place: int, features: Tensor, weights: Mapping[str, float]) -> ConnectorOutput:
        """As ``forward_with_losses``, at one place."""

    def train_own_parts(self) -> dict[str, nn.Parameter]:
        """Switch gradients on for the stage's own parts and off for the rest.

        Returns the trained parameters by their names in the state dict.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in self.trained_parts)
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def task_adapter_state(self) -> dict[str, Tensor]:
        """The task adapter's tensors, detached. Secrecy: leaves the client only masked."""
        return {k: v.detach().clone() for k, v in self.task_adapter.state_dict().items()}

    def load_task_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Put other values into the task adapter, in place."""
        self.task_adapter.load_state_dict(dict(state))


class SingleConnector(Connector):
    """One adapter alone: the connector of methods that have no client adapter."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.task_adapter = new_adapter(base)

    def at(self, place: int, features: Tensor, weights: Mapping[str, float]) -> ConnectorOutput:
        """psi(H), without losses."""
        return ConnectorOutput(part_at(self.task_adapter, place)(features), {})


class TwoAdapterConnector(Connector):
    """Stage 1: x = psi_t(H) + psi_s(H), both from the base connector.

    Source: Eq. 1-2. ``init_scale`` shrinks both outputs at the start: at 1 (the paper) their sum
    is twice the tokens that the language model knows, at 0.5 it equals them.
    """

    trained_parts = (TASK_ADAPTER, "client_adapter")

    def __init__(
        self, base: nn.Module, *, init_scale: float = 0.5, normalise_difference: bool = True
    ) -> None:
        super().__init__()
        self.task_adapter = new_adapter(base, scale=init_scale)
        self.client_adapter = new_adapter(base, scale=init_scale)
        self.normalise_difference = normalise_difference

    def at(self, place: int, features: Tensor, weights: Mapping[str, float]) -> ConnectorOutput:
        """Eq. 1-2, and the loss ``difference`` (Eq. 3-4)."""
        task_tokens = part_at(self.task_adapter, place)(features)
        client_tokens = part_at(self.client_adapter, place)(features)
        losses = {}
        if weights.get("difference"):
            losses["difference"] = difference_loss(
                task_tokens, client_tokens, normalise=self.normalise_difference
            )
        return ConnectorOutput(task_tokens + client_tokens, losses)


class MixtureConnector(Connector):
    """Stage 2, cross-task mixture of adapters: x = x_t + psi_s(H), with

    x_t = P[1] psi_1(H) + Σ_{i≥2} P[i] (psi_i(H) + psi_c,i(H)),  P = softmax(router(H)) per token.

    Source: Eq. 5-6. Trains psi_1, the cross-task adapters and the router; psi_s and the other
    tasks' adapters psi_i are frozen. One cross-task adapter per other task, initialised from
    psi_1 (``cross_task_init="random"``: the ablation of Table 6), or none (``cross_task_adapter``
    false, an ablation of Table 3: x_t = Σ P[i] psi_i(H)). Gate 0 belongs to psi_1, the
    others follow ``other_tasks``.
    """

    trained_parts = (TASK_ADAPTER, "cross_task_adapters", "router")

    def __init__(
        self,
        task_adapter: nn.Module,
        client_adapter: nn.Module,
        other_task_adapters: Mapping[str, nn.Module],
        *,
        cross_task_init: Literal["task_adapter", "random"] = "task_adapter",
        cross_task_adapter: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not other_task_adapters:
            raise ValueError("a mixture of adapters needs at least one other task")
        self.task_adapter = copy.deepcopy(task_adapter)
        self.client_adapter = copy.deepcopy(client_adapter)
        self.other_task_adapters = nn.ModuleDict(
            {task: copy.deepcopy(adapter) for task, adapter in other_task_adapters.items()}
        )
        crossing = {task: copy.deepcopy(task_adapter) for task in other_task_adapters}
        self.cross_task_adapters = nn.ModuleDict(crossing if cross_task_adapter else {})
        routers = [self._new_router(part) for part in _parts(task_adapter)]
        several = isinstance(task_adapter, nn.ModuleList)
        self.router = nn.ModuleList(routers) if several else routers[0]
        self._initialise(cross_task_init, seed)

    @property
    def other_tasks(self) -> tuple[str, ...]:
        """The other tasks, in the order of their gates."""
        return tuple(self.other_task_adapters)

    def _new_router(self, part: nn.Module) -> nn.Linear:
        first = _linears(part)[0]
        return nn.Linear(first.in_features, 1 + len(self.other_task_adapters)).to(first.weight)

    def _initialise(self, cross_task_init: str, seed: int) -> None:
        """A near-even router, and random cross-task adapters where asked for."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for router in _linears(self.router):
                router.weight.copy_(torch.randn(router.weight.shape, generator=generator) * 0.02)
                router.bias.zero_()
            if cross_task_init == "random":
                for linear in _linears(self.cross_task_adapters):
                    bound = linear.in_features**-0.5  # of the bias too, as ``nn.Linear`` starts
                    for parameter in (linear.weight, linear.bias):
                        values = torch.rand(parameter.shape, generator=generator)
                        parameter.copy_((2 * values - 1) * bound)

    def at(self, place: int, features: Tensor, weights: Mapping[str, float]) -> ConnectorOutput:
        """Eq. 5-6, and the losses ``load_balancing`` (Eq. 7) and ``router_z`` (Eq. 8)."""
        router_logits = part_at(self.router, place)(features)  # [B, N, T]
        gates = router_logits.softmax(-1)
        tokens = gates[..., :1] * part_at(self.task_adapter, place)(features)
        for expert, task in enumerate(self.other_tasks, 1):
            crossed = part_at(self.other_task_adapters[task], place)(features)
            if task in self.cross_task_adapters:
                crossed = crossed + part_at(self.cross_task_adapters[task], place)(features)
            tokens = tokens + gates[..., expert : expert + 1] * crossed
        losses = {}
        if weights.get("load_balancing"):
            losses["load_balancing"] = load_balancing_loss(gates)
        if weights.get("router_z"):
            losses["router_z"] = router_z_loss(router_logits)
        return ConnectorOutput(tokens + part_at(self.client_adapter, place)(features), losses)

    def load_other_task_adapters(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put the newest means of other tasks in place; tasks that are not named keep theirs."""
        for task, state in states.items():
            self.other_task_adapters[task].load_state_dict(dict(state))
