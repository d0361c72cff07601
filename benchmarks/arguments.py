"""Types of command-line arguments that several benchmarks have."""

from __future__ import annotations

import argparse


def positive_int(text: str) -> int:
    """Return an integer of at least 1. Raises: ArgumentTypeError."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value
