"""Clients made from files: one file per client, or one file divided among several.

What shares an image stays together, in a split among clients as in the split into training and
test samples, so that no client is tested on an image it was trained on. Every split is a function
of the seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from torch import nn

from pilot_secure.data.conversations import FileReport, Sample, read_conversations
from pilot_secure.data.schema import COLUMNS, ClientData, client_name
from pilot_secure.errors import DataError
from pilot_secure.metrics import can_score
from pilot_secure.metrics.grounding import parse_box

Group = list[Sample]

_DRAWS = 1000
_MIN_IMAGES = 2
_NAMES_OF_TORCH = frozenset(dir(nn.ModuleDict()))
"""What no task can be called: its adapters are parts of such a module, by the task's name."""


@dataclass(frozen=True)
class ClientFiles:
    """Where one client's data lie, or those of `split_into` clients of one task.

    `train` is divided among the clients: evenly at random, or, given `split_by`, by a Dirichlet
    draw for each value of that key of the rows. Without `test`, a share of each client's images
    is held out; with it, each of these clients is tested on the whole file. `box_order` says in
    which order answers write boxes.
    """

    task: str
    metric: str
    train: Path
    images: Path
    test: Path | None = None
    name: str | None = None
    split_into: int = 1
    split_by: str | None = None
    box_order: str = "xyxy"


@dataclass(frozen=True)
class SplitSettings:
    """How files are divided: held-out share, Dirichlet concentration, limit on broken rows."""

    test_share: float = 0.2
    split_alpha: float = 0.5
    max_broken_share: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class LoadedClients:
    """The clients, and a report on each file that was read."""

    clients: list[ClientData]
    reports: list[FileReport] = field(default_factory=list)


def load_clients(files: Sequence[ClientFiles], settings: SplitSettings) -> LoadedClients:
    """Read, check and divide the users' files.

    Clients are called `name` (`name-1`, `name-2`, … where a file is divided) or client-NN by
    their position. Images stay files, decoded when read and as they are; `models.pixel_values`
    pads them.
    Raises: DataError, naming the file, if it cannot be read or divided, or naming a client or
    task that cannot be called as it is.
    """
    names = client_names(files)
    loaded = LoadedClients([])
    for index, entry in enumerate(files):
        rng = np.random.default_rng([settings.seed, index])
        samples, report = _read(entry, entry.train, settings)
        loaded.reports.append(report)
        fixed_test: Group | None = None
        if entry.test is not None:
            fixed_test, report = _read(entry, entry.test, settings)
            loaded.reports.append(report)
        for groups in divide(entry, _by_image(samples), settings, rng):
            name = names[len(loaded.clients)]
            train, test = _hold_out(entry, groups, fixed_test, settings.test_share, rng)
            loaded.clients.append(_client(name, entry, train, test))
    return loaded


def client_names(files: Sequence[ClientFiles]) -> list[str]:
    """The names of all clients, in order.

    Raises: DataError if two are alike, or if a task cannot be called as it is.
    """
    names: list[str] = []
    for entry in files:
        if entry.task in _NAMES_OF_TORCH:
            raise DataError(
                f"data.clients: task is `{entry.task}`, expected another name: torch modules "
                "have this one themselves."
            )
        for part in range(1, entry.split_into + 1):
            name = entry.name or client_name(len(names) + 1)
            if entry.name and entry.split_into > 1:
                name = f"{entry.name}-{part}"
            if name in names:
                raise DataError(
                    f"data.clients: two clients would be called `{name}`, expected a `name` of "
                    "its own for each entry."
                )
            names.append(name)
    return names


def _read(
    entry: ClientFiles, file: Path, settings: SplitSettings
) -> tuple[list[Sample], FileReport]:
    """A file's samples whose answers the metric can score."""
    samples, report = read_conversations(
        file, entry.images, max_broken_share=settings.max_broken_share
    )
    scorable = [s for s in samples if can_score(entry.metric, s.answer, entry.box_order)]
    report = replace(report, unscorable=len(samples) - len(scorable))
    if not scorable:
        raise DataError(f"{report}; expected answers that {entry.metric} can score.")
    return scorable, report


def divide(
    entry: ClientFiles, groups: list[Group], settings: SplitSettings, rng: np.random.Generator
) -> list[list[Group]]:
    """Divide groups of samples among `entry.split_into` clients.

    Raises: DataError if a client would get too few images to train (and, without a test file,
    to test), or if no row has the key to split by.
    """
    needed = 1 if entry.test is not None else _MIN_IMAGES
    parts = entry.split_into
    if len(groups) < parts * needed:
        raise DataError(
            f"{entry.train}: {len(groups)} usable images for {parts} client"
            f"{'s' if parts > 1 else ''}, expected at least {needed} for each."
        )
    if entry.split_by is None:
        order = rng.permutation(len(groups))
        return [[groups[i] for i in order[part::parts]] for part in range(parts)]
    values = _by_value(entry, groups, entry.split_by)
    for _ in range(_DRAWS):
        drawn = _dirichlet(values, parts, settings.split_alpha, rng)
        if min(len(part) for part in drawn) >= needed:
            return drawn
    raise DataError(
        f"{entry.train}: a Dirichlet split by `{entry.split_by}` with split_alpha "
        f"{settings.split_alpha} leaves one of {parts} clients fewer than {needed} images; "
        "expected a larger split_alpha, fewer clients or more images."
    )


def _by_image(samples: Sequence[Sample]) -> list[Group]:
    groups: dict[Path, Group] = {}
    for sample in samples:
        groups.setdefault(sample.image, []).append(sample)
    return list(groups.values())


def _by_value(entry: ClientFiles, groups: list[Group], key: str) -> list[list[Group]]:
    """Groups by the value that their first row has under `key`, in order of appearance."""
    values: dict[Hashable, list[Group]] = {}
    for group in groups:
        values.setdefault(str(group[0].keys.get(key)), []).append(group)
    if not any(key in group[0].keys for group in groups):
        raise DataError(f"{entry.train}: split_by is {key!r}, expected a key that rows have.")
    return list(values.values())


def _dirichlet(
    values: list[list[Group]], parts: int, alpha: float, rng: np.random.Generator
) -> list[list[Group]]:
    """For each value, shares of the clients ~ Dirichlet(alpha), cut at their running sums."""
    drawn: list[list[Group]] = [[] for _ in range(parts)]
    for groups in values:
        order = rng.permutation(len(groups))
        shares = rng.dirichlet(np.full(parts, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(groups)).astype(int)
        for part, indices in zip(drawn, np.split(order, cuts), strict=True):
            part.extend(groups[i] for i in indices)
    return drawn


def _hold_out(
    entry: ClientFiles,
    groups: list[Group],
    fixed_test: Group | None,
    test_share: float,
    rng: np.random.Generator,
) -> tuple[Group, Group]:
    """Training and test samples; at least one image on each side."""
    if fixed_test is not None:
        return [sample for group in groups for sample in group], fixed_test
    order = rng.permutation(len(groups))
    held = min(max(1, round(test_share * len(groups))), len(groups) - 1)
    test = [sample for i in sorted(order[:held]) for sample in groups[i]]
    train = [sample for i in sorted(order[held:]) for sample in groups[i]]
    return train, test


def _client(name: str, entry: ClientFiles, train: Group, test: Group) -> ClientData:
    if entry.metric == "cider":
        test = _merge_captions(test)
    return ClientData(
        name=name,
        task=entry.task,
        metric=entry.metric,
        train=_dataset(entry, train),
        test=_dataset(entry, test),
    )


def _merge_captions(samples: Group) -> Group:
    """One test sample for each image and instruction, with all captions as its references."""
    merged: dict[tuple[Path, str], Group] = {}
    for sample in samples:
        merged.setdefault((sample.image, sample.instruction), []).append(sample)
    return [
        Sample(
            **{
                **vars(group[0]),
                "references": tuple(text for sample in group for text in sample.references),
            }
        )
        for group in merged.values()
    ]


def _dataset(entry: ClientFiles, samples: Group) -> Dataset:
    return Dataset.from_list([_record(entry, s) for s in samples], features=COLUMNS)


def _record(entry: ClientFiles, sample: Sample) -> Mapping[str, object]:
    grounding = entry.metric == "grounding_iou50"
    box = parse_box(sample.answer, entry.box_order) if grounding else None
    return {
        "id": sample.id,
        "image": {"path": str(sample.image), "bytes": None},
        "instruction": sample.instruction,
        "answer": sample.answer,
        "references": list(sample.references),
        "box": None if box is None else list(box),
        "box_order": entry.box_order,
        "kind": entry.task,
    }
