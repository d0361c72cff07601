"""Differential privacy together with other switches: FedDPA, adapters in the tower, and kills."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FinishedRun
from test_resume import Killer, go_on, killed, settings_of

from pilot_secure.privacy import Ledger, parse_ledger, recompute, understated
from pilot_secure.privacy.ledger import DpSgd, LocalNoise, SharedNoise

EXAMPLE = {"privacy": {"unit": "example", "noise_multiplier": 2.0, "delta": 0.05}}
SMALL = {
    "data": {"clients_per_task": 1, "samples_per_client": 4},
    "federation": {"num_neighbours": 2},
    "security": {"secure_agg": False},
}
CLIENT = {
    "privacy": {"unit": "client", "noise_multiplier": 3.0, "delta": 0.05},
    "security": {"clip": 200.0, "distance_norm_bound": 1e5},
}


def ledger_at(path: Path) -> Ledger:
    return parse_ledger((path / "ledger.json").read_bytes())


@pytest.mark.parametrize(
    ("variant", "places"),
    [("training", [(1, 1), (2, 2), (2, 1)]), ("fine_tuning", [(1, 1), (2, 1), (2, 2)])],
)
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_the_personal_adapter_of_feddpa_is_trained_privately(
    variant: str, places: list[tuple[int, int]], mode: str, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Each training counts, that of the adapter that never leaves as well."""
    settings = {
        "federation": {"method": "feddpa"},
        "methods": {"feddpa_variant": variant},
        "privacy": {"mode": mode},
    }
    run = run_tiny(EXAMPLE, SMALL, settings)
    for entry in ledger_at(run.path).clients:
        assert [(r.round, r.stage) for r in entry.releases] == places
        assert all(isinstance(r, DpSgd) and r.steps == 2 for r in entry.releases)
        assert entry.epsilon is not None and math.isfinite(entry.epsilon)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_adapters_in_the_vision_tower_are_trained_privately(
    mode: str, run_tiny: Callable[..., FinishedRun]
) -> None:
    settings = {"model": {"ct_clip": True}, "privacy": {"mode": mode}}
    run = run_tiny(EXAMPLE, SMALL, settings)
    for entry in ledger_at(run.path).clients:
        assert [(r.round, r.stage) for r in entry.releases] == [(1, 1), (2, 2)]
        assert entry.epsilon == recompute(ledger_at(run.path))[entry.client].epsilon


def ended(settings: dict[str, Any], path: Path, killer: Killer) -> Ledger:
    """The ledger of a run that was killed once and went on."""
    killed(settings, path, killer)
    finished = go_on(path)
    assert finished.summary.status == "finished"
    ledger = ledger_at(path)
    assert understated(ledger) == {}
    return ledger


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("before", marks=pytest.mark.slow),
        "between",
        pytest.param("after", marks=pytest.mark.slow),
    ],
)
def test_a_killed_private_training_is_counted_as_often_as_it_was_noised(
    when: str, tiny_base: Path, tmp_path: Path
) -> None:
    """Killed before its reply was kept, a client trains again: that is a release of its own."""
    settings = settings_of(tiny_base, SMALL, EXAMPLE, {"security": {"min_contributors": 2}})
    ledger = ended(settings, tmp_path / "run", Killer("train", "client-02", when))
    for entry in ledger.clients:
        draws = [release.draw for release in entry.releases]
        assert len(set(draws)) == len(draws)
        again = when == "between" and entry.client == "client-02"
        assert len(draws) == (2 if again else 1)
        assert entry.epsilon is not None


@pytest.mark.parametrize("shared", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_upload_leaves_with_the_noise_that_it_was_given(
    shared: bool, tiny_base: Path, tmp_path: Path
) -> None:
    """One draw a client; where the sum's noise is shared, the sums as they were opened."""
    layers: list[Any] = [CLIENT]
    if shared:
        federation = {"method": "fedavg"}
        security = {"max_colluders": 1, "min_contributors": 3, "ring_bits": 32}
        privacy = {"distributed_noise": "all"}
        layers.append({"federation": federation, "security": security, "privacy": privacy})
    settings = settings_of(tiny_base, *layers)
    killer = Killer("consistency", "client-02", "after")
    for entry in ended(settings, tmp_path / "run", killer).clients:
        kind, count = (SharedNoise, 2) if shared else (LocalNoise, 1)
        assert [type(release) for release in entry.releases] == [kind] * count
        if shared:
            assert all(len(release.weights) == 6 for release in entry.releases)
