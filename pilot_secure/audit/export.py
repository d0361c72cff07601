"""The auditable bundle of a run: its messages and public facts, no adapters, metrics or secrets."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pilot_secure.audit.bundle import LEDGER, PUBLIC, ROSTER, Bundle
from pilot_secure.errors import RunFolderError
from pilot_secure.files import told_in_a_sentence
from pilot_secure.transcript import HEADS, PARAMETERS, PAYLOADS, TRANSCRIPT

FILES = (TRANSCRIPT, HEADS, ROSTER, LEDGER, PUBLIC)
FOLDERS = (PAYLOADS, PARAMETERS)


@dataclass(frozen=True)
class Size:
    """What was written."""

    files: int
    bytes: int


def export(run: Path, out: Path) -> Size:
    """Copy the auditable part of a run folder into a new or empty folder.

    Raises: RunFolderError if ``run`` has no transcript, or ``out`` holds something.
    """
    Bundle.open(run)
    with told_in_a_sentence(out):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise RunFolderError(f"{out}: expected a new or empty folder.")
        for name in FILES:
            if (run / name).is_file():
                shutil.copyfile(run / name, out / name)
        for name in FOLDERS:
            if (run / name).is_dir():
                shutil.copytree(run / name, out / name)
    files = [path for path in out.rglob("*") if path.is_file()]
    return Size(len(files), sum(path.stat().st_size for path in files))
