"""Where the server keeps long vectors: in memory, or wherever its caller says.

The machines do no input or output. A caller whose sums do not fit in memory hands in an
:data:`Allocate` that gives bytes on a disk; what is read and written at once is always small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Storage(Protocol):
    """A fixed number of bytes, zero at first."""

    def read(self, start: int, size: int) -> Bytes:
        """Return bytes as an array that the reader may change.

        It may be the stored bytes themselves or a copy: a change counts once it is written.
        """

    def write(self, start: int, data: Bytes) -> None:
        """Replace the bytes from ``start`` on."""

    def free(self) -> None:
        """Give the space back: nobody reads it again, nor does a kept copy of the machine."""


Allocate = Callable[[str, int], Storage]
"""Gives storage of so many bytes; the name says what it is for and may be given twice."""


class MemoryStorage:
    """Bytes in memory; what is read is a view, so that sums are added up in place."""

    def __init__(self, num_bytes: int) -> None:
        self._bytes = np.zeros(num_bytes, np.uint8)

    def read(self, start: int, size: int) -> Bytes:
        """Return a view."""
        return self._bytes[start : start + size]

    def write(self, start: int, data: Bytes) -> None:
        """Copy, unless it is the view that was read."""
        target = self._bytes[start : start + data.size]
        if target.ctypes.data != data.ctypes.data:
            target[:] = data

    def free(self) -> None:
        """Forget the bytes."""
        self._bytes = np.zeros(0, np.uint8)


def allocate_in_memory(_name: str, num_bytes: int) -> MemoryStorage:
    """Return zeroed bytes in memory."""
    return MemoryStorage(num_bytes)
