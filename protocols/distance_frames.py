"""Frames of distance messages: fixed length, one header, a closing hash.

::

    message = header ‖ content ‖ SHA-256(header ‖ content)
    header  = "PSD" kind (u8) version (u8) set code (u8) sketch length (u32 LE)

The hash finds accidents; who sent a message is for the signature around it.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum

from .distance_values import PHASE
from .errors import BadDistance
from .parameter_sets import ParameterSet

VERSION = 1
SEED_BYTES = DIGEST_BYTES = 32
_HEADER = struct.Struct("<3sBBBI")
HEADER_BYTES = _HEADER.size
FRAME_BYTES = HEADER_BYTES + DIGEST_BYTES


class Kind(IntEnum):
    """What a distance message is."""

    UPLOAD = 0x55
    REPLY = 0x52
    HOLDER_KEYS = 0x4B
    HOLDER_UPLOAD = 0x48
    HOLDER_RESULT = 0x44


def digest(data: bytes | memoryview) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def closing_hash(message: bytes) -> bytes:
    """The hash that closes a message: its identity, once :func:`open_frame` has checked it."""
    return message[-DIGEST_BYTES:]


def header(kind: Kind, parameters: ParameterSet, sketch_length: int) -> bytes:
    """The header that a message of this kind must have."""
    return _HEADER.pack(b"PSD", kind, VERSION, parameters.code, sketch_length)


def close_frame(head: bytes, content: bytes) -> bytes:
    """A whole message from its header and content."""
    return head + content + digest(head + content)


def open_frame(message: bytes, head: bytes, content_bytes: int, sender: str) -> bytes:
    """The content of a message, once its length, header and hash are right.

    Raises:
        BadDistance: naming ``sender``; the length is looked at first.
    """
    expected = FRAME_BYTES + content_bytes
    if len(message) != expected:
        reason = f"{len(message)} bytes, expected {expected}"
        raise BadDistance(sender, PHASE, reason)
    if not message.startswith(head):
        raise BadDistance(sender, PHASE, "other parameters or another kind of message")
    if digest(memoryview(message)[:-DIGEST_BYTES]) != closing_hash(message):
        raise BadDistance(sender, PHASE, "damaged: the closing hash does not fit")
    return message[HEADER_BYTES:-DIGEST_BYTES]
