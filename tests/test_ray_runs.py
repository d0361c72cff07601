"""Clients as Ray actors: the same run as in one process, and what is left when one dies."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_runs import EngineRuns

from pilot_secure.engines.ray_actors import _connect, _knock
from pilot_secure.errors import UsageError
from pilot_secure.simulate import main

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is an extra: make ray")


@needs_ray
class TestRunsOnRay(EngineRuns):
    engine = "ray"


def test_ray_that_is_missing_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pilot_secure.engines.ray_actors.find_spec", lambda name: None)
    assert main(["--engine", "ray", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "error: run.engine is ray: expected the package ray to be installed" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_cluster_is_knocked_at_before_ray_tries_for_minutes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        _knock(f"127.0.0.1:{port}")
        _knock(f"ray://127.0.0.1:{port}")
    for address in (f"127.0.0.1:{port}", "127.0.0.1:65536", "here", "127.0.0.1"):
        with pytest.raises(ConnectionError):
            _knock(address)
    _knock("auto")


@needs_ray
def test_ray_that_does_not_start_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**options: object) -> None:
        raise RuntimeError("Version mismatch:\nanother Ray")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match=r"does not start \(Version mismatch: another Ray\)"):
        _connect("auto", 1)
