"""Losses of Pilot, one value per sample, so that no sample's gradient depends on another's.

Source: Xiong et al., "Pilot: Building the Federated Multimodal Instruction Tuning Framework",
AAAI 2025. B samples, N image tokens, D channels, T experts (tasks).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def difference_loss(
    task_tokens: Tensor, client_tokens: Tensor, *, normalise: bool = True
) -> Tensor:
    """How much the task adapter's and the client adapter's outputs share: ‖x_tᵀ x_s‖²_F.

    Source: Eq. 3-4. Both arguments [B, N, D]; returns [B].

    Deviation: with ``normalise`` the tokens of each adapter are centred over the image, each is
    divided by its length, and the norm by N², which bounds it by 1; as printed, the value grows
    with N² and the scale of the activations and drowns the cross-entropy at λ0 = 0.1.

    Computed as ⟨A Aᵀ, B Bᵀ⟩: N × N products instead of D × D.
    """
    if normalise:
        task_tokens, client_tokens = _unit_rows(task_tokens), _unit_rows(client_tokens)
    task_gram = task_tokens @ task_tokens.transpose(1, 2)
    client_gram = client_tokens @ client_tokens.transpose(1, 2)
    norm = (task_gram * client_gram).sum((1, 2))
    return norm / task_tokens.shape[1] ** 2 if normalise else norm


def _unit_rows(tokens: Tensor) -> Tensor:
    return F.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)


def load_balancing_loss(gates: Tensor) -> Tensor:
    """T · Σ_i D_i P_i, least when the tokens of an image spread evenly over the experts.

    Source: Eq. 7. gates: probabilities [B, N, T]; D_i is the share of tokens whose largest gate
    is i (no gradient), P_i the mean gate of i. Returns [B]; 1 for an even spread, at most T.
    """
    experts = gates.shape[-1]
    shares = F.one_hot(gates.argmax(-1), experts).to(gates.dtype).mean(1)
    return experts * (shares * gates.mean(1)).sum(-1)


def router_z_loss(router_logits: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the router's logits, which keeps them small.

    Source: Eq. 8. router_logits: [B, N, T]. Returns [B].
    """
    return router_logits.logsumexp(-1).square().mean(-1)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor | float:
    """Σ weight · loss over the losses that are there, per sample; 0.0 if there is none.

    Raises KeyError for a loss without a weight.
    """
    terms = [weights[name] * loss for name, loss in losses.items()]
    return torch.stack(terms).sum(0) if terms else 0.0
