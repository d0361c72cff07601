"""The parameters, the configuration and the SPIN model draw the same line."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from conftest import merged

from pilot_secure.config import SimulationConfig
from protocols import smallest_threshold

_SPEC = importlib.util.spec_from_file_location("spin_run", Path(__file__).with_name("run.py"))
assert _SPEC is not None and _SPEC.loader is not None
model = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(model)

SETS = list(model.parameter_sets())
needs_spin = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("cc") is None, reason="SPIN is not installed"
)


def config_accepts(n: int, t: int, c: int) -> bool:
    """Whether a configuration of n clients breaks no rule on its threshold."""
    entry = {"task": "vqa", "metric": "cider", "train": "a.json", "images": "a"}
    settings = merged(
        {"security": {"secure_agg": True, "threshold": t, "max_colluders": c}},
        {"security": {"min_contributors": c + 2}},
        {"federation": {"method": "fedavg"}},
        {"data": {"scenario": "files", "clients": [entry] * n}},
    )
    try:
        SimulationConfig.model_validate(settings)
    except ValueError as error:
        assert "security.threshold" in str(error)
        return False
    return True


@pytest.mark.parametrize(("n", "t", "c"), SETS)
def test_config_and_parameters_refuse_the_same_sets(n: int, t: int, c: int) -> None:
    safe = t >= smallest_threshold(n, c)
    assert model.accepted(n, t, c) == safe
    assert config_accepts(n, t, c) == safe


@needs_spin
@pytest.mark.parametrize(("n", "t", "c"), [(3, 2, 0), (3, 2, 1), (3, 3, 1), (4, 2, 0), (4, 3, 1)])
def test_spin_finds_unsafe_what_is_refused(n: int, t: int, c: int) -> None:
    size = {"N": n, "T": t, "C": c}
    found = [model.search(**size, **cheat).safe for cheat in model.CHEATS.values()]
    assert found[0]
    assert all(found) == model.accepted(n, t, c)


@needs_spin
def test_one_contributor_fewer_leaves_an_honest_client_alone() -> None:
    size = {"N": 4, "T": 3, "C": 1} | model.HONEST
    assert not model.search(**size, MINIMUM=2).safe and not model.accepted(4, 3, 1, 2)
    assert model.search(**size, MINIMUM=3).safe and model.accepted(4, 3, 1, 3)


@needs_spin
@pytest.mark.parametrize(("cheat", "measure", "size"), model.COUNTER_MEASURES)
def test_each_cheat_alone_succeeds_without_its_counter_measure(
    cheat: str, measure: str, size: dict[str, int]
) -> None:
    assert model.accepted(size["N"], size["T"], size["C"])
    assert model.search(**size, **model.CHEATS[cheat]).safe
    assert not model.search(**size, **model.CHEATS[cheat], **{measure: 0}).safe
    assert model.search(**size, **model.HONEST, **{measure: 0}).safe
