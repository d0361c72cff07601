"""A party's guard on disk: what it joined, answered or released outlives the process that did."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pilot_secure.files import make_private_folder, told_in_a_sentence, write_once


class DiskGuard:
    """One file per claim, created once and never changed (`protocols.AnswerGuard`).

    The file's name is the label's hash, its lines the label and the content in hexadecimal. File
    and folder are synced before a claim returns. A file that a kill or a full disk left incomplete
    counts as a claim of something else: the party then refuses, which is the safe side.

    Raises: RunFolderError where the disk refuses; nothing may be answered then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def claim(self, label: str, content: bytes) -> bool:
        """Persist `content` under a free label; return whether it is what is there."""
        make_private_folder(self._folder)
        line = f"{label}\n{content.hex()}\n".encode()
        path = self._path(label)
        if write_once(path, line):
            return True
        with told_in_a_sentence(path):
            return path.read_bytes() == line

    def claimed(self, label: str) -> bool:
        """Return whether anything was claimed under `label`, completely or not."""
        path = self._path(label)
        with told_in_a_sentence(path):
            return path.exists()

    def _path(self, label: str) -> Path:
        return self._folder / f"claim-{hashlib.sha256(label.encode()).hexdigest()}"
