"""The auditable bundle of a run: its messages and public facts, no adapters, metrics or secrets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilot_secure.audit.bundle import LEDGER, ROSTER, Bundle
from pilot_secure.errors import RunFolderError
from pilot_secure.files import told_in_a_sentence
from pilot_secure.transcript import HEADS, PARAMETERS, PAYLOADS, TRANSCRIPT

FILES = (TRANSCRIPT, HEADS, ROSTER, LEDGER)


@dataclass(frozen=True)
class Size:
    """What was written."""

    files: int
    bytes: int


def export(run: Path, out: Path) -> Size:
    """Copy the auditable part of a run folder into a new or empty folder.

    Raises: RunFolderError if ``run`` has no transcript, or links in the place of files, or if
    ``out`` holds something.
    """
    bundle = Bundle.open(run)
    files = copied = 0
    with told_in_a_sentence(out):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise RunFolderError(f"{out}: expected a new or empty folder.")
        for name in dict.fromkeys(_named(bundle)):
            if (run / name).is_symlink():
                raise RunFolderError(f"{run / name}: a link, expected a file of the run folder.")
            if (run / name).is_file():
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(run / name, out / name)
                files, copied = files + 1, copied + (out / name).stat().st_size
    return Size(files, copied)


def _named(bundle: Bundle) -> Iterator[str]:
    """The files that an auditor reads: what else lies beside them stays there."""
    yield from FILES
    for record in bundle.records():
        yield f"{PAYLOADS}/{record.sha256}"
        yield f"{PARAMETERS}/{record.session}"
