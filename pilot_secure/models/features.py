"""Vision features, computed once per image.

The vision tower is frozen, so its features of an image never change. ``FeatureCache`` keeps them
for as long as a run lasts; connector and language model then start from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn

from pilot_secure.data.images import expand_to_square, mean_colour
from pilot_secure.models.base import vision_features


def pixel_values(processor: Any, images: list[Image.Image]) -> Tensor:
    """Preprocess images, padded to squares with the processor's mean colour. [B, 3, H, W]."""
    image_processor = processor.image_processor
    colour = mean_colour(image_processor.image_mean)
    squares = [expand_to_square(image, colour) for image in images]
    values: Tensor = image_processor(images=squares, return_tensors="pt")["pixel_values"]
    return values


class FeatureCache:
    """Vision features of whole datasets, kept on the CPU.

    A dataset costs rows × N × C values in the tower's precision: 18 KiB an image for the tiny
    model, 1.1 MiB for LLaVA-1.5 in bf16. Datasets are told apart by their fingerprint, that is by
    content and history, so a dataset that was filtered or shuffled is computed anew.
    """

    def __init__(self, model: nn.Module, processor: Any, *, batch_size: int = 64) -> None:
        self._model, self._processor, self._batch_size = model, processor, batch_size
        self._features: dict[str, Tensor] = {}

    def features(
        self, dataset: Dataset, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Features of the column ``image``, in the dataset's order: [len(dataset), N, C].

        ``progress`` is called with (images done, images in all).
        """
        key = dataset._fingerprint
        if key not in self._features:
            self._features[key] = self._compute(dataset, progress)
        return self._features[key]

    def _compute(self, dataset: Dataset, progress: Callable[[int, int], None] | None) -> Tensor:
        parts = []
        for start in range(0, len(dataset), self._batch_size):
            images = dataset[start : start + self._batch_size]["image"]
            pixels = pixel_values(self._processor, list(images))
            parts.append(vision_features(self._model, pixels).cpu())
            if progress:
                progress(start + len(images), len(dataset))
        if not parts:
            raise ValueError("a dataset without rows has no features")
        return torch.cat(parts)
