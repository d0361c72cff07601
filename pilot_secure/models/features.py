"""Vision features, computed once per image.

The vision tower is frozen, so its features of an image never change. ``FeatureCache`` keeps them
for as long as a run lasts; connector and language model then start from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import datasets
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


class ImageFeatures:
    """Features of a dataset's rows, [rows, N, C]; rows about one image share its features."""

    def __init__(self, images: list[Tensor], rows: Tensor) -> None:
        self._images, self._rows = images, rows

    @staticmethod
    def joined(parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """The rows of several datasets, one after the other, all from one cache."""
        (images,) = {id(part._images): part._images for part in parts}.values()
        return ImageFeatures(images, torch.cat([part._rows for part in parts]))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, N and C."""
        return len(self), *self._images[0].shape

    def __getitem__(self, rows: slice | list[int]) -> Tensor:
        """Features of some rows, in their order: [len(rows), N, C], copied."""
        return torch.stack([self._images[i] for i in self._rows[rows].tolist()])


class FeatureCache:
    """What ``encode`` makes of whole datasets' images, kept on the CPU, once for each image.

    By default that is the vision tower's features, as the connector is given them.

    An image costs N × C values in the tower's precision: 18 KiB for the tiny model, 1.1 MiB for
    LLaVA-1.5 in bf16. Images are told apart by their path or, where a dataset holds their bytes,
    by these; what several rows or datasets share is computed and kept once.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        encode: Callable[[nn.Module, Tensor], Tensor] = vision_features,
        batch_size: int = 64,
    ) -> None:
        self._model, self._processor, self._batch_size = model, processor, batch_size
        self._encode = encode
        self._images: list[Tensor] = []
        self._places: dict[Hashable, int] = {}
        self._datasets: dict[str, ImageFeatures] = {}

    def features(
        self, dataset: Dataset, progress: Callable[[int, int], None] | None = None
    ) -> ImageFeatures:
        """Features of the column ``image``, in the dataset's order: [len(dataset), N, C].

        ``progress`` is called with (new images done, new images in all).
        Raises: ValueError for a dataset without rows.
        """
        if not len(dataset):
            raise ValueError("a dataset without rows has no features")
        fingerprint = dataset._fingerprint
        if fingerprint not in self._datasets:
            keys = _image_keys(dataset)
            new: dict[Hashable, int] = {}
            for row, key in enumerate(keys):
                if key not in self._places:
                    new.setdefault(key, row)
            self._add(dataset, list(new.items()), progress)
            places = torch.tensor([self._places[key] for key in keys])
            self._datasets[fingerprint] = ImageFeatures(self._images, places)
        return self._datasets[fingerprint]

    def _add(
        self,
        dataset: Dataset,
        new: list[tuple[Hashable, int]],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Compute the features of images, given as (key, row), batch by batch."""
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            images = dataset[[row for _key, row in batch]]["image"]
            pixels = pixel_values(self._processor, list(images))
            for (key, _row), image in zip(
                batch, self._encode(self._model, pixels).cpu(), strict=True
            ):
                self._places[key] = len(self._images)
                self._images.append(image)
            if progress:
                progress(start + len(batch), len(new))


def _image_keys(dataset: Dataset) -> list[Hashable]:
    """What tells the images of rows apart, without decoding them."""
    column = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return [
        image["path"]
        if image["bytes"] is None
        else hashlib.blake2b(image["bytes"], digest_size=16).digest()
        for image in column["image"]
    ]
