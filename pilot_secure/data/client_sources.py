"""Reading the data that clients are made from: both sides of an entry of `data.clients`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pilot_secure.data.conversations import read_conversations
from pilot_secure.data.division import SplitKind
from pilot_secure.data.public import FORMATS, DatasetFormat, HubTables, OfficialFiles
from pilot_secure.data.samples import Rows
from pilot_secure.errors import DataError
from pilot_secure.metrics import can_score


@dataclass(frozen=True)
class ClientFiles:
    """Where one client's data lie, or those of `split_into` clients of one task.

    `format` is `llava` or a key of `data.public.FORMATS`, read from `train` and `images` or, in
    its Hub layout, from `hub`. `train` is divided among the clients: evenly at random, or, given
    `split_by`, by that key of the rows as `split_kind` says (`data.division`). Without a test
    (no `test` file, no test splits), a share of each client's images is held out. With one, each
    of these clients is tested on all of it or, with `divide_test`, on its own part.
    `samples_per_client` and `test_samples` draw that many at random. `box_order` says in which
    order answers write boxes.
    """

    task: str
    metric: str | None = None
    train: Path | None = None
    images: Path | None = None
    test: Path | None = None
    name: str | None = None
    format: str = "llava"
    hub: str | None = None
    train_splits: tuple[str, ...] | None = None
    test_splits: tuple[str, ...] | None = None
    instances: Path | None = None
    coco_ids: Path | None = None
    split_into: int = 1
    split_by: str | None = None
    split_kind: SplitKind = "dirichlet"
    divide_test: bool = False
    samples_per_client: int | None = None
    test_samples: int | None = None
    box_order: str = "xyxy"

    @property
    def scored_by(self) -> str:
        """The metric: as given, or the format's own."""
        return self.metric or FORMATS[self.format].metric

    @property
    def source(self) -> str:
        """What messages call the training data."""
        return str(self.train or self.hub)


@dataclass(frozen=True)
class SplitSettings:
    """How files are divided: held-out share, Dirichlet concentration, limit on broken rows.

    `drop_shared_images` leaves out training samples about images of any client's test.
    """

    test_share: float = 0.2
    split_alpha: float = 0.5
    max_broken_share: float = 0.05
    drop_shared_images: bool = False
    seed: int = 0


def read_sides(entry: ClientFiles, settings: SplitSettings) -> tuple[Rows, Rows | None]:
    """Training and test rows that the metric can score; no test where one is held out."""
    if entry.format == "llava":
        train, test = _read_conversations(entry)
    else:
        read = _read_hub if entry.hub is not None else _read_official
        train, test = read(entry, FORMATS[entry.format])
    train = _scorable(entry, train, settings)
    return train, None if test is None else _scorable(entry, test, settings)


def _read_conversations(entry: ClientFiles) -> tuple[Rows, Rows | None]:
    images = entry.images or Path()
    train = read_conversations(entry.train or Path(), images)
    return train, None if entry.test is None else read_conversations(entry.test, images)


def _read_official(entry: ClientFiles, known: DatasetFormat) -> tuple[Rows, Rows | None]:
    """Without a test file, the test splits of the training file, if the format has any."""
    files = OfficialFiles(
        annotations=entry.train or Path(),
        images=entry.images or Path(),
        splits=_chosen(entry.train_splits, known.train_splits),
        instances=entry.instances,
        coco_ids=entry.coco_ids,
    )
    train = known.read_files(files)
    splits = _chosen(entry.test_splits, known.test_splits)
    if entry.test is None and not splits:
        return train, None
    test = replace(files, annotations=entry.test or files.annotations, splits=splits)
    return train, known.read_files(test)


def _read_hub(entry: ClientFiles, known: DatasetFormat) -> tuple[Rows, Rows | None]:
    splits = _chosen(entry.train_splits, known.hub_train_splits)
    tables = HubTables(entry.hub or "", splits, entry.coco_ids)
    train = known.read_hub(tables)
    test = replace(tables, splits=_chosen(entry.test_splits, known.hub_test_splits))
    return train, known.read_hub(test) if test.splits else None


def _chosen(given: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return default if given is None else given


def _scorable(entry: ClientFiles, rows: Rows, settings: SplitSettings) -> Rows:
    """The rows whose answers the metric can score.

    Raises: DataError if too many are malformed already, or if none is left.
    """
    scorable = [s for s in rows.samples if can_score(entry.scored_by, s.answer, entry.box_order)]
    rows.log.unscorable += len(rows.samples) - len(scorable)
    report = rows.log.report()
    expected = replace(report, examined=report.rows - report.text_only)
    expected.require_at_most(settings.max_broken_share)
    if rows.samples and not scorable:
        raise DataError(f"{report}; expected answers that {entry.scored_by} can score.")
    if not scorable:
        raise DataError(f"{report}; expected at least one usable row.")
    return Rows(scorable, rows.log)
