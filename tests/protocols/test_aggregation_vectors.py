"""The test vectors: regenerated, verified independently, and the bad ones refused as named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[1] / "vectors"
sys.path.insert(0, str(VECTORS))

import make_aggregation  # noqa: E402

from protocols import PeerError  # noqa: E402

DOCUMENT = json.loads((VECTORS / "aggregation.json").read_text())


def test_the_vectors_are_what_the_machines_say() -> None:
    """No byte is left to chance: the same entropy gives the same frames and results."""
    assert json.loads(json.dumps(make_aggregation.document())) == DOCUMENT


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("protocols", "pydantic", "cbor2", "Crypto", "tenseal"):
            raise ImportError(name + " is not for the verifier")
sys.meta_path.insert(0, Blocked())
sys.argv = ["verify"] + sys.argv[1:]
import runpy
runpy.run_path({path!r}, run_name="__main__")
"""


def verify(path: Path) -> subprocess.CompletedProcess[str]:
    script = BLOCKED.replace("{path!r}", repr(str(VECTORS / "verify_aggregation.py")))
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )


def test_an_independent_verifier_accepts_them() -> None:
    done = verify(VECTORS / "aggregation.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("frames verified") == len(DOCUMENT["good"])


@pytest.mark.parametrize("damage", ["seed", "vector", "mean", "frame", "cut"])
def test_the_verifier_sees_what_was_changed(damage: str, tmp_path: Path) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    vector = document["good"][0]
    if damage == "seed":
        vector["entropy"]["client-01"][3] = "00" * 32
    elif damage == "vector":
        vector["vectors"]["client-02"]["task_adapter"][0] += 0.01
    elif damage == "cut":
        vector = document["good"][-1]
        vector["parameters"]["part_bytes"] += 1
        assert vector["name"] == "parts_20"
    elif damage == "mean":
        vector["means"]["all"][3] += 1e-4
    else:
        vector["frames"][5][3] = vector["frames"][5][3][:-2] + "ff"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document))
    assert verify(changed).returncode != 0


@pytest.mark.parametrize("vector", DOCUMENT["bad"], ids=lambda vector: vector["name"])
def test_bad_frames_are_refused_with_the_error_they_name(vector) -> None:
    federation, _recorders = make_aggregation.build(make_aggregation.CASES[vector["based_on"]])
    federation.run(until=vector["phase"])
    for _ in range(vector["part"]):
        federation.exchange()
    receiver = federation.server
    if vector["receiver"] == "server":
        receiver.request("client-02")
        with pytest.raises(PeerError) as refused:
            receiver.accept(vector["sender"], bytes.fromhex(vector["frame"]))
        assert receiver.report.faults["client-02"].startswith(vector["error"])
    else:
        with pytest.raises(PeerError) as refused:
            federation.clients[vector["receiver"]].handle(bytes.fromhex(vector["frame"]))
    assert type(refused.value).__name__ == vector["error"]
