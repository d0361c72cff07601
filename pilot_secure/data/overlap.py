"""Images that are in one client's training data and in some client's test data.

Several datasets draw from COCO, so an image that a captioning client trains on can be one that a
grounding client is tested on. Two images are the same if their decoded pixels are, or if both are
known to be the same image of COCO; a resized or re-compressed copy without a COCO number is not
found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pilot_secure.data.images import Decoded, decode, size_text
from pilot_secure.data.samples import Sample
from pilot_secure.errors import DataError


@dataclass(frozen=True)
class ImageOverlap:
    """`images` images of a client's test, about which another (or it) has training `samples`."""

    train_client: str
    train_task: str
    test_client: str
    test_task: str
    images: int
    samples: int


@dataclass
class CheckedImages:
    """Decodes each image once, however many clients have it."""

    _decoded: dict[str, Decoded] = field(default_factory=dict)
    _faults: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._decoded) + len(self._faults)

    def identities(self, sample: Sample) -> frozenset[str]:
        """What tells the sample's image from others: its pixels, and its number in COCO.

        Raises: DataError, saying why, if the image cannot be decoded or is not of the size that
        the sample's box is for.
        """
        key = sample.image.key
        if key not in self._decoded and key not in self._faults:
            try:
                self._decoded[key] = decode(sample.image.encoded())
            except DataError as error:
                self._faults[key] = str(error)
        if key in self._faults:
            raise DataError(self._faults[key])
        size, pixel_hash = self._decoded[key]
        if sample.size is not None and sample.size != size:
            raise DataError(
                f"the image has {size_text(size)}, its box is for one of {size_text(sample.size)}"
            )
        known = {f"pixels {pixel_hash}"}
        return frozenset(known if sample.coco_id is None else known | {f"coco {sample.coco_id}"})


@dataclass(frozen=True)
class ClientImages:
    """A client's images: the identities of each training and of each test sample."""

    client: str
    task: str
    train: Sequence[frozenset[str]]
    test: Sequence[frozenset[str]]


def identities_of(images: Iterable[frozenset[str]]) -> frozenset[str]:
    """All identities of some images."""
    return frozenset(identity for image in images for identity in image)


def find_overlaps(clients: Sequence[ClientImages]) -> list[ImageOverlap]:
    """Every pair of a training client and a test client that share images."""
    testers: dict[str, set[int]] = defaultdict(set)
    for number, client in enumerate(clients):
        for identity in identities_of(client.test):
            testers[identity].add(number)
    found = []
    for trainer in clients:
        shared: dict[int, list[frozenset[str]]] = defaultdict(list)
        for image in trainer.train:
            for number in set().union(*(testers.get(identity, set()) for identity in image)):
                shared[number].append(image)
        for number, images in sorted(shared.items()):
            tester = clients[number]
            found.append(
                ImageOverlap(
                    train_client=trainer.client,
                    train_task=trainer.task,
                    test_client=tester.client,
                    test_task=tester.task,
                    images=len(set(images)),
                    samples=len(images),
                )
            )
    return found


def overlap_notes(overlaps: Sequence[ImageOverlap]) -> list[str]:
    """One sentence for each pair of tasks that share images."""
    pairs: dict[tuple[str, str], list[ImageOverlap]] = defaultdict(list)
    for overlap in overlaps:
        pairs[overlap.train_task, overlap.test_task].append(overlap)
    return [
        f"images in the training data of {train} are in the test of {test}, in {len(group)} "
        f"pair{'s' if len(group) > 1 else ''} of clients, at most {worst.images} images "
        f"({worst.samples} training samples of {worst.train_client}, tested by "
        f"{worst.test_client}); data.drop_shared_images leaves such samples out"
        for (train, test), group in sorted(pairs.items())
        for worst in [max(group, key=lambda overlap: overlap.images)]
    ]
