"""Squared distances between sketches under peer trust: no secret key is shared.

Client k encrypts its sketch x_k under its own fresh key. Client j, who knows x_j, returns one
ciphertext of ‖x_j‖²/2 − ⟨x_k, x_j⟩, of which k can open one number only; with ‖x_k‖²/2 added and
doubled that is ‖x_k − x_j‖². Contents of the frames, of fixed length for public parameters::

    upload = seed (32) ‖ public key body ‖ chunk bodies
    reply  = closing hash of the upload ‖ constant ‖ second polynomial

Who sent a message is for the signature around it, which the caller has verified before any of
this code sees the bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .ckks import CkksError, Ring, SecretKey
from .ckks_check import ring_for
from .distance_frames import (
    DIGEST_BYTES,
    FRAME_BYTES,
    SEED_BYTES,
    Kind,
    close_frame,
    closing_hash,
    header,
    open_frame,
)
from .distance_values import (
    PHASE,
    NormBoundExceeded,
    RandomSource,
    checked_sketch,
    released,
    slot_chunks,
    uniform_flood,
)
from .errors import BadDistance, LocalProtocolError
from .parameter_sets import PARAMETER_SETS, ParameterSet
from .parameter_sets import parameter_set as lookup
from .residues import ResidueError, Residues, pack, unpack
from .seal_streams import expand_seed

__all__ = [
    "PARAMETER_SETS",
    "DistanceParty",
    "NormBoundExceeded",
    "check_upload",
    "reply_length",
    "upload_length",
]


def upload_length(name: str, sketch_length: int) -> int:
    """Bytes of an upload of ``sketch_length`` numbers under the named parameter set."""
    return FRAME_BYTES + _upload_content(lookup(name, "peer"), sketch_length)


def reply_length(name: str) -> int:
    """Bytes of one reply under the named parameter set, whatever the sketch's length."""
    return FRAME_BYTES + _reply_content(lookup(name, "peer"))


def _upload_content(parameters: ParameterSet, sketch_length: int) -> int:
    key = parameters.polynomial_bytes(len(parameters.prime_bits))
    chunk = parameters.polynomial_bytes(len(parameters.prime_bits) - 1)
    return SEED_BYTES + key + parameters.num_chunks(sketch_length) * chunk


def _reply_content(parameters: ParameterSet) -> int:
    return DIGEST_BYTES + parameters.residue_bytes(0) + parameters.polynomial_bytes(1)


def check_upload(upload: bytes, name: str, sketch_length: int, sender: str) -> None:
    """Refuse an upload that no peer could answer. SEAL reads none of it.

    Raises:
        BadDistance: naming ``sender``; another length, header, hash, sketch length or set, or a
            residue that is not below its prime.
    """
    _upload_rows(upload, ring_for(lookup(name, "peer")), sketch_length, sender)


def _upload_rows(
    upload: bytes, ring: Ring, sketch_length: int, sender: str
) -> tuple[bytes, Residues, list[Residues]]:
    """The seed, the public key's body and the chunks' of an upload in canonical form."""
    parameters = ring.parameters
    head = header(Kind.UPLOAD, parameters, sketch_length)
    content = open_frame(upload, head, _upload_content(parameters, sketch_length), sender)
    seed, body = content[:SEED_BYTES], content[SEED_BYTES:]
    key_bytes = parameters.polynomial_bytes(len(ring.primes))
    chunk_bytes = parameters.polynomial_bytes(len(ring.data_primes))
    try:
        key_body = unpack(body[:key_bytes], ring.degree, ring.primes)
        rows = [
            unpack(body[start : start + chunk_bytes], ring.degree, ring.data_primes)
            for start in range(key_bytes, len(body), chunk_bytes)
        ]
    except ResidueError as error:
        raise BadDistance(sender, PHASE, str(error)) from error
    return seed, key_body, rows


class DistanceParty:
    """One client's part in one aggregation: fresh keys, one committed upload.

    Args:
        vector_sketch: this client's sketch (or whole vector), finite, norm at most the bound.
        parameter_set: name in :data:`PARAMETER_SETS`, of peer trust.
        norm_bound: public bound B on every client's sketch norm.
        entropy: seeds and flooding come from here; key and error randomness is SEAL's own.

    Raises:
        ParameterError, InputError, NormBoundExceeded: before anything is encrypted.

    It can be pickled between two phases, for a client whose process ends with its answer.

    Secrecy: the object holds the secret key and the sketch, and so does its pickle; only
    :meth:`upload` and :meth:`reply` return something that may leave the client.
    """

    def __init__(
        self,
        vector_sketch: npt.ArrayLike,
        parameter_set: str,
        norm_bound: float,
        entropy: RandomSource,
    ) -> None:
        self._parameters = lookup(parameter_set, "peer")
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

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_operands": None}  # SEAL's own objects, which follow from the rest

    @property
    def parameters(self) -> ParameterSet:
        """The parameter set in use."""
        return self._parameters

    def upload(self) -> bytes:
        """This client's committed upload: the same bytes at every call."""
        if self._upload is None:
            self._secret = SecretKey(self._ring)
            content = self._encrypted_sketch(self._secret, self._entropy.read(SEED_BYTES))
            self._upload = close_frame(self._header(Kind.UPLOAD), content)
            self._answered.add(closing_hash(self._upload))
        return self._upload

    def reply(self, upload: bytes, sender: str = "peer") -> bytes:
        """Answer a peer's upload with one flooded, re-randomised ciphertext.

        ``sender`` names the peer in errors. An upload is answered once: a second answer would
        average the flooding away.

        Raises:
            BadDistance: another length, header, hash, sketch length or set; a residue out of
                range.
            LocalProtocolError: this upload has been answered before, or is this client's own.
        """
        key, chunks = self._parse_upload(upload, sender)
        upload_digest = closing_hash(upload)
        if upload_digest in self._answered:
            raise LocalProtocolError(f"the upload of {sender} has been answered before")
        self._answered.add(upload_digest)
        try:
            total = self._ring.inner_product(chunks, self._own_operands())
            self._ring.add_encryption(total, key, self._flooded_half_norm())
            self._ring.to_last_level(total)
            constant, second = self._ring.extract_constant(total)
        except CkksError as error:
            raise BadDistance(sender, PHASE, str(error)) from error
        width = self._parameters.residue_bytes(0)
        body = constant.to_bytes(width, "little") + pack(second, self._ring.primes[:1])
        return close_frame(self._header(Kind.REPLY), upload_digest + body)

    def open(self, reply: bytes, sender: str = "peer") -> float:
        """The squared distance to the peer who sent ``reply``, in the vector's units squared.

        Flooded again and rounded to the set's resolution: what follows from it is published, and a
        malicious peer need not flood. An honest result is within the set's error bound.

        Raises:
            BadDistance: malformed, for another upload, or impossible given this client's norm
                and the bound on the peer's.
            LocalProtocolError: there is no upload that could have been answered.
        """
        if self._secret is None or self._upload is None:
            raise LocalProtocolError("a reply was opened before the upload was made")
        constant, second = self._parse_reply(reply, closing_hash(self._upload), sender)
        try:
            coefficient = self._secret.decrypt_constant(constant, second)
        except CkksError as error:
            raise BadDistance(sender, PHASE, str(error)) from error
        divisor = math.prod(self._ring.data_primes[1:])
        value = coefficient * divisor
        value += uniform_flood(self._entropy, self._parameters.flood_width_bits)
        half = value / math.exp2(self._parameters.result_scale_bits)
        own_square = float(self._vector @ self._vector)
        squared = released(2 * half + own_square, math.sqrt(own_square), self._parameters, sender)
        return squared * self._norm_bound**2

    def _encrypted_sketch(self, secret: SecretKey, seed: bytes) -> bytes:
        """Seed, public key body and chunk bodies; each uniform half has its own expansion."""
        key_body = secret.public_key_body(expand_seed(seed, "public key", 0))
        parts = [seed, pack(key_body, self._ring.primes)]
        scale = math.ldexp(1.0, self._parameters.upload_scale_bits)
        for index, slots in enumerate(slot_chunks(self._vector, self._ring.degree)):
            chunk_seed = expand_seed(seed, "upload chunk", index)
            body = secret.encrypt_seeded(self._ring.encode(slots * scale), chunk_seed)
            parts.append(pack(body, self._ring.data_primes))
        return b"".join(parts)

    def _own_operands(self) -> list[Any]:
        """The plaintexts of −conj(x_j), encoded once for all peers."""
        if self._operands is None:
            scale = math.ldexp(1.0, self._parameters.operand_scale_bits)
            slots = slot_chunks(self._vector, self._ring.degree)
            self._operands = [self._operand(np.conj(row) * -scale) for row in slots]
        return self._operands

    def _operand(self, slots: npt.NDArray[np.complex128]) -> Any:
        """The plaintext of scaled slots; where it would be zero, the polynomial 1 at scale 1.

        SEAL refuses products that are visibly zero; 1 in place of 0 is below the last bit of any
        result, and takes the same time.
        """
        plaintext = self._ring.encode(slots)
        return self._ring.constant_plaintext(1) if plaintext.is_zero() else plaintext

    def _flooded_half_norm(self) -> int:
        half = float(self._vector @ self._vector) / 2
        scaled = round(half * math.exp2(self._parameters.result_scale_bits))
        return scaled + uniform_flood(self._entropy, self._parameters.flood_width_bits)

    def _header(self, kind: Kind) -> bytes:
        return header(kind, self._parameters, self._vector.size)

    def _parse_upload(self, upload: bytes, sender: str) -> tuple[Any, list[Any]]:
        """Check length, header, hash and residues, then have SEAL load key and chunks."""
        ring = self._ring
        seed, key_body, rows = _upload_rows(upload, ring, self._vector.size, sender)
        try:
            key = ring.seeded_public_key(key_body, expand_seed(seed, "public key", 0))
            chunks = [
                ring.seeded_ciphertext(row, expand_seed(seed, "upload chunk", index))
                for index, row in enumerate(rows)
            ]
        except CkksError as error:
            raise BadDistance(sender, PHASE, str(error)) from error
        return key, chunks

    def _parse_reply(self, reply: bytes, answered: bytes, sender: str) -> tuple[int, Residues]:
        """Check length, header, hash, the upload that was answered, and residues."""
        content = open_frame(
            reply, self._header(Kind.REPLY), _reply_content(self._parameters), sender
        )
        if content[:DIGEST_BYTES] != answered:
            raise BadDistance(sender, PHASE, "the reply answers another upload")
        return parse_extraction(content[DIGEST_BYTES:], self._ring, sender)


def parse_extraction(body: bytes, ring: Ring, sender: str) -> tuple[int, Residues]:
    """Constant coefficient and second polynomial, with canonical residues.

    Raises:
        BadDistance: a length or residue is wrong.
    """
    width = ring.parameters.residue_bytes(0)
    constant = int.from_bytes(body[:width], "little")
    try:
        second = unpack(body[width:], ring.degree, ring.primes[:1])
    except ResidueError as error:
        raise BadDistance(sender, PHASE, str(error)) from error
    if constant >= ring.primes[0]:
        raise BadDistance(sender, PHASE, "a residue is not below its prime")
    return constant, second
