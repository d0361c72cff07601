"""Room on a disk for the server's sums and uploads that are too long to lie in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pilot_secure.files import told_in_a_sentence
from protocols.storage import Bytes, MemoryStorage, Storage

IN_MEMORY = 1 << 27
"""Longer vectors than these bytes lie on the disk."""


@dataclass(frozen=True)
class DiskStorage:
    """Bytes in a file, read and written by blocks, so that they take no memory.

    Raises: RunFolderError if the disk refuses.
    """

    name: str  # of the file; a checkpoint holds no paths
    num_bytes: int

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.name)

    def read(self, start: int, size: int) -> Bytes:
        """Return a copy."""
        data = np.empty(size, np.uint8)
        with told_in_a_sentence(self.path), self.path.open("rb", buffering=0) as file:
            file.seek(start)
            view = data.data
            while view and (count := file.readinto(view)):
                view = view[count:]
        if view:
            raise EOFError(f"{self.path}: {len(view)} bytes are missing")
        return data

    def write(self, start: int, data: Bytes) -> None:
        """Write through to the file."""
        with told_in_a_sentence(self.path), self.path.open("r+b", buffering=0) as file:
            file.seek(start)
            view = np.ascontiguousarray(data).data
            while view:
                view = view[file.write(view) :]

    def free(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Scratch:
    """Gives storage: in memory what is short, in files of a folder what is long.

    The folder is made when it is needed, and readable by its owner only. What lies there wears
    masks, or is what the server may see.
    """

    name: str  # of the folder; a checkpoint holds no paths
    in_memory: int = IN_MEMORY

    @property
    def folder(self) -> Path:
        """The folder."""
        return Path(self.name)

    def __call__(self, name: str, num_bytes: int) -> Storage:
        """Return zeroed bytes. Raises: RunFolderError if the disk refuses."""
        if num_bytes <= self.in_memory:
            return MemoryStorage(num_bytes)
        with told_in_a_sentence(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, path = tempfile.mkstemp(prefix=f"{name}-", dir=self.folder)
            with os.fdopen(descriptor, "wb") as file:
                file.truncate(num_bytes)
        return DiskStorage(path, num_bytes)

    def clear(self) -> None:
        """Delete all files."""
        shutil.rmtree(self.folder, ignore_errors=True)
