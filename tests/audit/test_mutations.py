"""Whatever is done to the bytes of a bundle, the answer is a verdict or a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from good_runs import make_good_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot_secure.audit.__main__ import main


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_good_run(
        tmp_path_factory.mktemp("small") / "run", plain=True, count=4, rounds=1, max_colluders=0
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_bundle_never_passes(
    small_run: Path, tmp_path: Path, data: st.DataObject
) -> None:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(small_run, copy)
    evidence = [copy / "transcript.jsonl", copy / "heads.jsonl"]
    evidence += sorted((copy / "payloads").iterdir()) + sorted((copy / "parameters").iterdir())
    victim = data.draw(st.sampled_from(evidence))
    content = bytearray(victim.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert", "double", "empty", "delete"])):
        case "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del content[place:]
        case "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=300))
        case "double":
            content[place:place] = content[: place + 1]
        case "empty":
            content.clear()
        case "delete":
            content.clear()
            victim.unlink()
    if victim.exists():
        victim.write_bytes(bytes(content))
    assert main(["verify", str(copy)]) in (2, 3, 4)
