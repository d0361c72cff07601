"""Frames: the 64-byte Ed25519 signature of a message, then its canonical CBOR.

The signature covers "pilot-secure frame", the version and SHA-256 of the body, and is checked
against the pinned key before a single byte of the body is parsed.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from protocols.any_message import ADAPTER
from protocols.codec import CodecError, decode, encode, encode_parts
from protocols.errors import BadSignature, MalformedMessage, UnexpectedMessage, WrongSession
from protocols.identity import MAX_NAME, SERVER, SIGNATURE_BYTES, Identity, Roster, sha256
from protocols.keys import VERSION
from protocols.messages import Message

MessageType = TypeVar("MessageType", bound=Message)

LABEL = b"pilot-secure frame" + bytes([VERSION])


def seal(message: Message, identity: Identity) -> bytes:
    """Return the signed frame of a message."""
    body = message.model_dump()
    parts = encode_parts(body) if message.bulky else [encode(body)]
    return b"".join([identity.sign(LABEL + sha256(*parts)), *parts])


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
    roster.verify(sender, frame[:SIGNATURE_BYTES], LABEL + digest, phase)
    try:
        body = decode(view[SIGNATURE_BYTES:])
        message: Message = ADAPTER.validate_python(body)
    except CodecError as error:
        raise MalformedMessage(sender, phase, str(error)) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MalformedMessage(sender, phase, f"{where}: {first['msg']}") from None
    if not says_exactly(body, message.model_dump()):
        raise MalformedMessage(sender, phase, "a field is left out or of another number type")
    if message.sender != sender:
        raise BadSignature(sender, phase, f"a message of {message.sender}")
    return message


def open_relayed(
    frame: bytes,
    kind: type[MessageType],
    session: bytes,
    roster: Roster,
    phase: str,
    max_bytes: int,
    signer: str | None = None,
) -> MessageType:
    """Return the message that another party signed for the server, in a frame that it relays.

    ``signer`` is who must have signed it; without one, it is whom the frame claims. A fault is the
    signer's only where its signature proves it: a frame that does not verify, or that belongs
    elsewhere, is the server's, who chose what to relay.

    Raises:
        PeerError: see :func:`open_frame` and :func:`expect`.
    """
    name = claimed_sender(frame, phase, max_bytes)
    try:
        if signer not in (None, name):
            raise UnexpectedMessage(name, phase, f"where one of {signer} is due")
        return expect(open_frame(frame, roster, name, phase), kind, session, SERVER, phase)
    except (BadSignature, WrongSession, UnexpectedMessage) as error:
        reason = f"a frame of {name}, as relayed by the server: {error.reason}"
        raise type(error)(SERVER, phase, reason) from None


def claimed_sender(frame: bytes, phase: str, max_bytes: int | None = None) -> str:
    """Return the sender that a relayed frame claims, before its signature is checked.

    The strict decoder does one pass over the body; nothing of it is used but a name of a
    roster's length. Who reads a transcript has no bound to give.

    Raises:
        MalformedMessage: of the server, which relayed something that is no message.
    """
    if max_bytes is not None and len(frame) > max_bytes:
        reason = f"a relayed frame of {len(frame)} bytes, above {max_bytes}"
        raise MalformedMessage(SERVER, phase, reason)
    try:
        body = decode(memoryview(frame)[SIGNATURE_BYTES:])
    except CodecError as error:
        raise MalformedMessage(SERVER, phase, f"a relayed frame: {error}") from None
    name = body.get("sender") if isinstance(body, dict) else None
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise MalformedMessage(SERVER, phase, "a relayed frame without a sender")
    return name


def says_exactly(sent: object, understood: object) -> bool:
    """Whether a message says exactly what was understood: no default filled in, no 1 for 1.0."""
    if type(sent) is not type(understood):
        return False
    if isinstance(sent, dict) and isinstance(understood, dict):
        return sent.keys() == understood.keys() and all(
            says_exactly(value, understood[key]) for key, value in sent.items()
        )
    if isinstance(sent, tuple) and isinstance(understood, tuple):
        return len(sent) == len(understood) and all(map(says_exactly, sent, understood))
    return sent == understood


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
