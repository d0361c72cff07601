"""The shapes of LLaVA-1.5 without its weights: on the meta device, or random.

Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024: CLIP ViT-L/14 at
336 pixels, features of its last layer but one, and Vicuna. The vocabulary is that of the llava-hf
checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from pilot_secure.models.base import CheckpointError, checkpoint_path, why_not_loaded

LLAVA_15: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llava-hf/llava-1.5-13b-hf": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
"""Sizes of the language models, by the hub id of the LLaVA around them."""


def llava_config(path_or_id: str | Path) -> LlavaConfig:
    """The configuration of a LLaVA-1.5 by its hub id, without a hub; else as transformers finds it.

    Raises: CheckpointError if it is found nowhere or is of another kind.
    """
    sizes = LLAVA_15.get(str(path_or_id))
    if sizes is not None:
        return LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=336,
                patch_size=14,
                projection_dim=768,
            ),
            text_config=LlamaConfig(
                vocab_size=32064, max_position_embeddings=4096, pad_token_id=32001, **sizes
            ),
            image_token_index=32000,
            image_seq_length=576,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    where = checkpoint_path(path_or_id)
    try:
        config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"model.base: expected a LLaVA checkpoint (folder or hub id), got {where!r}: "
            f"{why_not_loaded(where, error)}"
        ) from error
    if not isinstance(config, LlavaConfig):
        raise CheckpointError(
            f"model.base: expected a LLaVA checkpoint, got {where!r}: a {config.model_type}."
        )
    return config


def meta_llava(path_or_id: str | Path) -> LlavaForConditionalGeneration:
    """A LLaVA whose tensors have shapes and no storage. Raises: CheckpointError."""
    config = llava_config(path_or_id)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return model.requires_grad_(False)
