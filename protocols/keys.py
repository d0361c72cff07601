"""Ephemeral keys and the derivation of every symmetric key from them.

Each derived key is HKDF-SHA256 under a label that holds the protocol version, the session id, the
usage and the parties or sum it is for: no two uses share a key, and no key outlives its session.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.codec import encode
from protocols.entropy import Entropy

PROTOCOL = "pilot-secure aggregation"
VERSION = 1
KEY_BYTES = 32
TAG_BYTES = 16  # of AES-256-GCM

# The encodings of the points of order 1, 2, 4 and 8 on Curve25519 and its twist.
# Source: RFC 7748, section 6.1 demands that such keys yield no secret.
_PRIME = 2**255 - 19
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL_ORDER_KEYS = frozenset(
    value.to_bytes(32, "little") for value in (0, 1, *_ORDER_8, _PRIME - 1)
)


class UnusableKey(ValueError):
    """A public key from which no secret follows, or that has another encoding too."""


def check_public_key(public_key: bytes) -> None:
    """Refuse X25519 public keys with a known secret, or not in their one canonical encoding.

    Deviation from RFC 7748, which reduces values from p to 2^256 - 1: two encodings of one key
    would pass for two keys.

    Raises:
        UnusableKey: a value that is not below p (a set top bit included), or a point of small
            order.
    """
    if int.from_bytes(public_key, "little") >= _PRIME:
        raise UnusableKey("a key that is not canonical: not below 2^255 - 19")
    if public_key in SMALL_ORDER_KEYS:
        raise UnusableKey("a point of small order")


@dataclass(frozen=True)
class KeyPair:
    """One X25519 pair. Secrecy: the owner; the mask key's secret is shared among the cohort."""

    secret: bytes = field(repr=False)

    @cached_property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return X25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()

    def exchange(self, public_key: bytes) -> bytes:
        """Return the 32-byte X25519 secret shared with the owner of ``public_key``."""
        check_public_key(public_key)
        peer = X25519PublicKey.from_public_bytes(public_key)
        return X25519PrivateKey.from_private_bytes(self.secret).exchange(peer)


@dataclass(frozen=True)
class EphemeralKeys:
    """The three fresh pairs of one client in one attempt."""

    share: KeyPair
    mask: KeyPair
    recipient: KeyPair

    @staticmethod
    def generate(entropy: Entropy) -> EphemeralKeys:
        """Return fresh pairs; three times 32 bytes are read."""
        return EphemeralKeys(*(KeyPair(entropy.read(KEY_BYTES)) for _ in range(3)))


def derive(secret: bytes, session: bytes, usage: str, *context: str) -> bytes:
    """Return 32 bytes of HKDF-SHA256 under (protocol, version, session, usage, context)."""
    info = encode([PROTOCOL, VERSION, session, usage, list(context)])
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def pairwise_mask_key(secret: bytes, session: bytes, sum_id: str, one: str, other: str) -> bytes:
    """Return the key of the mask that ``one`` and ``other`` share for a sum."""
    first, second = sorted((one, other))
    return derive(secret, session, "pairwise-mask", sum_id, first, second)


def self_mask_key(seed: bytes, session: bytes, sum_id: str, owner: str) -> bytes:
    """Return the key of ``owner``'s self mask for a sum."""
    return derive(seed, session, "self-mask", sum_id, owner)


def recipient_mask_key(
    secret: bytes, session: bytes, sum_id: str, contributor: str, recipient: str
) -> bytes:
    """Return the key of the mask that only ``recipient`` can take off a sealed sum."""
    return derive(secret, session, "recipient-mask", sum_id, contributor, recipient)


@dataclass(frozen=True)
class Channel:
    """AES-256-GCM from one client to another, one message per usage and session.

    The key holds session, usage, sender and recipient, and encrypts one message only, so the
    nonce is zero; the same labels are the associated data.
    """

    shared_secret: bytes = field(repr=False)
    session: bytes

    def _parts(self, usage: str, sender: str, recipient: str) -> tuple[AESGCM, bytes]:
        key = derive(self.shared_secret, self.session, usage, sender, recipient)
        data = encode([PROTOCOL, VERSION, self.session, usage, sender, recipient])
        return AESGCM(key), data

    def seal(self, usage: str, sender: str, recipient: str, plaintext: bytes) -> bytes:
        """Return the ciphertext, 16 bytes longer than the plaintext."""
        cipher, data = self._parts(usage, sender, recipient)
        return cipher.encrypt(bytes(12), plaintext, data)

    def open(self, usage: str, sender: str, recipient: str, ciphertext: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            ValueError: the ciphertext was not made for this session, usage and pair.
        """
        cipher, data = self._parts(usage, sender, recipient)
        try:
            return cipher.decrypt(bytes(12), ciphertext, data)
        except InvalidTag:
            raise ValueError("does not open") from None
