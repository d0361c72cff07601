"""Frames: the 64-byte Ed25519 signature of a message, then its canonical CBOR.

The signature covers "pilot-secure frame", the version and SHA-256 of the body, and is checked
against the pinned key before a single byte of the body is parsed.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from protocols.codec import CodecError, decode, encode
from protocols.errors import BadSignature, MalformedMessage, UnexpectedMessage, WrongSession
from protocols.identity import SIGNATURE_BYTES, Identity, Roster, sha256
from protocols.keys import VERSION
from protocols.messages import ADAPTER, Message

MessageType = TypeVar("MessageType", bound=Message)

_LABEL = b"pilot-secure frame" + bytes([VERSION])


def seal(message: Message, identity: Identity) -> bytes:
    """Return the signed frame of a message."""
    body = encode(message.model_dump())
    return identity.sign(_LABEL + sha256(body)) + body


def frame_hash(frame: bytes) -> bytes:
    """Return SHA-256 of a whole frame, by which transcripts and statements refer to it."""
    return sha256(frame)


def open_frame(
    frame: bytes, roster: Roster, sender: str, phase: str, max_bytes: int | None = None
) -> Message:
    """Return the message of a frame that ``sender`` signed.

    Raises:
        MalformedMessage: wrong size, not canonical, not a known message, or another sender's name.
        BadSignature: the pinned key of ``sender`` did not sign it.
    """
    if len(frame) <= SIGNATURE_BYTES:
        raise MalformedMessage(sender, phase, f"a frame of {len(frame)} bytes")
    if max_bytes is not None and len(frame) > max_bytes:
        raise MalformedMessage(sender, phase, f"a frame of {len(frame)} bytes, above {max_bytes}")
    view = memoryview(frame)
    digest = sha256(view[SIGNATURE_BYTES:])
    roster.verify(sender, frame[:SIGNATURE_BYTES], _LABEL + digest, phase)
    try:
        message: Message = ADAPTER.validate_python(decode(frame[SIGNATURE_BYTES:]))
    except CodecError as error:
        raise MalformedMessage(sender, phase, str(error)) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MalformedMessage(sender, phase, f"{where}: {first['msg']}") from None
    if message.sender != sender:
        raise BadSignature(sender, phase, f"a message of {message.sender}")
    return message


def expect(
    message: Message, kind: type[MessageType], session: bytes, recipient: str, phase: str
) -> MessageType:
    """Return the message if it is of this kind, session and recipient.

    Raises:
        WrongSession: it belongs to another attempt, round, stage, run or cohort.
        UnexpectedMessage: it is another kind of message, or somebody else's.
    """
    if message.session != session:
        raise WrongSession(message.sender, phase, "a message of another session")
    if not isinstance(message, kind):
        name = type(message).__name__
        raise UnexpectedMessage(message.sender, phase, f"{kind.__name__} expected, not {name}")
    if message.recipient != recipient:
        raise UnexpectedMessage(message.sender, phase, f"a message to {message.recipient}")
    return message
