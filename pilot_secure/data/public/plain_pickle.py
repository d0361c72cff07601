"""Reading a pickle that holds plain data, without running any code in it.

A pickle is a program: a global that it names is imported and may be called. Here every global,
every extension code and every persistent id is refused, so that only what the format builds by
itself is left: None, bools, numbers, text, bytes, tuples, lists, dictionaries and sets.

The unpickler is the standard library's in Python, not the one in C: that one allocates whatever
memo index a pickle claims, up to 32 GiB, before anything is checked. A file of RefCOCO's size takes
some ten seconds.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, NoReturn

from pilot_secure.errors import DataError, os_sentence

_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    AssertionError,
    struct.error,
)


class _RefusedGlobalError(pickle.UnpicklingError):
    pass


class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise _RefusedGlobalError(f"it names {module}.{name}, which reading it could run")


def read_plain_pickle(file: Path) -> Any:
    """The data in a pickle, also one that Python 2 wrote.

    Raises: DataError naming the file if it is missing, no pickle, or holds more than plain data.
    """
    try:
        with file.open("rb") as stream:
            return _PlainUnpickler(stream, encoding="latin-1").load()
    except OSError as error:
        raise DataError(os_sentence(error, file)) from None
    except _MALFORMED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: expected a pickle of plain data, but {reason}.") from None
