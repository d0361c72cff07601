"""Squared distances between sketches under peer trust: no secret key is shared.

Client k encrypts its sketch x_k under its own fresh key. Client j, who knows x_j, returns one
ciphertext of ‖x_j‖²/2 − ⟨x_k, x_j⟩, of which k can open one number only; with ‖x_k‖²/2 added and
doubled that is ‖x_k − x_j‖². Messages are fixed-length for public parameters::

    upload = header ‖ seed (32) ‖ public key body ‖ chunk bodies ‖ SHA-256 of all before
    reply  = header ‖ SHA-256(upload) ‖ constant ‖ second polynomial ‖ SHA-256 of all before
    header = "PSD" kind version set-code ‖ sketch length (u32)

The closing hash finds accidents; who sent a message is for the signature around it, which the
caller has verified before any of this code sees the bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .ckks import CkksError, Ring, SecretKey, expand_seed, ring_for
from .errors import BadDistance, InputError, LocalProtocolError
from .parameter_sets import PARAMETER_SETS, ParameterSet, parameter_set
from .residues import ResidueError, Residues, pack, unpack

__all__ = [
    "PARAMETER_SETS",
    "DistanceParty",
    "NormBoundExceeded",
    "reply_length",
    "upload_length",
]

Vector = npt.NDArray[np.float64]

_HEADER = struct.Struct("<3sBBBI")
_VERSION = 1
_UPLOAD, _REPLY = 0x55, 0x52
_SEED_BYTES = _DIGEST_BYTES = 32
MAX_SKETCH_LENGTH = 1 << 22
_PHASE = "distances"


class RandomSource(Protocol):
    """What this file needs of an entropy source."""

    def read(self, num_bytes: int) -> bytes:
        """Return ``num_bytes`` fresh random bytes."""


class NormBoundExceeded(InputError):
    """A sketch longer than the public bound: it would wrap around or leave the error bound.

    ``norm`` and ``norm_bound`` are in the units of the vector; the message names the bound only.
    """

    def __init__(self, norm: float, norm_bound: float) -> None:
        super().__init__(
            f"the sketch's norm is above the public bound of {norm_bound:g}; clip the update or "
            "raise the bound for every client"
        )
        self.norm = norm
        self.norm_bound = norm_bound


def upload_length(name: str, sketch_length: int) -> int:
    """Bytes of an upload of ``sketch_length`` numbers under the named parameter set."""
    parameters = parameter_set(name, "peer")
    key = parameters.polynomial_bytes(len(parameters.prime_bits))
    chunk = parameters.polynomial_bytes(len(parameters.prime_bits) - 1)
    chunks = parameters.num_chunks(sketch_length)
    return _HEADER.size + _SEED_BYTES + key + chunks * chunk + _DIGEST_BYTES


def reply_length(name: str) -> int:
    """Bytes of one reply under the named parameter set, whatever the sketch's length."""
    parameters = parameter_set(name, "peer")
    body = parameters.residue_bytes(0) + parameters.polynomial_bytes(1)
    return _HEADER.size + 2 * _DIGEST_BYTES + body


def checked_sketch(sketch: npt.ArrayLike, norm_bound: float) -> Vector:
    """The sketch in units of the norm bound, as float64.

    Raises:
        InputError: not a finite vector of 1 to 2^22 numbers, or a bound that is no positive
            number.
        NormBoundExceeded: the norm is above the bound.
    """
    vector = np.asarray(sketch, np.float64)
    if vector.ndim != 1 or not 1 <= vector.size <= MAX_SKETCH_LENGTH:
        raise InputError(f"a sketch is a vector of 1 to {MAX_SKETCH_LENGTH} numbers")
    if not (math.isfinite(norm_bound) and norm_bound > 0):
        raise InputError("the norm bound must be a positive finite number")
    if not np.all(np.isfinite(vector)):
        raise InputError("the sketch contains NaN or infinity")
    norm = float(np.linalg.norm(vector))
    if norm > norm_bound * (1 + 1e-9):
        raise NormBoundExceeded(norm, norm_bound)
    return vector / norm_bound


def slot_chunks(vector: Vector, degree: int) -> npt.NDArray[np.complex128]:
    """Pack a vector into [chunks, N/2] complex slots, two numbers a slot, zero-padded."""
    chunks = -(-vector.size // degree)
    padded = np.zeros(chunks * degree)
    padded[: vector.size] = vector
    pairs = padded.reshape(chunks, degree // 2, 2)
    slots: npt.NDArray[np.complex128] = pairs[..., 0] + 1j * pairs[..., 1]
    return slots


def uniform_flood(entropy: RandomSource, width_bits: int) -> int:
    """A uniform integer on [-2^w, 2^w)."""
    num_bits = width_bits + 1
    drawn = int.from_bytes(entropy.read(-(-num_bits // 8)), "little")
    return (drawn & ((1 << num_bits) - 1)) - (1 << width_bits)


class DistanceParty:
    """One client's part in one aggregation: fresh keys, one committed upload.

    Args:
        vector_sketch: this client's sketch (or whole vector), finite, norm at most the bound.
        parameter_set: name in :data:`PARAMETER_SETS`, of peer trust.
        norm_bound: public bound B on every client's sketch norm.
        entropy: seeds and flooding come from here; key and error randomness is SEAL's own.

    Raises:
        ParameterError, InputError, NormBoundExceeded: before anything is encrypted.

    Secrecy: the object holds the secret key and the sketch; only :meth:`upload` and
    :meth:`reply` return something that may leave the client.
    """

    def __init__(
        self,
        vector_sketch: npt.ArrayLike,
        parameter_set: str,
        norm_bound: float,
        entropy: RandomSource,
    ) -> None:
        self._parameters = _peer_parameters(parameter_set)
        self._vector = checked_sketch(vector_sketch, norm_bound)
        self._norm_bound = float(norm_bound)
        self._entropy = entropy
        self._ring: Ring = ring_for(self._parameters)
        self._secret: SecretKey | None = None
        self._upload: bytes | None = None
        self._operands: list[Any] | None = None
        self._answered: set[bytes] = set()

    def __repr__(self) -> str:
        return f"DistanceParty({self._parameters.name}, {self._vector.size} numbers, hidden)"

    @property
    def parameters(self) -> ParameterSet:
        """The parameter set in use."""
        return self._parameters

    def upload(self) -> bytes:
        """This client's committed upload: the same bytes at every call."""
        if self._upload is None:
            self._secret = SecretKey(self._ring)
            seed = self._entropy.read(_SEED_BYTES)
            key_body = self._secret.public_key_body(expand_seed(seed, "public key", 0))
            parts = [self._header(_UPLOAD), seed, pack(key_body, self._ring.primes)]
            scale = 2.0**self._parameters.upload_scale_bits
            for index, slots in enumerate(slot_chunks(self._vector, self._ring.degree)):
                chunk_seed = expand_seed(seed, "upload chunk", index)
                plaintext = self._ring.encode(slots * scale)
                body = self._secret.encrypt_seeded(plaintext, chunk_seed)
                parts.append(pack(body, self._ring.data_primes))
            self._upload = _sealed(b"".join(parts))
            self._answered.add(_digest(self._upload))
        return self._upload

    def reply(self, upload: bytes, sender: str = "peer") -> bytes:
        """Answer a peer's upload with one flooded, re-randomised ciphertext.

        ``sender`` names the peer in errors. An upload is answered once: a second answer would
        average the flooding away.

        Raises:
            BadDistance: another length, header, hash, sketch length or set; a residue out of
                range; this client's own upload.
            LocalProtocolError: this upload has been answered before.
        """
        digest = _digest(upload)
        key, chunks = self._parse_upload(upload, sender)
        if digest in self._answered:
            raise LocalProtocolError(f"the upload of {sender} has been answered before")
        self._answered.add(digest)
        try:
            total = self._ring.inner_product(chunks, self._own_operands())
            self._ring.add_encryption(total, key, self._flooded_half_norm())
            self._ring.to_last_level(total)
            constant, second = self._ring.extract_constant(total)
        except CkksError as error:
            raise BadDistance(sender, _PHASE, str(error)) from error
        width = self._parameters.residue_bytes(0)
        body = constant.to_bytes(width, "little") + pack(second, self._ring.primes[:1])
        return _sealed(self._header(_REPLY) + digest + body)

    def open(self, reply: bytes, sender: str = "peer") -> float:
        """The squared distance to the peer who sent ``reply``, in the vector's units squared.

        Rounded to the set's resolution; an honest result is within the set's error bound.

        Raises:
            BadDistance: malformed, for another upload, or impossible given this client's norm
                and the bound on the peer's.
            LocalProtocolError: there is no upload that could have been answered.
        """
        if self._secret is None or self._upload is None:
            raise LocalProtocolError("a reply was opened before the upload was made")
        constant, second = self._parse_reply(reply, sender)
        try:
            coefficient = self._secret.decrypt_constant(constant, second)
        except CkksError as error:
            raise BadDistance(sender, _PHASE, str(error)) from error
        divisor = math.prod(self._ring.data_primes[1:])
        half = coefficient * divisor / math.exp2(self._parameters.result_scale_bits)
        squared = 2 * half + float(self._vector @ self._vector)
        return released(squared, float(np.linalg.norm(self._vector)), self._parameters, sender) * (
            self._norm_bound**2
        )

    def _own_operands(self) -> list[Any]:
        """The plaintexts of −conj(x_j), encoded once for all peers."""
        if self._operands is None:
            scale = 2.0**self._parameters.operand_scale_bits
            slots = slot_chunks(self._vector, self._ring.degree)
            self._operands = [self._ring.encode(np.conj(row) * -scale) for row in slots]
        return self._operands

    def _flooded_half_norm(self) -> int:
        scaled = (
            float(self._vector @ self._vector) / 2 * math.exp2(self._parameters.result_scale_bits)
        )
        return round(scaled) + uniform_flood(self._entropy, self._parameters.flood_width_bits)

    def _header(self, kind: int) -> bytes:
        code = self._parameters.code
        return _HEADER.pack(b"PSD", kind, _VERSION, code, self._vector.size)

    def _parse_upload(self, upload: bytes, sender: str) -> tuple[Any, list[Any]]:
        """Check length, header, hash and residues, then have SEAL load key and chunks."""
        expected = upload_length(self._parameters.name, self._vector.size)
        content = _opened(upload, expected, self._header(_UPLOAD), sender)
        seed, body = content[:_SEED_BYTES], content[_SEED_BYTES:]
        ring, parameters = self._ring, self._parameters
        key_bytes = parameters.polynomial_bytes(len(ring.primes))
        chunk_bytes = parameters.polynomial_bytes(len(ring.data_primes))
        try:
            key_body = unpack(body[:key_bytes], ring.degree, ring.primes)
            key = ring.seeded_public_key(key_body, expand_seed(seed, "public key", 0))
            chunks = []
            for index, start in enumerate(range(key_bytes, len(body), chunk_bytes)):
                chunk = body[start : start + chunk_bytes]
                residues = unpack(chunk, ring.degree, ring.data_primes)
                chunk_seed = expand_seed(seed, "upload chunk", index)
                chunks.append(ring.seeded_ciphertext(residues, chunk_seed))
        except (ResidueError, CkksError) as error:
            raise BadDistance(sender, _PHASE, str(error)) from error
        return key, chunks

    def _parse_reply(self, reply: bytes, sender: str) -> tuple[int, Residues]:
        """Check length, header, hash, the upload that was answered, and residues."""
        expected = reply_length(self._parameters.name)
        content = _opened(reply, expected, self._header(_REPLY), sender)
        assert self._upload is not None
        if content[:_DIGEST_BYTES] != _digest(self._upload):
            raise BadDistance(sender, _PHASE, "the reply answers another upload")
        width = self._parameters.residue_bytes(0)
        body = content[_DIGEST_BYTES:]
        constant = int.from_bytes(body[:width], "little")
        try:
            second = unpack(body[width:], self._ring.degree, self._ring.primes[:1])
        except ResidueError as error:
            raise BadDistance(sender, _PHASE, str(error)) from error
        if constant >= self._ring.primes[0]:
            raise BadDistance(sender, _PHASE, "a residue is not below its prime")
        return constant, second


def released(squared: float, own_norm: float, parameters: ParameterSet, sender: str) -> float:
    """Range-check and round a decrypted squared distance, all in units of the norm bound.

    The triangle inequality with the peer's norm at most 1 gives
    max(0, own_norm − 1)² ≤ d² ≤ (own_norm + 1)², widened by the error bound.

    Raises:
        BadDistance: outside that range.
    """
    slack = parameters.error_bound
    low, high = max(0.0, own_norm - 1) ** 2, (own_norm + 1) ** 2
    if not low - slack <= squared <= high + slack:
        raise BadDistance(sender, _PHASE, "the opened distance is impossible under the norm bound")
    return max(0.0, round(squared / parameters.resolution) * parameters.resolution)


def _peer_parameters(name: str) -> ParameterSet:
    return parameter_set(name, "peer")


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _sealed(content: bytes) -> bytes:
    return content + _digest(content)


def _opened(message: bytes, expected_length: int, header: bytes, sender: str) -> bytes:
    """The content between header and closing hash, once length, header and hash are right."""
    if len(message) != expected_length:
        reason = f"{len(message)} bytes, expected {expected_length}"
        raise BadDistance(sender, _PHASE, reason)
    if not message.startswith(header):
        raise BadDistance(sender, _PHASE, "other parameters or another kind of message")
    content, digest = message[:-_DIGEST_BYTES], message[-_DIGEST_BYTES:]
    if _digest(content) != digest:
        raise BadDistance(sender, _PHASE, "damaged: the closing hash does not fit")
    return content[len(header) :]
