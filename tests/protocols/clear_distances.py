"""A double of the encrypted distances for tests that are about the other phases."""

from __future__ import annotations

import numpy as np

import protocols.distances
import protocols.sketch


class ClearDistances:
    """Sends the sketch itself: the same interface, no secrecy, microseconds."""

    def __init__(self, vector_sketch, parameter_set, norm_bound, entropy) -> None:
        self.vector = np.asarray(vector_sketch, np.float64)

    def upload(self) -> bytes:
        return self.vector.tobytes()

    def reply(self, upload: bytes) -> bytes:
        difference = self.vector - np.frombuffer(upload)
        return np.float64(difference @ difference).tobytes()

    def open(self, reply: bytes) -> float:
        return float(np.frombuffer(reply)[0])


def install(monkeypatch) -> None:
    monkeypatch.setattr(protocols.distances, "DistanceParty", ClearDistances)
    monkeypatch.setattr(protocols.distances, "upload_length", lambda _set, length: 8 * length)
    monkeypatch.setattr(protocols.distances, "check_upload", lambda *_: None)
    monkeypatch.setattr(protocols.distances, "reply_length", lambda _set: 8)
