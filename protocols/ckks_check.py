"""The start-up check of a ring: SEAL reads our streams, and computes, as this project relies on.

Nothing is encrypted for anybody before this has passed, once per process and parameter set.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .ckks import BackendMismatch, CkksError, Ring, SecretKey
from .conjugate_products import conjugate_product, prepare, squared_distance
from .parameter_sets import ParameterSet
from .residues import conjugate
from .seal_streams import expand_seed


@lru_cache(maxsize=8)
def ring_for(parameters: ParameterSet) -> Ring:
    """The checked ring of a parameter set.

    Raises:
        ParameterError: the set is unsafe.
        BackendMismatch: this build of SEAL differs in primes, stream layout, seed expansion,
            order of residues or key switching.
    """
    ring = Ring(parameters)
    seeds = [expand_seed(bytes(32), "self-check", index) for index in range(3)]
    try:
        _check_layout(ring, seeds)
        secret = SecretKey(ring)
        _check_encryption(ring, secret, seeds[0])
        if parameters.trust == "key_holder":
            _check_conjugation(ring)
            _check_products(ring, secret, seeds)
    except CkksError as error:
        raise BackendMismatch(f"SEAL's layout is not the expected one: {error}") from error
    return ring


def _check_layout(ring: Ring, seeds: list[bytes]) -> None:
    """First polynomials are read as written; second ones are uniform and follow the seed."""
    count = len(ring.data_primes)
    columns = np.arange(ring.degree, dtype=np.uint64)
    body = np.stack([columns + np.uint64(7 * index) for index in range(count)])
    first, second = ring.residues(ring.seeded_ciphertext(body, seeds[0]), 2, count)
    other = ring.residues(ring.seeded_ciphertext(body, seeds[1]), 1, count, first=1)[0]
    limits = np.array(ring.data_primes, np.uint64)[:, None]
    if not np.array_equal(first, body) or np.any(second >= limits):
        raise BackendMismatch("a seeded ciphertext is read differently")
    centre = second.astype(np.float64).mean(axis=1) / limits[:, 0]
    if np.mean(second == other) > 0.01 or np.any(np.abs(centre - 0.5) > 0.1):
        raise BackendMismatch("the second polynomial is not expanded from the seed")


def _check_encryption(ring: Ring, secret: SecretKey, seed: bytes) -> None:
    """An upload plus a public-key encryption, extracted, decrypts to what was put in."""
    value, scale = 12345, 2 ** (ring.parameters.data_bits - 20)
    slots = np.full(ring.degree // 2, scale, np.complex128)
    body = secret.encrypt_seeded(ring.encode(slots), seed)
    key = ring.seeded_public_key(secret.public_key_body(seed), seed)
    total = ring.seeded_ciphertext(body, seed)
    ring.add_encryption(total, key, value * scale)
    ring.to_last_level(total)
    got = secret.decrypt_constant(*ring.extract_constant(total))
    got_value = got * math.prod(ring.data_primes[1:]) / scale
    if abs(got_value - (value + 1)) > 1e-3:
        raise BackendMismatch(f"a known result decrypted to {got_value}")


def _check_conjugation(ring: Ring) -> None:
    """Reversing residues conjugates slots."""
    slots = np.exp(1j * np.arange(ring.degree // 2)) * 2.0**30
    flat = ring.residues(ring.encode(slots), 1, len(ring.data_primes))[0]
    decoded = ring.decode(ring.plaintext(conjugate(flat)))
    if np.max(np.abs(decoded - np.conj(slots))) > 1e-3 * 2.0**30:
        raise BackendMismatch("reversed residues are not the conjugate")


def _check_products(ring: Ring, secret: SecretKey, seeds: list[bytes]) -> None:
    """The squared distance of two known chunks, through hand-made switching keys."""
    seeds = seeds[: len(ring.data_primes)]
    keys = ring.switching_keys(secret.switching_key_bodies(seeds), seeds)
    public = ring.seeded_public_key(secret.public_key_body(seeds[0]), seeds[0])
    scale = math.ldexp(1.0, ring.parameters.upload_scale_bits) / ring.degree
    slots = [np.full(ring.degree // 2, value * scale) for value in (3 + 4j, 1 - 2j)]
    left, right = ([prepare(ring, *ring.public_encrypt(public, ring.encode(row)))] for row in slots)
    own, other, both = (
        conjugate_product(ring, *chunks) for chunks in ((left, left), (right, right), (left, right))
    )
    total = squared_distance(ring, own, other, both, keys)
    ring.to_last_level(total)
    got = secret.decrypt_constant(*ring.extract_constant(total))
    squared = got * math.prod(ring.data_primes[1:]) / scale**2
    if abs(squared - 40) > 1e-6:
        raise BackendMismatch(f"a known squared distance came out as {squared}, not 40")
