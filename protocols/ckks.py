"""CKKS through TenSEAL's binding of SEAL: the one file that imports it.

SEAL does not treat its input as hostile, and its binding reads and writes paths only. So:

- No byte of another party reaches SEAL's parsers as such. A message carries seeds and canonical
  residues (:mod:`protocols.residues`); every header, identifier and length is written on this
  side (:mod:`protocols.seal_streams`) into an in-memory file that SEAL then reads. What a peer
  controls are values below the primes, nothing else.
- The uniform half ``a`` of a public key or of an upload is always expanded by SEAL's own
  generator from a hash of a seed: there is no way to state it.
- Residues leave SEAL in its own compressed stream, written to an in-memory file: one call an
  object, where the binding's element access is a call a residue.

Get rings from :func:`protocols.ckks_check.ring_for`, which checks SEAL's layout before any use.
Randomness of keys and encryption errors is SEAL's own, from the operating system.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal

from .errors import ProtocolError
from .parameter_sets import ParameterSet
from .residues import (
    Residues,
    add_modulo,
    conjugate,
    multiply_modulo,
    subtract_modulo,
    sum_modulo,
)
from .seal_streams import HEADER, StreamFormat, saved_residues

_Result = TypeVar("_Result")


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


def _memory_file() -> int:
    """Descriptor of an anonymous file in memory, which nobody else can open.

    Raises:
        BackendMismatch: this system has none (Linux has).
    """
    try:
        return os.memfd_create("seal")
    except AttributeError as error:
        raise BackendMismatch("encrypted distances need Linux's files in memory") from error


def _load(kind: Callable[[], Any], context: Any, stream: bytes) -> Any:
    """Have SEAL read ``stream`` from an in-memory file."""
    descriptor = _memory_file()
    try:
        view = memoryview(stream)
        while view:
            view = view[os.write(descriptor, view) :]
        loaded = kind()
        _guarded(loaded.load, context, f"/proc/self/fd/{descriptor}")
        return loaded
    finally:
        os.close(descriptor)


def _saved(source: Any) -> bytes:
    """The stream that SEAL writes of an object, through an in-memory file."""
    descriptor = _memory_file()
    try:
        _guarded(source.save, f"/proc/self/fd/{descriptor}")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def _stream_format() -> StreamFormat:
    """Magic, header length and version as this SEAL writes them."""
    return StreamFormat(*HEADER.unpack(_saved(seal.Plaintext("1"))[: HEADER.size])[:4])


def _num_residues(source: Any) -> int:
    """How many residues a SEAL plaintext or ciphertext holds."""
    if isinstance(source, seal.Plaintext):
        return int(source.coeff_count())
    return int(source.size() * source.coeff_modulus_size() * source.poly_modulus_degree())


def _column(primes: tuple[int, ...]) -> Residues:
    return np.array(primes, np.uint64)[:, None]


class Ring:
    """One parameter set's contexts and evaluator; holds no secret and is shared by all parties."""

    def __init__(self, parameters: ParameterSet) -> None:
        parameters.check()
        self.parameters = parameters
        self.degree = parameters.degree
        self._streams = _stream_format()
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

    def __reduce__(self) -> tuple[Callable[[ParameterSet], Ring], tuple[ParameterSet]]:
        from .ckks_check import ring_for

        return ring_for, (self.parameters,)

    def _check_context(self) -> None:
        """SEAL accepts the set at 128 bits and its primes have the sizes that were asked for."""
        if not self.context.parameters_set():
            raise BackendMismatch(f"SEAL: {self.context.parameters_error_message()}")
        limit = seal.CoeffModulus.MaxBitCount(self.degree, seal.SEC_LEVEL_TYPE.TC128)
        bits = tuple(prime.bit_length() for prime in self.primes)
        well_formed = all(prime % (2 * self.degree) == 1 for prime in self.primes)
        if sum(bits) > limit or bits != self.parameters.prime_bits or not well_formed:
            raise BackendMismatch(f"SEAL gave primes of {bits} bits, limit {limit}")

    # Loading what messages carry

    def seeded_ciphertext(self, body: Residues, seed: bytes) -> Any:
        """The ciphertext (body, expand(seed)); body [data primes, N] in NTT form."""
        stream = self._streams.ciphertext(self.data_level, body, seed)
        return _load(seal.Ciphertext, self.context, stream)

    def plain_ciphertext(self, polynomials: Residues) -> Any:
        """A ciphertext from [2, primes, N] residues in NTT form: one prime or all data primes."""
        single = polynomials.shape[1] == 1
        level = self.last_level if single else self.data_level
        stream = self._streams.ciphertext(level, polynomials, None)
        return _load(seal.Ciphertext, self.context, stream)

    def seeded_public_key(self, body: Residues, seed: bytes) -> Any:
        """The public key (body, expand(seed)); body [all primes, N] in NTT form."""
        stream = self._streams.ciphertext(self.key_level, body, seed)
        return _load(seal.PublicKey, self.context, stream)

    def switching_keys(self, bodies: list[Residues], seeds: list[bytes]) -> Any:
        """Keys that switch the third polynomial of a product back to s.

        ``bodies`` are [all primes, N], one per data prime, each over its own expanded seed; see
        :meth:`SecretKey.switching_key_bodies`.
        """
        stream = self._streams.switching_keys(self.key_level, bodies, seeds)
        return _load(seal.RelinKeys, self.context, stream)

    def secret_key(self, residues: Residues) -> Any:
        """The secret key with these [all primes, N] residues in NTT form."""
        stream = self._streams.plaintext(self.key_level, residues)
        return _load(seal.SecretKey, self.context, stream)

    def plaintext(self, residues: Residues) -> Any:
        """The plaintext of scale 1 with these [data primes, N] residues in NTT form."""
        stream = self._streams.plaintext(self.data_level, residues)
        return _load(seal.Plaintext, self.context, stream)

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

    def decode(self, plaintext: Any) -> npt.NDArray[np.complex128]:
        """The [N/2] complex slots of a plaintext of nominal scale 1."""
        return np.array(_guarded(self._encoder.decode_complex, plaintext), np.complex128)

    def residues(
        self, source: Any, num_polynomials: int, num_primes: int, first: int = 0
    ) -> Residues:
        """Read [num_polynomials, num_primes, N] residues out of a SEAL plaintext or ciphertext.

        ``first`` polynomials are passed over.

        Raises:
            BackendMismatch: SEAL wrote something else than such an object's stream.
        """
        try:
            flat = saved_residues(_saved(source), _num_residues(source))
        except ValueError as error:
            raise BackendMismatch(f"SEAL wrote {error}") from error
        wanted = flat.reshape(-1, num_primes, self.degree)[first : first + num_polynomials]
        if len(wanted) != num_polynomials:
            raise BackendMismatch(f"{len(wanted)} polynomials where there should be more")
        return wanted.copy()

    # Arithmetic

    def inner_product(self, ciphertexts: Iterable[Any], operands: Iterable[Any]) -> Any:
        """Σ ciphertext · plaintext over chunks: plaintext products only, no relinearisation."""
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

    # Sums and products of ciphertexts

    def add(self, left: Any, right: Any) -> Any:
        """left + right."""
        total = seal.Ciphertext()
        _guarded(self.evaluator.add, left, right, total)
        return total

    def subtract(self, total: Any, other: Any) -> None:
        """total - other, in place."""
        _guarded(self.evaluator.sub_inplace, total, other)

    def multiply(self, left: Any, right: Any) -> Any:
        """left · right, of three polynomials."""
        total = seal.Ciphertext()
        _guarded(self.evaluator.multiply, left, right, total)
        return total

    @cached_property
    def second_unit(self) -> Any:
        """The ciphertext (0, 1), which decrypts to s: a product with it moves polynomials up."""
        unit = np.zeros((2, len(self.data_primes), self.degree), np.uint64)
        unit[1] = 1
        return self.plain_ciphertext(unit)

    def switch_third(self, total: Any, switching_keys: Any) -> None:
        """Turn three polynomials into two, in place: one relinearisation."""
        _guarded(self.evaluator.relinearize_inplace, total, switching_keys)


class SecretKey:
    """A fresh secret key and what only its holder can do.

    ``residues`` [all primes, N] make a key again that another process drew.

    Secrecy: exists in SEAL's memory and, as residues, in this object; no message holds it. Where
    every message is answered by a process of its own, its party keeps the residues in between.
    """

    def __init__(self, ring: Ring, residues: Residues | None = None) -> None:
        self._ring = ring
        if residues is None:
            key = seal.KeyGenerator(ring.context).secret_key()
        else:
            key = ring.secret_key(residues)
        self._encryptor = seal.Encryptor(ring.context, key)
        self._decryptor = seal.Decryptor(ring.context, key)
        self._residues = ring.residues(key.data(), 1, len(ring.primes))[0]

    def __reduce__(self) -> tuple[type[SecretKey], tuple[Ring, Residues]]:
        return SecretKey, (self._ring, self._residues)

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
        target = ring.residues(expanded.data(), 1, len(primes), first=1)[0]
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
