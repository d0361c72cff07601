"""A frame as chunks of bounded size, and a phase as plain values: what Flower's messages hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pilot_secure.engines.transport import PhaseKey

CHUNK_BYTES = 16 << 20
"""One array of a message; a protobuf of Flower's may not reach 2 GiB."""


def chunks_of(frame: bytes, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield a frame in order, in pieces of ``size`` bytes and a shorter last one."""
    for start in range(0, len(frame), size):
        yield frame[start : start + size]


def chunk_names(count: int) -> list[str]:
    """Return the names of a frame's chunks, in order."""
    return [f"{number:06d}" for number in range(count)]


def frame_of(chunks: Mapping[str, bytes]) -> bytes:
    """Join chunks that :func:`chunks_of` made, whatever order they come in.

    Raises: ValueError if one is missing or has another name.
    """
    names = chunk_names(len(chunks))
    if sorted(chunks) != names:
        raise ValueError(f"{len(chunks)} chunks of a frame: expected the names 000000 and up")
    return b"".join(chunks[name] for name in names)


def phase_values(phase: PhaseKey) -> dict[str, int | str | bytes]:
    """Return a phase's fields."""
    return dict(vars(phase))


_FIELDS = {"name": str, "round": int, "stage": int, "attempt": int, "session": bytes, "part": int}


def phase_of(values: Mapping[str, object]) -> PhaseKey:
    """Return the phase with these fields.

    Raises: ValueError if one is missing, of another type, or one too many.
    """
    kinds = {name: type(value) for name, value in values.items()}
    if kinds != _FIELDS:
        raise ValueError(f"a phase of fields {sorted(kinds)}: expected {', '.join(_FIELDS)}")
    return PhaseKey(**values)  # type: ignore[arg-type]
