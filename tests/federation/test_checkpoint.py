"""Checkpoint files: what is damaged, foreign or of another version is told, and never called."""

from __future__ import annotations

import hashlib
import pickle
import random
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pilot_secure.errors import RunFolderError
from pilot_secure.federation import checkpoint

CONTENT = {"keys": bytes(range(32)), "vector": np.arange(50.0), "tensor": torch.arange(6.0)}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "client-01" / "memory"
    checkpoint.save(path, CONTENT)
    return path


def written(path: Path, body: bytes, head: bytes = checkpoint._HEAD) -> Path:
    """A file with a hash that fits."""
    path.write_bytes(head + body + hashlib.sha256(head + body).digest())
    return path


def test_what_is_kept_is_read_back(kept: Path) -> None:
    read = checkpoint.load(kept)
    assert read["keys"] == CONTENT["keys"]
    assert np.array_equal(read["vector"], CONTENT["vector"])
    assert read["tensor"].equal(CONTENT["tensor"])
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [p.name for p in kept.parent.iterdir()] == ["memory"]


def test_every_flipped_bit_and_every_cut_is_found(kept: Path) -> None:
    whole, draw = kept.read_bytes(), random.Random(0)
    damaged = [whole[: draw.randrange(len(whole))] for _ in range(20)] + [b"", whole + b"x"]
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        kept.write_bytes(content)
        with pytest.raises(RunFolderError, match="damaged|expected a checkpoint of version"):
            checkpoint.load(kept)


def test_another_version_is_named(kept: Path) -> None:
    head = b"pilot-secure checkpoint 0.0.7\n"
    with pytest.raises(RunFolderError, match=r"version 0\.1\.0, it is of 0\.0\.7"):
        checkpoint.load(written(kept, pickle.dumps({}), head))


class _Calls:
    def __reduce__(self) -> Any:
        return print, ("called",)


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x05cantigravity\nfly\n.",
        b"\x80\x05cno_such_module\nname\n.",
        b"\x80\x05cpilot_secure.no_such_module\nname\n.",
        b"\x80\x05cpilot_secure.config\nno_such_class\n.",
        b"\x80\x05N}R.",
        b"\x80\x050.",
        pickle.dumps(_Calls()),
    ],
)
def test_nothing_foreign_is_imported_or_called(
    body: bytes, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint of this version"):
        checkpoint.load(written(kept, body))
    assert "antigravity" not in sys.modules
    assert capsys.readouterr().out == ""
