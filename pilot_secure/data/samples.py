"""What readers of data files give: samples that name their images, and an account of the rows.

A reader opens no image. Whoever takes samples for a client (`data.client_files`) decodes the
images of these samples only, so that a draw from a million rows reads a few thousand images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pilot_secure.errors import DataError

_SHOWN_ROWS = 5


class ImageSource(Protocol):
    """An image that somebody can decode later."""

    @property
    def key(self) -> str:
        """What tells it from all other images of a run."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def encoded(self) -> Mapping[str, Any]:
        """The mapping with `path` and `bytes`, one of them None, that `datasets` stores."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file, and its name as the data file writes it."""

    path: Path
    name: str

    @property
    def key(self) -> str:
        """The path."""
        return str(self.path)

    def encoded(self) -> Mapping[str, Any]:
        """The path; the bytes stay in the file."""
        return {"path": str(self.path), "bytes": None}


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about an image with its answer; `row` counts a file's rows from 1.

    `box` is exact, (x1, y1, x2, y2) relative to the image padded to a square; `answer` writes it
    rounded. `size` is the width and height of the image that the box is for. `coco_id` is the
    image's number in COCO, where it is known. `keys` are what a split can go by.
    """

    id: str
    row: int
    image: ImageSource
    instruction: str
    answer: str
    references: tuple[str, ...]
    keys: Mapping[str, Any] = field(default_factory=dict, repr=False)
    box: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    coco_id: str | None = None


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used, its image or key, and why."""

    row: int
    image: str
    reason: str


@dataclass(frozen=True)
class FileReport:
    """What became of the rows of one file.

    `text_only` rows have no image. `examined` is how many of the others were looked at: all of
    them, or those that were drawn. `unscorable` counts answers that the client's metric cannot
    score, `shared` samples dropped because their image is in a test set.
    """

    file: Path | str
    rows: int
    text_only: int
    broken: tuple[BrokenRow, ...]
    examined: int
    unscorable: int = 0
    shared: int = 0

    @property
    def broken_share(self) -> float:
        """Broken rows among those with an image that were looked at, 0 to 1."""
        return len(self.broken) / self.examined if self.examined else 0.0

    @property
    def is_worth_telling(self) -> bool:
        """Whether anything was left out for another reason than that it was not drawn."""
        return bool(self.text_only or self.broken or self.unscorable or self.shared)

    def require_at_most(self, max_broken_share: float) -> None:
        """Raises: DataError if a larger share of the rows is broken."""
        if self.broken_share > max_broken_share:
            raise DataError(
                f"{self}; that is {self.broken_share:.1%} of the rows with an image, expected at "
                f"most max_broken_share = {max_broken_share:.1%}."
            )

    def __str__(self) -> str:
        text = f"{self.file}: {self.rows} rows, {self.text_only} without an image skipped"
        text += f", {len(self.broken)} broken skipped"
        if self.unscorable:
            text += f", {self.unscorable} answers that the metric cannot score left out"
        if self.shared:
            text += f", {self.shared} samples about images of test sets dropped"
        shown = [f"row {b.row} ({b.image}: {b.reason})" for b in self.broken[:_SHOWN_ROWS]]
        if len(self.broken) > _SHOWN_ROWS:
            shown.append(f"{len(self.broken) - _SHOWN_ROWS} more")
        return text + (": " + "; ".join(shown) if shown else "")


@dataclass
class RowLog:
    """Counts what becomes of a file's rows while it is read and samples are taken from it."""

    file: Path | str
    rows: int = 0
    text_only: int = 0
    unscorable: int = 0
    shared: int = 0
    examined: set[int] = field(default_factory=set)
    _broken: dict[int, BrokenRow] = field(default_factory=dict)

    def broken(self, row: int, name: str, reason: str) -> None:
        """Note a row that cannot be used; the first reason counts."""
        self.examined.add(row)
        self._broken.setdefault(row, BrokenRow(row, _printable(name), _printable(reason)))

    def report(self) -> FileReport:
        """What is known so far."""
        return FileReport(
            file=self.file,
            rows=self.rows,
            text_only=self.text_only,
            broken=tuple(self._broken[row] for row in sorted(self._broken)),
            examined=len(self.examined),
            unscorable=self.unscorable,
            shared=self.shared,
        )


@dataclass(frozen=True)
class Rows:
    """The samples of a file, images unseen, and the log that goes on counting."""

    samples: list[Sample]
    log: RowLog


class NoImageError(Exception):
    """A row is about text only."""


def collect(
    file: Path | str,
    rows: Iterable[tuple[int, Any]],
    convert: Callable[[int, Any], list[Sample]],
    name: Callable[[Any], str],
) -> Rows:
    """Convert numbered rows; what cannot be converted is counted.

    `convert` raises DataError for a malformed row and NoImageError for one without an image; a
    row that holds half of a character is malformed too.
    `name` says what messages call a row's image or key.
    Raises: DataError if there are no rows.
    """
    log, samples = RowLog(file), []
    for number, row in rows:
        log.rows += 1
        try:
            converted = convert(number, row)
            _require_text(converted)
            samples += converted
        except NoImageError:
            log.text_only += 1
        except DataError as error:
            log.broken(number, name(row), str(error))
    if not log.rows:
        raise DataError(f"{file}: expected at least one row.")
    return Rows(samples, log)


def _require_text(samples: Iterable[Sample]) -> None:
    """Raises: DataError if a text holds half of a character: JSON can write one, UTF-8 cannot."""
    for sample in samples:
        named = {"id": sample.id, "question": sample.instruction, "answer": sample.answer}
        named |= {f"reference {n}": text for n, text in enumerate(sample.references, start=1)}
        for name, text in named.items():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                half = f"U+{ord(text[error.start]):04X}"
                raise DataError(f"the {name} holds {half}, half of a character") from None


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
