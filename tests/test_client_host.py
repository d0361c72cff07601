"""Clients spread over processes: the same run as in one, and what is left when one dies."""

from __future__ import annotations

from pathlib import Path

from engine_runs import EngineRuns

from pilot_secure.client_host import Enrolment
from pilot_secure.config import SimulationConfig
from pilot_secure.run_data import load_data


class TestRunsInProcesses(EngineRuns):
    engine = "processes"


def test_an_enrolment_is_split_in_turn_and_shows_no_secret() -> None:
    config = SimulationConfig.model_validate(
        {"data": {"samples_per_client": 1, "test_samples": 1}, "run": {"engine": "processes"}}
    )
    server, enrolment = Enrolment.open(config, Path("run"), load_data(config)[0], 1)
    parts = enrolment.split(4)
    assert [len(part.secrets) for part in parts] == [3, 2, 2, 2]
    assert list(parts[1].secrets) == ["client-02", "client-06"]
    assert {n: s for part in parts for n, s in part.secrets.items()} == dict(enrolment.secrets)
    assert all(secret.hex() not in repr(enrolment) for secret in enrolment.secrets.values())
    assert str(next(iter(enrolment.secrets.values()))) not in repr(enrolment)
    assert len(enrolment.split(20)) == 9
