"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a destructor, a weak
reference's callback or a callback from C, it is printed and ignored there, and the run would go on.
Here it is remembered in place of being printed, and raised at the run's next step.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_interrupted = threading.Event()


@contextlib.contextmanager
def remembered_interrupts() -> Iterator[None]:
    """Remember an interrupt by the user until the end of the block.

    Elsewhere than in the main thread, or where SIGINT is ignored, nothing is changed.
    """
    _interrupted.clear()
    before = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not main_thread:
        yield
        return
    print_ignored = sys.unraisablehook

    def print_others(ignored: sys.UnraisableHookArgs) -> None:
        if not (_interrupted.is_set() and issubclass(ignored.exc_type, KeyboardInterrupt)):
            print_ignored(ignored)

    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = print_others
    try:
        yield
    finally:
        sys.unraisablehook = print_ignored
        signal.signal(signal.SIGINT, before)
        _interrupted.clear()


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that somebody swallowed; call it between steps of long work."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt
