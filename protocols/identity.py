"""Long-term identities and the roster that pins them.

Each party signs with one Ed25519 key for as long as it takes part; the roster lists the public
keys and is agreed on before anything else. A client's place in the roster is its coordinate in
secret sharing, so the roster fixes it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from protocols.codec import encode
from protocols.entropy import Entropy
from protocols.errors import BadSignature, ParameterError

SERVER = "server"
KEY_HOLDER = "key-holder"
SIGNATURE_BYTES = 64
MAX_NAME = 64
NAME_PATTERN = r"^[a-z0-9][a-z0-9_.\-]{0,63}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME)]


def sha256(*parts: bytes | memoryview) -> bytes:
    """Return SHA-256 of the concatenated parts (callers make the concatenation injective)."""
    digest = Hash(SHA256())
    for part in parts:
        digest.update(part)
    return digest.finalize()


class Identity:
    """A party's name and its Ed25519 signing key. Secrecy: the party alone."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        self.name = name
        self._private_key = private_key

    @classmethod
    def generate(cls, name: str, entropy: Entropy) -> Self:
        """Return a new identity; 32 bytes are read from ``entropy``."""
        return cls(name, Ed25519PrivateKey.from_private_bytes(entropy.read(32)))

    @classmethod
    def from_secret(cls, name: str, secret: bytes) -> Self:
        """Return the identity whose 32 secret bytes were saved."""
        if len(secret) != 32:
            raise ParameterError(f"identity of {name}: 32 secret bytes expected")
        return cls(name, Ed25519PrivateKey.from_private_bytes(secret))

    def secret(self) -> bytes:
        """Return the 32 secret bytes, to be saved where only this party reads."""
        return self._private_key.private_bytes_raw()

    def public_key(self) -> bytes:
        """Return the 32 bytes that go into the roster."""
        return self._private_key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``message``."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({self.name!r})"


class RosterEntry(BaseModel):
    """One party: its name and its Ed25519 public key (base64 in JSON)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    public_key: Base64Bytes

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if len(self.public_key) != 32:
            raise ValueError(f"public key of {self.name}: 32 bytes expected")
        return self


class Roster(BaseModel):
    """The pinned parties. ``clients`` in order: the first has Shamir coordinate 1.

    ``key_holder`` is the party that holds the distances' key, in runs that trust one with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: RosterEntry
    clients: tuple[RosterEntry, ...] = Field(min_length=1, max_length=4096)
    key_holder: RosterEntry | None = None

    @model_validator(mode="after")
    def _check_distinct(self) -> Self:
        entries = self.entries()
        if len({entry.name for entry in entries}) != len(entries):
            raise ValueError("two parties of the roster have one name")
        if len({entry.public_key for entry in entries}) != len(entries):
            raise ValueError("two parties of the roster have one key")
        if self.server.name != SERVER:
            raise ValueError(f"the server's name is {SERVER!r}")
        if self.key_holder is not None and self.key_holder.name != KEY_HOLDER:
            raise ValueError(f"the key holder's name is {KEY_HOLDER!r}")
        if KEY_HOLDER in self.names():
            raise ValueError(f"no client can be called {KEY_HOLDER!r}")
        return self

    @classmethod
    def of(
        cls, server: Identity, clients: list[Identity], key_holder: Identity | None = None
    ) -> Self:
        """Return the roster of these identities, clients in the given order."""
        return cls(
            server=_entry(server),
            clients=tuple(_entry(client) for client in clients),
            key_holder=None if key_holder is None else _entry(key_holder),
        )

    def entries(self) -> tuple[RosterEntry, ...]:
        """Return all parties: the server, the clients in order, the key holder if there is one."""
        holder = () if self.key_holder is None else (self.key_holder,)
        return (self.server, *self.clients, *holder)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that is checked again, so that no digest of the original stays with it."""
        return self.model_validate({**dict(self), **(update or {})})

    def digest(self) -> bytes:
        """Return the hash that aggregation parameters carry."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        entries = [[entry.name, entry.public_key] for entry in self.entries()]
        return sha256(encode(["pilot-secure roster", 1, entries]))

    def names(self) -> tuple[str, ...]:
        """Return the clients' names in order."""
        return tuple(entry.name for entry in self.clients)

    def coordinate(self, name: str) -> int:
        """Return a client's Shamir coordinate: its 1-based place."""
        if name not in self._coordinates:
            raise ParameterError(f"{name} is not in the roster")
        return self._coordinates[name]

    def verify(self, name: str, signature: bytes, message: bytes, phase: str) -> None:
        """Check an Ed25519 signature against the pinned key of ``name``.

        Raises:
            BadSignature: unknown name, or the key did not sign this message.
        """
        key = self._keys.get(name)
        if key is None:
            raise BadSignature(name, phase, "not in the pinned roster")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except InvalidSignature:
            raise BadSignature(name, phase, "the pinned key did not sign this") from None

    def signed(self, name: str, signature: bytes, message: bytes) -> bool:
        """Return whether ``name`` signed ``message``, for counting signatures that agree."""
        try:
            self.verify(name, signature, message, "")
        except BadSignature:
            return False
        return True

    @cached_property
    def _keys(self) -> dict[str, bytes]:
        return {entry.name: entry.public_key for entry in self.entries()}

    @cached_property
    def _coordinates(self) -> dict[str, int]:
        return {entry.name: place for place, entry in enumerate(self.clients, start=1)}


def _entry(identity: Identity) -> RosterEntry:
    return RosterEntry.model_construct(name=identity.name, public_key=identity.public_key())
