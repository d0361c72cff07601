"""What the specification says of bytes, keys, masks and shares, written from it alone.

With numpy and cryptography, without the package: :mod:`verify_aggregation` is built on it. Section
numbers refer to ``protocols/SPEC.md``.
"""

import hashlib
import struct

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PROTOCOL = "pilot-secure aggregation"


def cbor(value):
    """Section 1: deterministic CBOR."""
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, float):
        for layout, first in ((">e", 0xF9), (">f", 0xFA), (">d", 0xFB)):
            try:
                raw = struct.pack(layout, value)
            except OverflowError:
                continue
            if struct.unpack(layout, raw)[0] == value:
                return bytes([first]) + raw
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    size = next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")


def read(data, place=0):
    """Return (value, next place) of one CBOR item."""
    major, info = data[place] >> 5, data[place] & 31
    if major == 7:
        size = {25: 2, 26: 4, 27: 8}.get(info, 0)
        raw = data[place + 1 : place + 1 + size]
        value = struct.unpack({2: ">e", 4: ">f", 8: ">d"}[size], raw)[0] if size else None
        return value, place + 1 + size
    size = 1 << info - 24 if info > 23 else 0
    number = int.from_bytes(data[place + 1 : place + 1 + size], "big") if size else info
    place += 1 + size
    if major == 0:
        return number, place
    if major in (2, 3):
        raw = data[place : place + number]
        return (raw if major == 2 else raw.decode()), place + number
    items = []
    for _ in range(number * (2 if major == 5 else 1)):
        item, place = read(data, place)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if major == 5 else items), place


def h(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def kdf(secret, session, usage, *context):
    """Section 3."""
    info = cbor([PROTOCOL, 1, session, usage, list(context)])
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def exchange(secret, public):
    private = X25519PrivateKey.from_private_bytes(secret)
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def public_key(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def keystream(key, length):
    """Section 6: eight 64-bit words for scalars, then 32-bit words."""
    raw = (
        Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(64 + 4 * length))
    )
    scalars = [int(word) for word in np.frombuffer(raw[:24], "<u8")]
    return scalars, np.frombuffer(raw[64:], "<u4").astype(np.int64)


def unpack(bits, length, data):
    low = np.frombuffer(data[: 2 * length], "<u2").astype(np.int64)
    rest = data[2 * length :]
    if bits == 16:
        return low
    if bits == 20:
        pairs = np.frombuffer(rest, np.uint8).astype(np.int64)
        return low | np.stack([pairs & 15, pairs >> 4], 1).reshape(-1)[:length] << 16
    return low | np.frombuffer(rest, np.uint8 if bits == 24 else "<u2").astype(np.int64) << 16


def multiply(a, b):
    """Section 7: GF(2^128) with x^128 + x^7 + x^2 + x + 1."""
    product = 0
    for place in range(128):
        if b >> place & 1:
            product ^= a << place
    for place in range(255, 127, -1):
        if product >> place & 1:
            product ^= (1 << 128 | 0x87) << place - 128
    return product


def share(secret, coefficients, x):
    """Section 7: one share of both blocks of a secret; coefficients highest first."""
    half, shared = len(coefficients) // 2, b""
    for block in (0, 1):
        value = 0
        for item in (*coefficients[block * half : (block + 1) * half], secret[16 * block :][:16]):
            value = multiply(value, x) ^ int.from_bytes(item, "big")
        shared += value.to_bytes(16, "big")
    return shared


def verifies(key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def signs(key, frame):
    """Section 1, frames: whether this key signed the body."""
    return verifies(key, frame[:64], b"pilot-secure frame\x01" + h(frame[64:]))


def unseal(secret, their_key, session, usage, sender, recipient, ciphertext):
    """Section 3: the content of a channel's one ciphertext."""
    key = kdf(exchange(secret, their_key), session, usage, sender, recipient)
    data = cbor([PROTOCOL, 1, session, usage, sender, recipient])
    return AESGCM(key).decrypt(bytes(12), ciphertext, data)
