"""Clients made from files: one file per client, or one file divided among several.

A file is LLaVA conversation JSON or a public dataset (`data.public`). Where a client's test is
held out of its own file, what shares an image stays together, so that no client is tested on an
image it was trained on. Every split and every draw is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from datasets import Dataset
from torch import nn

from pilot_secure.data.client_sources import ClientFiles, SplitSettings, read_sides
from pilot_secure.data.division import Group, SplitRule, divide, group_samples
from pilot_secure.data.overlap import ClientImages, ImageOverlap, find_overlaps, identities_of
from pilot_secure.data.samples import FileReport, RowLog, Sample
from pilot_secure.data.schema import COLUMNS, ClientData, client_name
from pilot_secure.data.taking import Taken, Taker
from pilot_secure.errors import DataError
from pilot_secure.metrics.grounding import parse_box

_MIN_IMAGES = 2
_NAMES_OF_TORCH = frozenset(dir(nn.ModuleDict()))
"""What no task can be called: its adapters are parts of such a module, by the task's name."""


@dataclass(frozen=True)
class LoadedClients:
    """The clients, a report on each file that was read, and the images that clients share.

    `shortages` says of each entry whose clients have fewer samples than it asks for how few.
    """

    clients: list[ClientData]
    reports: list[FileReport] = field(default_factory=list)
    overlaps: list[ImageOverlap] = field(default_factory=list)
    shortages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Pool:
    """What one client's samples are taken from, its images not looked at yet.

    Clients that are tested on the same samples have one list `test` in common.
    """

    name: str
    entry: ClientFiles
    train: list[Sample]
    test: list[Sample]
    train_log: RowLog
    test_log: RowLog
    rng: np.random.Generator


def load_clients(
    files: Sequence[ClientFiles],
    settings: SplitSettings,
    announce: Callable[[str], None] = lambda what: None,
) -> LoadedClients:
    """Read, check and divide the users' files.

    Clients are called `name` (`name-1`, `name-2`, … where a file is divided) or client-NN by
    their position. Images stay files or encoded bytes, decoded when read and as they are;
    `models.pixel_values` pads them. `announce` is told what is being done.
    Raises: DataError, naming the file, if it cannot be read or divided, or naming a client or
    task that cannot be called as it is.
    """
    names = client_names(files)
    pools: list[_Pool] = []
    for index, entry in enumerate(files):
        announce(f"reading {entry.source}")
        rng = np.random.default_rng([settings.seed, index])
        pools += _pools(entry, names[len(pools) :], settings, rng)
    taker = Taker(announce)
    tests = _tests(pools, taker)
    tested = identities_of(image for taken in tests for image in taken.images)
    unwanted = tested if settings.drop_shared_images else frozenset()
    trains = [
        taker.take(pool.train, pool.entry.samples_per_client, pool.train_log, pool.rng, unwanted)
        for pool in pools
    ]
    reports = [log.report() for log in _logs(pools)]
    for report in reports:
        report.require_at_most(settings.max_broken_share)
    clients = [_client(*parts) for parts in zip(pools, trains, tests, strict=True)]
    seen = [
        ClientImages(pool.name, pool.entry.task, train.images, test.images)
        for pool, train, test in zip(pools, trains, tests, strict=True)
    ]
    return LoadedClients(clients, reports, find_overlaps(seen), _shortages(pools, trains, tests))


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


def _pools(
    entry: ClientFiles, names: list[str], settings: SplitSettings, rng: np.random.Generator
) -> list[_Pool]:
    """One pool for each of the entry's clients, training and test apart."""
    train, test = read_sides(entry, settings)
    rule = SplitRule(entry.split_into, entry.split_by, entry.split_kind, settings.split_alpha)
    key = None if test is None else entry.split_by
    groups = group_samples(train.samples, key)
    needed = _MIN_IMAGES if test is None else 1
    parts, shares = divide(entry.source, groups, rule, rng, needed=needed)
    if test is None:
        held = [_hold_out(part, settings.test_share, rng) for part in parts]
        trains, tests = [mine for mine, _ in held], [own for _, own in held]
    else:
        trains, tests = [_flat(part) for part in parts], [test.samples] * len(parts)
        if entry.divide_test:
            tests = [_flat(part) for part in shares.divide(group_samples(test.samples, key), rng)]
    records = {id(own): _test_records(entry, own) for own in tests}
    test_log = (test or train).log
    return [
        _Pool(name, entry, mine, records[id(own)], train.log, test_log, rng)
        for name, mine, own in zip(names, trains, tests, strict=False)
    ]


def _tests(pools: Sequence[_Pool], taker: Taker) -> list[Taken]:
    """Each client's test, drawn once for clients that have it in common."""
    taken: dict[int, Taken] = {}
    for pool in pools:
        if id(pool.test) not in taken:
            count = pool.entry.test_samples
            taken[id(pool.test)] = taker.take(pool.test, count, pool.test_log, pool.rng)
    return [taken[id(pool.test)] for pool in pools]


def _flat(groups: Sequence[Group]) -> list[Sample]:
    return [sample for group in groups for sample in group]


def _hold_out(
    groups: list[Group], test_share: float, rng: np.random.Generator
) -> tuple[list[Sample], list[Sample]]:
    """Training and test samples; at least one image on each side."""
    order = rng.permutation(len(groups))
    held = min(max(1, round(test_share * len(groups))), len(groups) - 1)
    test = _flat([groups[i] for i in sorted(order[:held])])
    train = _flat([groups[i] for i in sorted(order[held:])])
    return train, test


def _logs(pools: Sequence[_Pool]) -> list[RowLog]:
    """Each log once, in the order of the files."""
    logs = [log for pool in pools for log in (pool.train_log, pool.test_log)]
    return list({id(log): log for log in logs}.values())


def _shortages(
    pools: Sequence[_Pool], trains: Sequence[Taken], tests: Sequence[Taken]
) -> list[str]:
    """One sentence for each number of samples that an entry asks for and a client has not."""
    fewest: dict[tuple[str, str, int], tuple[int, str]] = {}
    for pool, train, test in zip(pools, trains, tests, strict=True):
        asked = {"samples_per_client": (pool.entry.samples_per_client, train)}
        asked["test_samples"] = (pool.entry.test_samples, test)
        for key, (count, taken) in asked.items():
            if count is not None and len(taken.samples) < count:
                found = (len(taken.samples), pool.name)
                place = (pool.entry.source, key, count)
                fewest[place] = min(fewest.get(place, found), found)
    return [
        f"{source}: {key} is {count}, {name} has {has} (the fewest)"
        for (source, key, count), (has, name) in fewest.items()
    ]


def _client(pool: _Pool, train: Taken, test: Taken) -> ClientData:
    for side, taken, log in (("train on", train, pool.train_log), ("test", test, pool.test_log)):
        if not taken.samples:
            raise DataError(f"{log.report()}; no sample to {side} is left for {pool.name}.")
    return ClientData(
        name=pool.name,
        task=pool.entry.task,
        metric=pool.entry.scored_by,
        train=_dataset(pool.entry, train.samples),
        test=_dataset(pool.entry, test.samples),
    )


def _test_records(entry: ClientFiles, samples: list[Sample]) -> list[Sample]:
    """For captions one sample for each image and instruction, with all texts as references."""
    if entry.scored_by != "cider":
        return samples
    merged: dict[tuple[str, str], Group] = {}
    for sample in samples:
        merged.setdefault((sample.image.key, sample.instruction), []).append(sample)
    return [
        replace(group[0], references=tuple(text for sample in group for text in sample.references))
        for group in merged.values()
    ]


def _dataset(entry: ClientFiles, samples: list[Sample]) -> Dataset:
    return Dataset.from_list([_record(entry, s) for s in samples], features=COLUMNS)


def _record(entry: ClientFiles, sample: Sample) -> Mapping[str, object]:
    box = sample.box
    if box is None and entry.scored_by == "grounding_iou50":
        box = parse_box(sample.answer, entry.box_order)
    return {
        "id": sample.id,
        "image": dict(sample.image.encoded()),
        "instruction": sample.instruction,
        "answer": sample.answer,
        "references": list(sample.references),
        "box": None if box is None else list(box),
        "box_order": entry.box_order,
        "kind": entry.task,
    }
