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

from protocols import Identity, PeerError  # noqa: E402
from protocols.codec import decode, encode  # noqa: E402
from protocols.frame import LABEL  # noqa: E402
from protocols.identity import sha256  # noqa: E402

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
sys.path.insert(0, {folder!r})
import runpy
runpy.run_path({path!r}, run_name="__main__")
"""


def verify(path: Path) -> subprocess.CompletedProcess[str]:
    script = BLOCKED.replace("{path!r}", repr(str(VECTORS / "verify_aggregation.py")))
    script = script.replace("{folder!r}", repr(str(VECTORS)))
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )


def test_an_independent_verifier_accepts_them() -> None:
    done = verify(VECTORS / "aggregation.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("frames verified") == len(DOCUMENT["good"])


def forged(vector: dict, place: int, **changes: object) -> None:
    """Change one frame of a vector, and sign it again with its sender's key."""
    _phase, sender, _client, text = vector["frames"][place]
    body = encode({**decode(bytes.fromhex(text)[64:]), **changes})
    secret = bytes.fromhex(vector["identity_secrets"][sender])
    identity = Identity.from_secret(sender, secret)
    vector["frames"][place][3] = (identity.sign(LABEL + sha256(body)) + body).hex()


@pytest.mark.parametrize(
    "damage",
    ["seed", "coefficient", "vector", "mean", "frame", "cut", "receipt", "commitment", "bad"],
)
def test_the_verifier_sees_what_was_changed(damage: str, tmp_path: Path) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    vector = document["good"][0]
    if damage == "seed":
        vector["entropy"]["client-01"][3] = "00" * 32
    elif damage == "coefficient":
        vector["entropy"]["client-01"][4] = "00" * 16
    elif damage == "receipt":
        assert vector["frames"][-1][0] == "deliver"
        forged(vector, -1, transcript=bytes(32))
    elif damage == "commitment":
        place = [f[:2] for f in vector["frames"]].index(["share", "client-02"])
        forged(vector, place, seed_commitments=(bytes(32),))
    elif damage == "bad":
        entry = next(e for e in document["bad"] if e["error"] == "BadSignature")
        entry["error"] = "MalformedMessage"
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
