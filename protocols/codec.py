"""Deterministic CBOR (RFC 8949, section 4.2): one value, one encoding.

Encoding is cbor2's canonical mode, or gives its bytes in parts to leave bulk vectors in place.
Decoding is our own and strict, because what comes in is hostile: only the types that messages use,
definite lengths, shortest heads, ascending unique text keys, shortest floats, bounded depth and no
trailing byte. So a decoded value re-encodes to the very bytes it came from, and no hash or
signature ever covers two readings.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import cbor2

Value: TypeAlias = "None | bool | int | float | str | bytes | tuple[Value, ...] | dict[str, Value]"

MAX_DEPTH = 8
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FLOAT_FORMATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_SIMPLE_VALUES = {20: False, 21: True, 22: None}


class CodecError(ValueError):
    """Bytes that are not canonical CBOR of the types in use."""


def encode(value: object) -> bytes:
    """Return the deterministic CBOR of a value made of plain Python types."""
    return cbor2.dumps(value, canonical=True)


def encode_parts(value: object) -> list[bytes]:
    """Return the encoding in parts, so that bulk vectors are not copied before they are sent."""
    parts: list[bytes] = []
    _append(value, parts)
    return parts


_IN_PARTS = (dict, list, tuple, bytes)


def _append(value: object, parts: list[bytes]) -> None:
    if isinstance(value, dict):
        parts.append(_head(_MAP, len(value)))
        for key, item in sorted(((cbor2.dumps(k), v) for k, v in value.items()), key=_first):
            parts.append(key)
            _append(item, parts)
    elif isinstance(value, list | tuple) and any(isinstance(v, _IN_PARTS) for v in value):
        parts.append(_head(_ARRAY, len(value)))
        for item in value:
            _append(item, parts)
    elif isinstance(value, bytes):
        parts.append(_head(_BYTES, len(value)))
        parts.append(value)
    else:
        parts.append(cbor2.dumps(value, canonical=True))


def _first(pair: tuple[bytes, object]) -> bytes:
    return pair[0]


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    return bytes([major << 5 | 27]) + argument.to_bytes(8, "big")


def decode(data: bytes | memoryview) -> Value:
    """Return the value of canonical CBOR; arrays come back as tuples, byte strings are copied.

    Raises:
        CodecError: for anything that :func:`encode` would not have produced.
    """
    reader = _Reader(memoryview(data))
    value = reader.value(MAX_DEPTH)
    if reader.position != len(data):
        raise CodecError("trailing bytes")
    return value


class _Reader:
    """A cursor over the bytes of one message."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def take(self, num_bytes: int) -> bytes:
        end = self.position + num_bytes
        if end > len(self.data):
            raise CodecError("truncated")
        part = bytes(self.data[self.position : end])
        self.position = end
        return part

    def head(self) -> tuple[int, int, int]:
        """Return (major type, additional information, argument) of the next item."""
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info > 27:
            raise CodecError("indefinite or reserved length")
        size = 1 << (info - 24)
        argument = int.from_bytes(self.take(size), "big")
        smallest = 24 if size == 1 else 1 << (4 * size)
        if major != _SIMPLE and argument < smallest:
            raise CodecError("a length or integer that is not in its shortest form")
        return major, info, argument

    def value(self, depth: int) -> Value:
        if depth == 0:
            raise CodecError("nested too deeply")
        major, info, argument = self.head()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            self.expect_items(argument)
            return tuple(self.value(depth - 1) for _ in range(argument))
        if major == _MAP:
            return self.map(argument, depth)
        if major == _SIMPLE:
            return self.simple(info, argument)
        raise CodecError("tags are not used")

    def expect_items(self, count: int) -> None:
        """Each item takes a byte at least, so a longer count cannot be honest."""
        if count > len(self.data) - self.position:
            raise CodecError("truncated")

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise CodecError("text that is not UTF-8") from None

    def map(self, count: int, depth: int) -> dict[str, Value]:
        self.expect_items(count)
        result: dict[str, Value] = {}
        previous = b""
        for _ in range(count):
            start = self.position
            major, _info, length = self.head()
            if major != _TEXT:
                raise CodecError("a map key that is not text")
            key = self.text(length)
            encoded = bytes(self.data[start : self.position])
            if encoded <= previous:
                raise CodecError("map keys out of order or repeated")
            previous = encoded
            result[key] = self.value(depth - 1)
        return result

    def simple(self, info: int, argument: int) -> Value:
        if info in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[info]
        if info not in _FLOAT_FORMATS:
            raise CodecError("a simple value that is not in use")
        layout, size = _FLOAT_FORMATS[info]
        raw = argument.to_bytes(size, "big")
        number: float = struct.unpack(layout, raw)[0]
        if encode(number)[1:] != raw:
            raise CodecError("a number that is not in its shortest form")
        return number
