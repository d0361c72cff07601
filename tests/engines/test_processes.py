"""Worker processes: what they carry, and what is left of a run when one of them is gone."""

from __future__ import annotations

import os

import pytest
from worker_contract import WorkerContract, ask, obeying

from pilot_secure.engines import ProcessesTransport


class TestProcesses(WorkerContract):
    engine = ProcessesTransport


def test_devices_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    slots = [("a",), ("b",), ("c",)]
    transport = ProcessesTransport(obeying, slots, devices=["4", "GPU-7"])
    asked = b"variable CUDA_VISIBLE_DEVICES"
    try:
        replies = ask(transport, a=asked, b=asked, c=asked)
    finally:
        transport.close()
    assert replies == {"a": b"4", "b": b"GPU-7", "c": b"4"}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
