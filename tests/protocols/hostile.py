"""Hostile forms of an honest frame: as a wire damages it, as its own sender lies, out of place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from in_process import Federation

from protocols.codec import decode, encode
from protocols.frame import LABEL
from protocols.identity import SIGNATURE_BYTES, sha256

FLIPS, CUTS = 12, 6


@dataclass(frozen=True)
class Hostile:
    """A frame that must be refused; ``how`` is the family it belongs to."""

    how: str
    what: str
    frame: bytes


def signed(federation: Federation, sender: str, body: bytes) -> bytes:
    """The frame of any bytes, signed by ``sender`` itself."""
    return federation.identity(sender).sign(LABEL + sha256(body)) + body


def damaged(frame: bytes, limit: int) -> Iterator[Hostile]:
    """What needs no key: flipped, cut, longer, and above the limit of the phase."""
    for place in range(0, len(frame), max(1, len(frame) // FLIPS)):
        flipped = frame[:place] + bytes([frame[place] ^ (1 << place % 8)]) + frame[place + 1 :]
        yield Hostile("bit-flipped", f"byte {place}", flipped)
    for place in (*range(0, len(frame), max(1, len(frame) // CUTS)), len(frame) - 1):
        yield Hostile("truncated", f"to {place}", frame[:place])
    yield Hostile("truncated", "longer by one", frame + b"\0")
    yield Hostile("oversized", "unsigned", bytes(limit + 1))


def lies(federation: Federation, sender: str, frame: bytes, limit: int) -> Iterator[Hostile]:
    """What the sender itself signs: other encodings, fields, types, lengths and orders."""
    body = decode(frame[SIGNATURE_BYTES:])
    assert isinstance(body, dict)

    def lie(how: str, what: str, content: object) -> Hostile:
        return Hostile(how, what, signed(federation, sender, encode(content)))

    raw = encode(body)
    long_head = bytes([0xB8, raw[0] & 0x1F]) + raw[1:]
    yield Hostile("non-canonical", "a longer head", signed(federation, sender, long_head))
    yield Hostile("oversized", "signed", signed(federation, sender, raw + bytes(limit)))
    yield lie("unknown-field", "extra", {**body, "extra": b"x"})
    for field, value in body.items():
        rest = {key: other for key, other in body.items() if key != field}
        yield lie("unknown-field", f"without {field}", rest)
        for wrong in (-1, 1.5, {"a": 1}, "\0", (None,), True):
            yield lie("wrong-type", f"{field} {wrong!r}", {**body, field: wrong})
        for what, other in other_lengths(field, value):
            yield lie("wrong-length", what, {**body, field: other})
        if isinstance(value, tuple) and len(value) > 1:
            yield lie("re-ordered", field, {**body, field: value[::-1]})
    for field in ("session", "sender", "recipient"):
        other = bytes(32) if field == "session" else "client-04"
        yield lie("wrong-type", f"another {field}", {**body, field: other})


def other_lengths(path: str, value: object) -> Iterator[tuple[str, object]]:
    """The value with bytes or items too few or too many, here or in its first item."""
    match value:
        case bytes() if value:
            yield f"{path} shorter", value[:-1]
            yield f"{path} longer", value + b"\0"
            yield f"{path} empty", b""
        case tuple() if value:
            yield f"{path} shorter", value[:-1]
            yield f"{path} repeats", (*value, value[-1])
            yield f"{path} empty", ()
            for what, item in other_lengths(f"{path}[0]", value[0]):
                yield what, (item, *value[1:])
        case dict():
            for key, item in value.items():
                for what, other in other_lengths(f"{path}.{key}", item):
                    yield what, {**value, key: other}


def out_of_place(
    federation: Federation, sender: str, frame: bytes, earlier: list[bytes], present: list[bytes]
) -> Iterator[Hostile]:
    """Frames of another attempt and of phases that are over, and phases in another order."""
    due = decode(frame[SIGNATURE_BYTES:])
    for old in (*earlier, *present):
        body = decode(old[SIGNATURE_BYTES:])
        yield Hostile("replayed", body["kind"], old)
        if body["kind"] != due["kind"]:
            now = encode({**body, "session": due["session"]})
            yield Hostile("re-ordered", body["kind"], signed(federation, sender, now))
