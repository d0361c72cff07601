"""CKKS through TenSEAL's binding of SEAL: the one file that imports it.

SEAL does not treat its input as hostile, and its binding reads and writes paths only. So:

- No byte of another party reaches SEAL's parsers as such. A message carries seeds and canonical
  residues (:mod:`protocols.residues`); this file writes every header, identifier and length
  itself, uncompressed, into an in-memory file that SEAL then reads. What a peer controls are
  values below the primes, nothing else.
- The uniform half ``a`` of a public key or of an upload is always expanded by SEAL's own
  generator from a hash of a seed: there is no way to state it.
- The binding can write compressed streams only, so residues leave SEAL one by one.

SEAL's layout is checked when a ring is built (:meth:`Ring._self_check`), before any use.
Randomness of keys and encryption errors is SEAL's own, from the operating system.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal

from .errors import ProtocolError
from .parameter_sets import ParameterSet
from .residues import (
    Residues,
    add_modulo,
    multiply_modulo,
    subtract_modulo,
    sum_modulo,
)

_Result = TypeVar("_Result")
_HEADER = struct.Struct("<HBBBBHQ")
_UNCOMPRESSED = 0
_BLAKE2XB = 1
_SEED_LABEL = b"pilot-secure ckks uniform half v1"


class CkksError(ProtocolError):
    """SEAL refused an operation or an object.

    ::

        CkksError
        └── BackendMismatch    this build of SEAL is not the one this code was written for
    """


class BackendMismatch(CkksError):
    """SEAL's parameters, primes or byte layout are not what this file relies on."""


def _guarded(operation: Callable[..., _Result], *arguments: Any) -> _Result:
    """Run one SEAL call, turning its exceptions into :class:`CkksError`."""
    try:
        return operation(*arguments)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise CkksError(f"SEAL: {error}") from error


def _load(kind: Callable[[], Any], context: Any, stream: bytes) -> Any:
    """Have SEAL read ``stream`` from an in-memory file."""
    descriptor = os.memfd_create("seal")
    try:
        view = memoryview(stream)
        while view:
            view = view[os.write(descriptor, view) :]
        loaded = kind()
        _guarded(loaded.load, context, f"/proc/self/fd/{descriptor}")
        return loaded
    finally:
        os.close(descriptor)


def _saved_header() -> tuple[int, int, int, int]:
    """Magic, header length, major and minor version as this SEAL writes them."""
    descriptor = os.memfd_create("seal")
    try:
        seal.Plaintext("1").save(f"/proc/self/fd/{descriptor}")
        fields = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
        return fields[0], fields[1], fields[2], fields[3]
    finally:
        os.close(descriptor)


def expand_seed(seed: bytes, domain: str, index: int) -> bytes:
    """The 64-byte generator seed of one uniform polynomial: a hash, so nobody can aim it."""
    encoded = domain.encode()
    framing = struct.pack("<BQQ", len(encoded), index, len(seed))
    return hashlib.sha512(_SEED_LABEL + framing + encoded + seed).digest()


def conjugate(residues: Residues) -> Residues:
    """The automorphism X -> 1/X on residues in NTT form: conjugates all slots.

    In SEAL's bit-reversed order place i holds the value at ψ^(2 br(i) + 1), whose inverse is at
    place N - 1 - i.
    """
    return np.ascontiguousarray(residues[..., ::-1])


def _column(primes: tuple[int, ...]) -> Residues:
    return np.array(primes, np.uint64)[:, None]


class Prepared(NamedTuple):
    """One chunk of an upload, loaded for conjugate products."""

    ciphertext: Any
    conjugate: Any
    first_conjugate: Any
    second: Any


class Ring:
    """One parameter set's contexts and evaluator; holds no secret and is shared by all parties."""

    def __init__(self, parameters: ParameterSet) -> None:
        parameters.check()
        self.parameters = parameters
        self.degree = parameters.degree
        self._magic, self._header_bytes, self._major, self._minor = _saved_header()
        setup = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        setup.set_poly_modulus_degree(self.degree)
        moduli = seal.CoeffModulus.Create(self.degree, list(parameters.prime_bits))
        setup.set_coeff_modulus(moduli)
        self.primes = tuple(int(modulus.value()) for modulus in moduli)
        self.context = seal.SEALContext(setup, True, seal.SEC_LEVEL_TYPE.TC128)
        self._check_context()
        self.data_primes = self.primes[:-1]
        self.evaluator = seal.Evaluator(self.context)
        self._encoder = seal.CKKSEncoder(self.context)
        self.data_level = list(self.context.first_parms_id())
        self.key_level = list(self.context.key_parms_id())
        self.last_level = list(self.context.last_parms_id())
        self._self_check()

    def _check_context(self) -> None:
        """SEAL accepts the set at 128 bits and its primes have the sizes that were asked for."""
        if not self.context.parameters_set():
            raise BackendMismatch(f"SEAL: {self.context.parameters_error_message()}")
        limit = seal.CoeffModulus.MaxBitCount(self.degree, seal.SEC_LEVEL_TYPE.TC128)
        bits = tuple(prime.bit_length() for prime in self.primes)
        well_formed = all(prime % (2 * self.degree) == 1 for prime in self.primes)
        if sum(bits) > limit or bits != self.parameters.prime_bits or not well_formed:
            raise BackendMismatch(f"SEAL gave primes of {bits} bits, limit {limit}")

    # Streams that this file writes and SEAL reads

    def _wrap(self, body: bytes) -> bytes:
        length = self._header_bytes + len(body)
        fields = (self._magic, self._header_bytes, self._major, self._minor)
        return _HEADER.pack(*fields, _UNCOMPRESSED, 0, length) + body

    def _array(self, residues: Residues) -> bytes:
        words = np.ascontiguousarray(residues, "<u8").ravel()
        return self._wrap(struct.pack("<Q", words.size) + words.tobytes())

    def _ciphertext_stream(self, level: list[int], residues: Residues, seed: bytes | None) -> bytes:
        """A ciphertext of two polynomials; the second comes from ``seed`` when there is one."""
        num_primes = residues.shape[-2]
        sizes = struct.pack("<QQQdQ", 2, self.degree, num_primes, 1.0, 1)
        body = struct.pack("<4Q", *level) + b"\x01" + sizes + self._array(residues)
        if seed is not None:
            body += self._wrap(bytes([_BLAKE2XB]) + seed)
        return self._wrap(body)

    def seeded_ciphertext(self, body: Residues, seed: bytes) -> Any:
        """The ciphertext (body, expand(seed)); body [data primes, N] in NTT form."""
        stream = self._ciphertext_stream(self.data_level, body, seed)
        return _load(seal.Ciphertext, self.context, stream)

    def plain_ciphertext(self, polynomials: Residues) -> Any:
        """A ciphertext from [2, primes, N] residues in NTT form: one prime or all data primes."""
        single = polynomials.shape[1] == 1
        level = self.last_level if single else self.data_level
        return _load(
            seal.Ciphertext, self.context, self._ciphertext_stream(level, polynomials, None)
        )

    def seeded_public_key(self, body: Residues, seed: bytes) -> Any:
        """The public key (body, expand(seed)); body [all primes, N] in NTT form."""
        stream = self._ciphertext_stream(self.key_level, body, seed)
        return _load(seal.PublicKey, self.context, stream)

    def switching_keys(self, bodies: list[Residues], seeds: list[bytes]) -> Any:
        """Keys that switch the third polynomial of a product back to s.

        ``bodies`` are [all primes, N], one per data prime, each over its own expanded seed; see
        :meth:`SecretKey.switching_key_bodies`.
        """
        digits = [
            self._ciphertext_stream(self.key_level, body, seed)
            for body, seed in zip(bodies, seeds, strict=True)
        ]
        head = struct.pack("<4QQQ", *self.key_level, 1, len(digits))
        return _load(seal.RelinKeys, self.context, self._wrap(head + b"".join(digits)))

    def plaintext(self, residues: Residues) -> Any:
        """The plaintext of scale 1 with these [data primes, N] residues in NTT form."""
        body = struct.pack("<4QQd", *self.data_level, residues.size, 1.0) + self._array(residues)
        return _load(seal.Plaintext, self.context, self._wrap(body))

    def constant_plaintext(self, value: int) -> Any:
        """The constant polynomial ``value`` modulo q, as a plaintext of scale 1."""
        columns = np.array([[value % prime] for prime in self.data_primes], np.uint64)
        return self.plaintext(np.repeat(columns, self.degree, axis=1))

    # Encoding and reading

    def encode(self, slots: npt.NDArray[np.complex128]) -> Any:
        """Encode [N/2] complex slots, already scaled, as a plaintext of nominal scale 1."""
        plaintext = seal.Plaintext()
        _guarded(self._encoder.encode, slots.tolist(), 1.0, plaintext)
        return plaintext

    def residues(
        self, source: Any, num_polynomials: int, num_primes: int, first: int = 0
    ) -> Residues:
        """Read [num_polynomials, num_primes, N] residues out of a SEAL object, one by one.

        ``first`` polynomials are passed over.
        """
        size = num_polynomials * num_primes * self.degree
        start = first * num_primes * self.degree
        indices = range(start, start + size)
        flat: Residues = np.fromiter(map(source.__getitem__, indices), np.uint64, size)
        return flat.reshape(num_polynomials, num_primes, self.degree)

    # Arithmetic

    def inner_product(self, ciphertexts: Iterable[Any], operands: Iterable[Any]) -> Any:
        """Σ ciphertext · plaintext over chunks: plaintext products only, no relinearisation."""
        total: Any = None
        for ciphertext, operand in zip(ciphertexts, operands, strict=True):
            if total is None:
                total = ciphertext
                _guarded(self.evaluator.multiply_plain_inplace, total, operand)
            else:
                _guarded(self.evaluator.multiply_plain_inplace, ciphertext, operand)
                _guarded(self.evaluator.add_inplace, total, ciphertext)
        return total

    def inner_product_into(self, ciphertexts: Iterable[Any], operands: Iterable[Any]) -> Any:
        """As :meth:`inner_product`, leaving the ciphertexts as they are."""
        total, product = seal.Ciphertext(), seal.Ciphertext()
        for index, (left, right) in enumerate(zip(ciphertexts, operands, strict=True)):
            target = product if index else total
            _guarded(self.evaluator.multiply_plain, left, right, target)
            if index:
                _guarded(self.evaluator.add_inplace, total, product)
        return total

    def add_encryption(self, total: Any, public_key: Any, value: int) -> None:
        """Add a fresh public-key encryption of the constant ``value`` to ``total``, in place.

        This re-randomises the second polynomial: without it the holder of the secret key reads
        the operands off it.
        """
        fresh = seal.Ciphertext()
        encryptor = _guarded(seal.Encryptor, self.context, public_key)
        _guarded(encryptor.encrypt, self.constant_plaintext(value), fresh)
        total.scale = fresh.scale
        _guarded(self.evaluator.add_inplace, total, fresh)

    def to_last_level(self, total: Any) -> None:
        """Divide by all data primes but the first, rounding, in place."""
        while list(total.parms_id()) != self.last_level:
            total.scale = 1.0
            _guarded(self.evaluator.rescale_to_next_inplace, total)

    def extract_constant(self, total: Any) -> tuple[int, Residues]:
        """Keep what decrypts the constant coefficient and nothing else.

        Returns the constant coefficient of the first polynomial, modulo the first prime, and the
        whole second polynomial [1, N] in NTT form. All other coefficients of the first
        polynomial, hence all other slots of the result, stay here.
        """
        coefficients = seal.Ciphertext()
        _guarded(self.evaluator.transform_from_ntt, total, coefficients)
        return int(coefficients[0]), self.residues(total, 1, 1, first=1)[0]

    def public_encrypt(self, public_key: Any, plaintext: Any) -> Residues:
        """A fresh public-key encryption as [2, data primes, N] residues."""
        fresh = seal.Ciphertext()
        encryptor = _guarded(seal.Encryptor, self.context, public_key)
        _guarded(encryptor.encrypt, plaintext, fresh)
        return self.residues(fresh, 2, len(self.data_primes))

    def prepare(self, first: Residues, second: Residues) -> Prepared:
        """Load the ciphertext (first, second), [data primes, N] each, for conjugate products."""
        return Prepared(
            self.plain_ciphertext(np.stack([first, second])),
            self.plain_ciphertext(np.stack([conjugate(first), conjugate(second)])),
            self.plaintext(conjugate(first)),
            self.plaintext(second),
        )

    def conjugate_product(self, left: list[Prepared], right: list[Prepared]) -> tuple[Any, Any]:
        """Σ over chunks of left · conj(right), in two parts, without any key.

        With left (c0, c1) under s and the conjugate of right (d0, d1) under conj(s), the product
        is c0 d0 + c1 d0 s + c0 d1 conj(s) + c1 d1 s conj(s). The first part is (c0 d0, c1 d0);
        the second is the conjugate of (c0 d1, c1 d1): only the constant coefficient is wanted,
        which conjugation leaves alone, and conj(s) becomes s.
        """
        straight = self.inner_product_into(
            (chunk.ciphertext for chunk in left), (chunk.first_conjugate for chunk in right)
        )
        turned = self.inner_product_into(
            (chunk.conjugate for chunk in left), (chunk.second for chunk in right)
        )
        return straight, turned

    @cached_property
    def _second_unit(self) -> Any:
        """The ciphertext (0, 1), which decrypts to s: a product with it moves polynomials up."""
        unit = np.zeros((2, len(self.data_primes), self.degree), np.uint64)
        unit[1] = 1
        return self.plain_ciphertext(unit)

    def squared_distance(
        self,
        left_norm: tuple[Any, Any],
        right_norm: tuple[Any, Any],
        product: tuple[Any, Any],
        switching_keys: Any,
    ) -> Any:
        """‖x‖² + ‖y‖² - 2⟨x, y⟩ from three conjugate products: one relinearisation at the end.

        Deterministic, as all arithmetic here: equal inputs give equal residues, so that another
        party can repeat it.
        """
        parts = []
        for a, b, both in zip(left_norm, right_norm, product, strict=True):
            part = seal.Ciphertext()
            _guarded(self.evaluator.add, a, b, part)
            _guarded(self.evaluator.sub_inplace, part, both)
            _guarded(self.evaluator.sub_inplace, part, both)
            parts.append(part)
        total = seal.Ciphertext()  # parts[0] + parts[1] s, as three polynomials
        _guarded(self.evaluator.multiply, parts[1], self._second_unit, total)
        _guarded(self.evaluator.add_inplace, total, parts[0])
        _guarded(self.evaluator.relinearize_inplace, total, switching_keys)
        return total

    # Start-up check

    def _self_check(self) -> None:
        """Hand-written streams mean to SEAL what they mean here, or :class:`BackendMismatch`."""
        try:
            secret = SecretKey(self)
            seed = expand_seed(bytes(32), "self-check", 0)
            self._check_layout(seed)
            self._check_encryption(secret, seed)
            if self.parameters.trust == "key_holder":
                self._check_conjugation()
                self._check_products(secret, seed)
        except CkksError as error:
            raise BackendMismatch(f"SEAL's layout is not the expected one: {error}") from error

    def _check_layout(self, seed: bytes) -> None:
        columns = np.arange(self.degree, dtype=np.uint64)
        body = np.stack([columns + np.uint64(7 * i) for i in range(len(self.data_primes))])
        loaded = self.residues(self.seeded_ciphertext(body, seed), 2, len(body))
        other = self.seeded_ciphertext(body, expand_seed(bytes(32), "self-check", 1))
        uniform = self.residues(other, 2, len(body))[1]
        limits = np.array(self.data_primes, np.uint64)[:, None]
        if not np.array_equal(loaded[0], body) or np.any(loaded[1] >= limits):
            raise BackendMismatch("a seeded ciphertext is read differently")
        spread = loaded[1].astype(np.float64).mean(axis=1) / limits[:, 0]
        if np.mean(loaded[1] == uniform) > 0.01 or np.any(np.abs(spread - 0.5) > 0.1):
            raise BackendMismatch("the second polynomial is not expanded from the seed")

    def _check_encryption(self, secret: SecretKey, seed: bytes) -> None:
        """An upload, a public-key encryption and an extraction decrypt to what was put in."""
        value, scale = 12345, 2.0 ** (self.parameters.data_bits - 20)
        slots = np.full(self.degree // 2, scale, np.complex128)
        body = secret.encrypt_seeded(self.encode(slots), seed)
        key = self.seeded_public_key(secret.public_key_body(seed), seed)
        total = self.seeded_ciphertext(body, seed)
        self.add_encryption(total, key, value * int(scale))
        self.to_last_level(total)
        constant, second = self.extract_constant(total)
        divisor = self.primes[0]
        for prime in self.data_primes:
            scale /= prime
        got = secret.decrypt_constant(constant, second) / (scale * divisor)
        if abs(got - (value + 1)) > 1e-3:
            raise BackendMismatch(f"a known result decrypted to {got}")

    def _check_conjugation(self) -> None:
        """Reversing residues conjugates slots."""
        slots = np.exp(1j * np.arange(self.degree // 2)) * 2.0**30
        flat = self.residues(self.encode(slots), 1, len(self.data_primes))[0]
        decoded = self._encoder.decode_complex(self.plaintext(conjugate(flat)))
        if np.max(np.abs(np.array(decoded) - np.conj(slots))) > 1e-3 * 2.0**30:
            raise BackendMismatch("reversed residues are not the conjugate")

    def _check_products(self, secret: SecretKey, seed: bytes) -> None:
        """The squared distance of two known chunks, through hand-made switching keys."""
        seeds = [expand_seed(seed, "self-check", index) for index in range(len(self.data_primes))]
        keys = self.switching_keys(secret.switching_key_bodies(seeds), seeds)
        public = self.seeded_public_key(secret.public_key_body(seed), seed)
        scale = math.ldexp(1.0, self.parameters.upload_scale_bits) / self.degree
        slots = [np.full(self.degree // 2, value * scale) for value in (3 + 4j, 1 - 2j)]
        chunks = [[self.prepare(*self.public_encrypt(public, self.encode(row)))] for row in slots]
        left, right = chunks
        products = [self.conjugate_product(a, b) for a, b in ((left, left), (right, right))]
        mixed = self.conjugate_product(left, right)
        total = self.squared_distance(products[0], products[1], mixed, keys)
        self.to_last_level(total)
        got = secret.decrypt_constant(*self.extract_constant(total)) * self.primes[1] / scale**2
        if abs(got - 40) > 1e-6:
            raise BackendMismatch(f"a known squared distance came out as {got}, not 40")


class SecretKey:
    """A fresh secret key and what only its holder can do.

    Secrecy: exists in SEAL's memory and, as residues, in this object; it is never written out.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        key = seal.KeyGenerator(ring.context).secret_key()
        self._encryptor = seal.Encryptor(ring.context, key)
        self._decryptor = seal.Decryptor(ring.context, key)
        self._residues = ring.residues(key.data(), 1, len(ring.primes))[0]

    def __repr__(self) -> str:
        return f"SecretKey({self._ring.parameters.name}, hidden)"

    def public_key_body(self, seed: bytes) -> Residues:
        """First half of a public key whose second half is expand(seed): [all primes, N]."""
        fresh = seal.Ciphertext()
        _guarded(self._encryptor.encrypt_zero_symmetric, self._ring.key_level, fresh)
        return self._rebased(fresh, seed)

    def switching_key_bodies(self, seeds: list[bytes]) -> list[Residues]:
        """First halves of keys from s conj(s) to s, over expanded seeds: [all primes, N] each.

        One encryption of zero per data prime, with p s conj(s) added in that prime's residues:
        SEAL's relinearisation keys with s conj(s) in the place of s².
        """
        primes = self._ring.primes
        target = multiply_modulo(self._residues, conjugate(self._residues), primes)
        special = np.full_like(target, primes[-1])
        target = multiply_modulo(target, special % _column(primes), primes)
        bodies = []
        for index, seed in enumerate(seeds):
            body = self.public_key_body(seed)
            row = body[index : index + 1]
            body[index] = add_modulo(row, target[index : index + 1], primes[index : index + 1])[0]
            bodies.append(body)
        return bodies

    def _rebased(self, fresh: Any, seed: bytes) -> Residues:
        """Move a key-level encryption (b', a') onto a = expand(seed), keeping its error.

        b' = m - a' s - e, so b' + (a' - a) s = m - a s - e is the first half over a.
        """
        ring, primes = self._ring, self._ring.primes
        body, uniform = ring.residues(fresh, 2, len(primes))
        empty = np.zeros((len(primes), ring.degree), np.uint64)
        expanded = ring.seeded_public_key(empty, seed)  # keep it: data() is a view into it
        target = ring.residues(expanded.data(), 2, len(primes))[1]
        shift = multiply_modulo(subtract_modulo(uniform, target, primes), self._residues, primes)
        return add_modulo(body, shift, primes)

    def encrypt_seeded(self, plaintext: Any, seed: bytes) -> Residues:
        """First half of a fresh symmetric encryption over expand(seed): [data primes, N].

        With a = expand(seed): decrypting (0, a) gives a s, decrypting a fresh encryption gives
        m + e, and (m + e) - a s is the first half over a.
        """
        ring, count = self._ring, len(self._ring.data_primes)
        noisy, product, fresh = seal.Plaintext(), seal.Plaintext(), seal.Ciphertext()
        _guarded(self._encryptor.encrypt_symmetric, plaintext, fresh)
        _guarded(self._decryptor.decrypt, fresh, noisy)
        moved = ring.seeded_ciphertext(np.zeros((count, ring.degree), np.uint64), seed)
        _guarded(self._decryptor.decrypt, moved, product)
        _guarded(ring.evaluator.sub_plain_inplace, moved, product)
        _guarded(ring.evaluator.add_plain_inplace, moved, noisy)
        body: Residues = ring.residues(moved, 1, count)[0]
        return body

    def decrypt_constant(self, constant: int, second: Residues) -> int:
        """Open what :meth:`Ring.extract_constant` kept: the centred constant coefficient."""
        ring, prime = self._ring, self._ring.primes[0]
        product = seal.Plaintext()
        stacked = np.stack([np.zeros_like(second), second])
        _guarded(self._decryptor.decrypt, ring.plain_ciphertext(stacked), product)
        row = ring.residues(product, 1, 1)[0, 0]
        value = (constant + sum_modulo(row, prime) * pow(ring.degree, -1, prime)) % prime
        return value - prime if value > prime // 2 else value


@lru_cache(maxsize=8)
def ring_for(parameters: ParameterSet) -> Ring:
    """The checked ring of a parameter set, built once per process."""
    return Ring(parameters)
