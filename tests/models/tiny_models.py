"""Random models of the smallest size, for tests that need shapes and gradients, not skill."""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration

from pilot_secure.models.tiny import build_model


def random_llava(seed: int = 0) -> LlavaForConditionalGeneration:
    """An untrained LLaVA with one block of 32 channels on either side, frozen.

    The connector's weights are drawn larger than a fresh model's, so that outputs depend on the
    image visibly.
    """
    model = build_model(hidden=32, layers=1, heads=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.train(False)
    return model.requires_grad_(False)


def random_features(batch: int = 3, tokens: int = 36, channels: int = 32, seed: int = 1):
    return torch.randn(batch, tokens, channels, generator=torch.Generator().manual_seed(seed))
