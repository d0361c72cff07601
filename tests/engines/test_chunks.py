"""Frames in pieces and phases as plain values: what travels in Flower's messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot_secure.engines import PhaseKey
from pilot_secure.engines.chunks import (
    chunk_names,
    chunks_of,
    frame_of,
    phase_of,
    phase_values,
)

PHASE = PhaseKey("share", 2, 1, 3, bytes(range(32)))


@given(st.binary(max_size=100), st.integers(1, 40))
def test_a_frame_survives_its_chunks_in_any_order(frame: bytes, size: int) -> None:
    pieces = list(chunks_of(frame, size))
    assert all(len(piece) <= size for piece in pieces)
    named = dict(zip(chunk_names(len(pieces)), pieces, strict=True))
    assert frame_of(dict(reversed(named.items()))) == frame


@pytest.mark.parametrize("names", [("000001",), ("000000", "000002"), ("0",), ("x",)])
def test_a_chunk_that_is_missing_is_found(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected the names 000000 and up"):
        frame_of(dict.fromkeys(names, b"piece"))


def test_a_phase_survives_its_values() -> None:
    assert phase_of(phase_values(PHASE)) == PHASE


@pytest.mark.parametrize(
    "change", [{"round": "2"}, {"round": True}, {"more": 1}, {"session": "text"}, {"name": None}]
)
def test_values_of_no_phase_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected name, round, stage, attempt, session"):
        phase_of(phase_values(PHASE) | change)


def test_a_field_may_not_be_missing() -> None:
    values = phase_values(PHASE)
    del values["attempt"]
    with pytest.raises(ValueError, match="a phase of fields"):
        phase_of(values)
