"""The benchmark of the least weight lowers it wherever it is looked up."""

from __future__ import annotations

import importlib
import pkgutil

import protocols
from benchmarks.weight_bound import BOUNDED_IN


def test_every_place_of_the_bound_is_lowered() -> None:
    names = [f"protocols.{module.name}" for module in pkgutil.iter_modules(protocols.__path__)]
    holding = {
        name
        for name in names
        if not name.endswith("__main__") and hasattr(importlib.import_module(name), "MIN_WEIGHT")
    }
    assert holding == set(BOUNDED_IN)
