"""Parameter sets, residues and the ring: ranges, layout and the start-up check."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import ckks, ckks_check, residues, seal_streams
from protocols.ckks import BackendMismatch, CkksError, Ring, SecretKey
from protocols.ckks_check import ring_for
from protocols.errors import ParameterError
from protocols.parameter_sets import MAX_MODULUS_BITS_128, PARAMETER_SETS, ParameterSet
from protocols.parameter_sets import parameter_set as lookup
from protocols.seal_streams import StreamFormat, expand_seed

PEER = PARAMETER_SETS["peer-4096"]
PRIMES = (1099511480321, 281474976694273, 2056193)


@pytest.mark.parametrize("parameters", PARAMETER_SETS.values(), ids=lambda p: p.name)
def test_every_set_is_within_the_standard_and_accepted_by_seal(parameters: ParameterSet) -> None:
    parameters.check()
    assert parameters.total_bits <= MAX_MODULUS_BITS_128[parameters.degree]
    assert parameters.security_bits == 128
    ring = ring_for(parameters)
    assert sum(prime.bit_length() for prime in ring.primes) == parameters.total_bits
    assert 0 < parameters.leakage_bits < 64
    assert parameters.exact_error_bound < parameters.error_bound < 1e-4


def test_residues_are_those_that_seal_holds() -> None:
    ring = ring_for(PEER)
    body = np.arange(2 * PEER.degree, dtype=np.uint64).reshape(2, PEER.degree)
    both = ring.seeded_ciphertext(body, bytes(64))
    held = np.array([both[index] for index in range(4 * PEER.degree)], np.uint64)
    assert np.array_equal(ring.residues(both, 2, 2).ravel(), held)
    assert np.array_equal(ring.residues(both, 1, 2, first=1).ravel(), held[2 * PEER.degree :])
    with pytest.raises(BackendMismatch, match="1 polynomials"):
        ring.residues(both, 2, 2, first=1)


@pytest.mark.parametrize(
    ("place", "value"), [(5, 0), (8, 0), (16, 255)], ids=["compression", "length", "content"]
)
def test_a_stream_that_seal_would_not_write_is_refused(
    place: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, write = ring_for(PEER), ckks._saved
    plaintext = ring.encode(np.ones(PEER.degree // 2, np.complex128))

    def changed(source: object) -> bytes:
        stream = bytearray(write(source))
        stream[place] = value
        return bytes(stream)

    monkeypatch.setattr(ckks, "_saved", changed)
    with pytest.raises(BackendMismatch, match="SEAL wrote"):
        ring.residues(plaintext, 1, 2)


def test_codes_and_names_are_distinct() -> None:
    assert len({p.code for p in PARAMETER_SETS.values()}) == len(PARAMETER_SETS)


@pytest.mark.parametrize(
    "change",
    [
        {"prime_bits": (40, 48, 24)},
        {"degree": 2048},
        {"degree": 5000},
        {"flood_bits": 29},
        {"upload_scale_bits": 74},
        {"flood_bits": 62},
    ],
)
def test_unsafe_sets_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        dataclasses.replace(PEER, **change).check()


@pytest.mark.parametrize("name", ["peer-4095", "", "4096"])
def test_unknown_sets_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="unknown"):
        lookup(name, "peer")


def test_a_set_of_the_other_trust_model_is_refused() -> None:
    with pytest.raises(ParameterError, match="trust"):
        lookup("peer-4096", "key_holder")


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_residues_survive_packing(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = np.stack([random.integers(0, prime, 64, np.uint64) for prime in PRIMES])
    packed = residues.pack(rows, PRIMES)
    assert len(packed) == 64 * (5 + 6 + 3)
    np.testing.assert_array_equal(residues.unpack(packed, 64, PRIMES), rows)


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_unpacking_is_injective_or_an_error(data: bytes) -> None:
    try:
        rows = residues.unpack(data, 5, PRIMES)
    except residues.ResidueError:
        return
    assert residues.pack(rows, PRIMES) == data


def test_a_residue_that_is_not_below_its_prime_is_refused() -> None:
    rows = np.zeros((3, 4), np.uint64)
    rows[1, 2] = PRIMES[1]
    with pytest.raises(residues.ResidueError):
        residues.unpack(residues.pack(rows, PRIMES), 4, PRIMES)


@pytest.mark.parametrize("prime", [2056193, 281474976694273, 72057594037616641])
def test_modular_arithmetic_is_exact(prime: int) -> None:
    random = np.random.default_rng(1)
    a, b = (random.integers(0, prime, (1, 500), np.uint64) for _ in range(2))
    a[0, :3], b[0, :3] = (0, prime - 1, prime - 1), (0, prime - 1, 1)
    exact = [int(x) * int(y) % prime for x, y in zip(a[0], b[0], strict=True)]
    assert residues.multiply_modulo(a, b, [prime])[0].tolist() == exact
    assert residues.sum_modulo(a[0], prime) == sum(map(int, a[0])) % prime
    difference = residues.subtract_modulo(a, b, [prime])
    np.testing.assert_array_equal(residues.add_modulo(difference, b, [prime]), a)


def test_the_uniform_half_is_a_function_of_the_seed_alone() -> None:
    ring = ring_for(PEER)
    empty = np.zeros((2, PEER.degree), np.uint64)
    halves = [
        ring.residues(ring.seeded_ciphertext(empty, expand_seed(seed, domain, index)), 2, 2)[1]
        for seed, domain, index in [(b"a", "x", 0), (b"a", "x", 0), (b"a", "x", 1), (b"a", "y", 0)]
    ]
    np.testing.assert_array_equal(halves[0], halves[1])
    for other in halves[2:]:
        assert np.mean(halves[0] == other) < 0.01


def test_fresh_keys_and_fresh_errors() -> None:
    ring, seed = ring_for(PEER), bytes(64)
    secret = SecretKey(ring)
    plaintext = ring.encode(np.zeros(PEER.degree // 2, np.complex128))
    first, second = (secret.encrypt_seeded(plaintext, seed) for _ in range(2))
    differing = residues.subtract_modulo(first, second, ring.data_primes)
    assert np.any(differing), "two encryptions share their error"
    other = SecretKey(ring).public_key_body(seed)
    assert np.mean(secret.public_key_body(seed) == other) < 0.01
    assert "hidden" in repr(secret)


@pytest.fixture
def unchecked() -> None:
    ring_for.cache_clear()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("found", [StreamFormat(0xA15E, 16, 3, 3), StreamFormat(0xA15F, 16, 4, 3)])
def test_another_stream_layout_is_found_at_start_up(
    monkeypatch: pytest.MonkeyPatch, found: StreamFormat
) -> None:
    monkeypatch.setattr(ckks, "_stream_format", lambda: found)
    with pytest.raises(BackendMismatch):
        ring_for(PEER)


@pytest.mark.usefixtures("unchecked")
def test_another_generator_code_is_found_at_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal_streams, "GENERATOR_BLAKE2XB", 0)
    with pytest.raises(BackendMismatch):
        ring_for(PEER)


@pytest.mark.usefixtures("unchecked")
def test_a_seed_that_is_ignored_is_found_at_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ring.seeded_ciphertext
    monkeypatch.setattr(
        Ring, "seeded_ciphertext", lambda ring, body, _seed: honest(ring, body, bytes(64))
    )
    with pytest.raises(BackendMismatch, match="seed"):
        ring_for(PEER)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("function", ["switching_key_bodies", "conjugate"])
def test_another_key_switching_is_found_at_start_up(
    monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    if function == "conjugate":
        monkeypatch.setattr(ckks_check, "conjugate", lambda rows: rows)
    else:
        monkeypatch.setattr(
            SecretKey, function, lambda key, seeds: [key.public_key_body(s) for s in seeds]
        )
    with pytest.raises(BackendMismatch):
        ring_for(PARAMETER_SETS["holder-8192"])


def test_seal_refusals_are_typed() -> None:
    ring = ring_for(PEER)
    too_large = np.full((2, PEER.degree), np.uint64(2**63))
    with pytest.raises(CkksError, match="SEAL"):
        ring.seeded_ciphertext(too_large, bytes(64))
    with pytest.raises(CkksError, match="SEAL"):
        ring.encode(np.zeros(PEER.degree, np.complex128))
