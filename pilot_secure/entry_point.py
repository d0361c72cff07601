"""The top of every command: a person's mistakes become one sentence and an exit code.

Exit codes of a command: 0, or what the command itself returns; 2 for a person's mistake, 3 for a
federation that could not go on, each told in a sentence; 130 after Ctrl-C.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from pilot_secure.errors import ToldError, UsageError, is_callers_mistake, os_sentence
from pilot_secure.interruption import remembered_interrupts

Arguments = ParamSpec("Arguments")
INTERRUPTED = 130


def main(function: Callable[Arguments, int | None]) -> Callable[Arguments, int]:
    """Wrap a command: its exit code is returned, and a person's mistakes become one sentence.

    ToldError: its sentence on standard error and its code, 2 for a UsageError, 3 for a
    FederationError. OSError where the disk or its permissions are the cause: a sentence, code 2.
    Ctrl-C: code 130. Anything else is a defect and keeps its traceback.
    Use as `raise SystemExit(main())`.
    """

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            with remembered_interrupts():
                return function(*args, **kwargs) or 0
        except ToldError as error:
            return _complain(str(error), error.exit_code)
        except OSError as error:
            if not is_callers_mistake(error):
                raise
            return _complain(os_sentence(error), UsageError.exit_code)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return run


def _complain(sentences: str, exit_code: int) -> int:
    for line in sentences.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return exit_code
