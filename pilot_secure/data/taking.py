"""Taking samples for clients: their images decoded once, broken and unwanted ones left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pilot_secure.data.overlap import CheckedImages
from pilot_secure.data.samples import RowLog, Sample
from pilot_secure.errors import DataError

_ANNOUNCED_IMAGES = 500


@dataclass(frozen=True)
class Taken:
    """Samples with usable images, and the identities of these."""

    samples: list[Sample]
    images: list[frozenset[str]]


class Taker:
    """Takes samples whose images can be decoded, at random where fewer than all are wanted."""

    def __init__(self, announce: Callable[[str], None] = lambda what: None) -> None:
        self._announce, self._images = announce, CheckedImages()

    def take(
        self,
        samples: Sequence[Sample],
        count: int | None,
        log: RowLog,
        rng: np.random.Generator,
        unwanted: frozenset[str] = frozenset(),
    ) -> Taken:
        """Up to `count` samples (None: all), in their order, without images of `unwanted`."""
        wanted = len(samples) if count is None else count
        order = range(len(samples)) if wanted >= len(samples) else rng.permutation(len(samples))
        kept: dict[int, frozenset[str]] = {}
        for index in order:
            if len(kept) == wanted:
                break
            image = self._look(samples[index], log)
            if image is not None and image & unwanted:
                log.shared += 1
            elif image is not None:
                kept[int(index)] = image
        places = sorted(kept)
        return Taken([samples[i] for i in places], [kept[i] for i in places])

    def _look(self, sample: Sample, log: RowLog) -> frozenset[str] | None:
        """The identities of a sample's image; None, noted, if it is missing or broken."""
        log.examined.add(sample.row)
        before = len(self._images)
        try:
            return self._images.identities(sample)
        except DataError as error:
            log.broken(sample.row, sample.image.name, str(error))
            return None
        finally:
            if len(self._images) > before and len(self._images) % _ANNOUNCED_IMAGES == 0:
                self._announce(f"checked {len(self._images)} images")
