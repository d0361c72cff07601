"""Ctrl-C ends a run even where Python ignores the exception it became."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from io import StringIO

import pytest
from rich.console import Console

from pilot_secure.entry_point import INTERRUPTED, main
from pilot_secure.interruption import raise_if_interrupted, remembered_interrupts
from pilot_secure.progress import RunProgress


class Broken:
    """A destructor that fails by itself."""

    def __del__(self) -> None:
        raise RuntimeError


class Deaf:
    """Whoever is interrupted while this is deleted does not hear of it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell that runs the tests in the background ignores SIGINT, and passes that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What Python prints and ignores."""
    found: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hooked: found.append(hooked.exc_type))
    return found


@pytest.mark.parametrize("step", [lambda p: p.describe("training"), lambda p: p.advance(1.0)])
def test_a_swallowed_interrupt_ends_the_run_at_its_next_step(
    printed: list[object], capsys: pytest.CaptureFixture[str], step: Callable[[RunProgress], None]
) -> None:
    reached = False

    @main
    def command() -> None:
        nonlocal reached
        progress = RunProgress(Console(file=StringIO()))
        Broken()
        Deaf()
        Broken()
        assert printed == [RuntimeError, RuntimeError]  # and no traceback of Ctrl-C
        step(progress)
        reached = True

    assert command() == INTERRUPTED
    assert not reached
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_is_forgotten_after_its_command(printed: list[object]) -> None:
    with remembered_interrupts():
        Deaf()
    raise_if_interrupted()
    assert printed == []
    Deaf()
    assert printed == [KeyboardInterrupt]  # outside, Python does as ever
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with remembered_interrupts():
        signal.raise_signal(signal.SIGINT)
        raise_if_interrupted()
