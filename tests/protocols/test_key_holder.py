"""Key-holder trust: correct, drop-outs, hostile bytes, and the attacks on it carried out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import tenseal.sealapi as seal

from protocols import key_holder
from protocols.blinding import blind, blinded_length
from protocols.ckks import Ring
from protocols.ckks_check import ring_for
from protocols.conjugate_products import prepare
from protocols.distance_frames import closing_hash
from protocols.distance_values import NormBoundExceeded, Vector, slot_chunks
from protocols.distances import DistanceParty
from protocols.entropy import DeterministicEntropy, Entropy
from protocols.errors import AttemptAborted, BadDistance, LocalProtocolError, ParameterError
from protocols.identity import KEY_HOLDER
from protocols.key_holder import (
    DistanceServer,
    KeyHolder,
    KeyHolderClient,
    holder_upload_length,
    keys_length,
    result_length,
)
from protocols.parameter_sets import PARAMETER_SETS
from protocols.residues import Residues, multiply_modulo, pack, subtract_modulo, unpack

SET = "holder-8192"
PARAMETERS = PARAMETER_SETS[SET]
BOUND = 2.0
BLINDING = bytes(range(16))
LENGTH = PARAMETERS.degree
CHANCE = 0.1


@dataclass
class Cohort:
    """A small aggregation up to the server's results."""

    vectors: Vector
    holder: KeyHolder
    uploads: dict[str, bytes]
    server: DistanceServer
    results: dict[tuple[str, str], bytes]

    def release(self) -> dict[str, dict[str, float]]:
        """What the holder opens where server and holder agree."""
        return self.holder.release(self.uploads, _hashes(self.results))


def _hashes(results: dict[tuple[str, str], bytes]) -> dict[tuple[str, str], bytes]:
    return {pair: closing_hash(result) for pair, result in results.items()}


def _cohort(count: int, length: int, blinding: bytes = BLINDING) -> Cohort:
    vectors = np.random.default_rng(7).standard_normal((count, length))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    holder = KeyHolder(SET, length, BOUND, Entropy())
    keys = holder.keys()
    uploads = {
        f"client-{index:02}": KeyHolderClient(vector, SET, BOUND, blinding).upload(keys)
        for index, vector in enumerate(vectors, 1)
    }
    server = DistanceServer(SET, length, keys)
    return Cohort(vectors, holder, uploads, server, server.evaluate(uploads))


@pytest.fixture(scope="module")
def small() -> Cohort:
    return _cohort(3, 100)


def _index(name: str) -> int:
    return int(name[-2:]) - 1


@pytest.mark.parametrize("length", [1, 100, 9000])
def test_rows_are_within_the_bound_and_symmetric(length: int) -> None:
    cohort = _cohort(3, length)
    rows = cohort.release()
    for a, row in rows.items():
        assert set(row) == set(rows) - {a}
        for b, value in row.items():
            true = float(np.sum((cohort.vectors[_index(a)] - cohort.vectors[_index(b)]) ** 2))
            assert abs(value - true) <= PARAMETERS.error_bound * BOUND**2
            assert rows[b][a] == value


def test_exact_before_flooding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_holder, "uniform_flood", lambda *_: 0)
    monkeypatch.setattr(key_holder, "released", lambda squared, *_: squared)
    cohort = _cohort(2, 9000)
    rows = cohort.release()
    true = float(np.sum((cohort.vectors[0] - cohort.vectors[1]) ** 2))
    error = abs(rows["client-01"]["client-02"] - true)
    assert error <= PARAMETERS.exact_error_bound * BOUND**2
    assert error / true <= 1e-6


def test_a_drop_out_is_no_candidate(small: Cohort) -> None:
    holder = KeyHolder(SET, 100, BOUND, Entropy())
    uploads = {
        name: KeyHolderClient(small.vectors[_index(name)], SET, BOUND, BLINDING).upload(
            holder.keys()
        )
        for name in ("client-01", "client-03")
    }
    digests = DistanceServer(SET, 100, holder.keys()).digests(uploads)
    rows = holder.release(uploads, digests)
    assert {name: set(row) for name, row in rows.items()} == {
        "client-01": {"client-03"},
        "client-03": {"client-01"},
    }


def test_lengths_are_public(small: Cohort) -> None:
    assert len(small.holder.keys()) == keys_length(SET)
    assert {len(u) for u in small.uploads.values()} == {holder_upload_length(SET, 100)}
    assert {len(r) for r in small.results.values()} == {result_length(SET)}


def test_evaluation_is_a_function_of_the_uploads(small: Cohort) -> None:
    again = DistanceServer(SET, 100, small.holder.keys()).evaluate(small.uploads)
    assert again == small.results
    assert small.server.digests(small.uploads) == _hashes(small.results)
    pairs = list(small.results)
    parts = [small.server.evaluate(small.uploads, part) for part in (pairs[:1], pairs[1:])]
    assert {**parts[0], **parts[1]} == small.results
    assert set(parts[0]) == set(pairs[:1])


def test_one_release_per_key() -> None:
    cohort = _cohort(2, 10)
    cohort.release()
    with pytest.raises(LocalProtocolError):
        cohort.release()


def test_one_upload_per_client(small: Cohort) -> None:
    client = KeyHolderClient(small.vectors[0], SET, BOUND, BLINDING)
    assert client.upload(small.holder.keys()) == client.upload(small.holder.keys())
    with pytest.raises(LocalProtocolError):
        client.upload(KeyHolder(SET, 100, BOUND, Entropy()).keys())


def test_own_input_is_checked() -> None:
    with pytest.raises(NormBoundExceeded):
        KeyHolderClient(np.full(9, 1.0), SET, BOUND, BLINDING)
    with pytest.raises(ParameterError, match="secret"):
        KeyHolderClient(np.zeros(9), SET, BOUND, b"short")
    with pytest.raises(ParameterError, match="trust"):
        KeyHolderClient(np.zeros(9), "peer-4096", BOUND, BLINDING)
    with pytest.raises(ParameterError, match="trust"):
        DistanceParty(np.zeros(9), SET, BOUND, Entropy())


def test_secrets_do_not_show(small: Cohort) -> None:
    client = KeyHolderClient(np.full(5, 0.123), SET, BOUND, BLINDING)
    assert "hidden" in repr(client) and "hidden" in repr(small.holder)
    first, second = (
        KeyHolder(SET, 10, BOUND, DeterministicEntropy(b"seed")).keys() for _ in range(2)
    )
    tails = [np.frombuffer(keys[64:-32], np.uint8) for keys in (first, second)]
    assert np.mean(tails[0] == tails[1]) < 0.1


@pytest.mark.parametrize("length", [1, 5, 64, 8192, 8193, 30_000])
def test_blinding_is_an_isometry(length: int) -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((2, length))
    a, b = blind(x, BLINDING), blind(y, BLINDING)
    assert a.size == b.size == blinded_length(length)
    np.testing.assert_allclose([a @ a, a @ b, b @ b], [x @ x, x @ y, y @ y], atol=1e-8)
    if length > 1:
        assert not np.allclose(a, blind(x, bytes(16)))


@pytest.mark.parametrize("position", [64, 9000, 20_000])
def test_blinding_spreads_every_coordinate(position: int) -> None:
    spike = np.zeros(30_000)
    spike[position] = 1.0
    assert np.max(np.abs(blind(spike, BLINDING))) < 0.1


# Hostile bytes


def _resealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


@pytest.fixture
def no_seal(small: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_arguments: object) -> None:
        raise AssertionError("hostile bytes reached SEAL")

    for name in ("seeded_ciphertext", "seeded_public_key", "plain_ciphertext", "switching_keys"):
        monkeypatch.setattr(Ring, name, reached)


def _damaged(message: bytes) -> dict[str, bytes]:
    flipped, residue = bytearray(message), bytearray(message[:-32])
    flipped[len(flipped) // 2] ^= 4
    residue[50:58] = b"\xff" * 8
    other = bytearray(message[:-32])
    other[5] ^= 3
    return {
        "flipped": bytes(flipped),
        "residue": _resealed(bytes(residue)),
        "other set": _resealed(bytes(other)),
        "truncated": message[:-1],
        "empty": b"",
        "huge": message + bytes(20_000_000),
    }


@pytest.mark.usefixtures("no_seal")
@pytest.mark.parametrize("kind", list(_damaged(bytes(100))))
def test_damaged_uploads_name_their_sender(small: Cohort, kind: str) -> None:
    upload = _damaged(small.uploads["client-02"])[kind]
    with pytest.raises(BadDistance, match="client-02") as caught:
        small.server.evaluate({"client-02": upload})
    assert caught.value.party == "client-02"


@pytest.mark.usefixtures("no_seal")
@pytest.mark.parametrize("kind", list(_damaged(bytes(100))))
def test_damaged_keys_name_the_holder(small: Cohort, kind: str) -> None:
    keys = _damaged(small.holder.keys())[kind]
    with pytest.raises(BadDistance) as caught:
        KeyHolderClient(small.vectors[0], SET, BOUND, BLINDING).upload(keys)
    assert caught.value.party == KEY_HOLDER


def test_an_upload_under_another_key_is_refused(small: Cohort) -> None:
    keys = KeyHolder(SET, 100, BOUND, Entropy()).keys()
    foreign = KeyHolderClient(small.vectors[0], SET, BOUND, BLINDING).upload(keys)
    with pytest.raises(BadDistance, match="another key"):
        small.server.evaluate({"client-01": foreign})


def test_results_that_are_missing_or_swapped_are_refused() -> None:
    for change in ("missing", "swapped"):
        cohort = _cohort(3, 10)
        results = dict(cohort.results)
        first, second = list(results)[:2]
        if change == "missing":
            del results[first]
        else:
            results[first], results[second] = results[second], results[first]
        with pytest.raises(BadDistance, match="server"):
            cohort.holder.release(cohort.uploads, _hashes(results))


def test_impossible_triangles_are_refused(small: Cohort) -> None:
    rows = {"a": {"b": 1.0, "c": 0.01}, "b": {"a": 1.0, "c": 0.01}, "c": {"a": 0.01, "b": 0.01}}
    assert {frozenset(triple) for triple in small.holder._contradictions(rows)} == {
        frozenset("abc")
    }


def _released_with_norm(norm: float, peers: str) -> None:
    """A release among short vectors and client z, which ignores the norm bound."""
    holder = KeyHolder("holder-8192", 64, 1.0, Entropy())
    uploads = {}
    for place, name in enumerate((*peers, "z")):
        unit = np.zeros(64)
        unit[place] = 0.7
        client = KeyHolderClient(unit, "holder-8192", 1.0, bytes(16))
        if name == "z":
            client._vector = client._vector * (norm / 0.7)
        uploads[name] = client.upload(holder.keys())
    digests = DistanceServer("holder-8192", 64, holder.keys()).digests(uploads)
    holder.release(uploads, digests)


def test_who_ignores_the_norm_bound_is_named_and_never_the_server() -> None:
    with pytest.raises(BadDistance) as refused:
        _released_with_norm(2.5, "ab")
    assert refused.value.party == "z"
    with pytest.raises(AttemptAborted, match="cannot be told"):
        _released_with_norm(2.5, "a")


# Attacks


def _correlation(guess: Vector, truth: Vector) -> float:
    return abs(float(np.corrcoef(guess, truth)[0, 1]))


def _decoded(ring: Ring, plaintext: object) -> Vector:
    slots = np.array(seal.CKKSEncoder(ring.context).decode_complex(plaintext))
    return np.stack([slots.real, slots.imag], axis=1).ravel()


def _ciphertext(ring: Ring, upload: bytes) -> tuple[Residues, Residues]:
    body = upload[10 + 32 : -32]
    half = PARAMETERS.polynomial_bytes(len(ring.data_primes))
    first, second = (
        unpack(body[start : start + half], ring.degree, ring.data_primes) for start in (0, half)
    )
    return first, second


@pytest.mark.parametrize("protected", [False, True])
def test_the_holder_decrypts_an_upload(protected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder has the uploads and the key; what it decrypts must not be coordinates."""
    if not protected:
        monkeypatch.setattr(key_holder, "blind", lambda vector, _secret: vector)
    cohort = _cohort(1, LENGTH)
    ring, plaintext = ring_for(PARAMETERS), seal.Plaintext()
    upload = prepare(ring, *_ciphertext(ring, cohort.uploads["client-01"])).ciphertext
    cohort.holder._secret._decryptor.decrypt(upload, plaintext)
    found = _correlation(_decoded(ring, plaintext), cohort.vectors[0])
    assert found < CHANCE if protected else found > 0.9999


def _coordinate_result(cohort: Cohort, pair: tuple[str, str], slot: int) -> bytes:
    """What a malicious server submits for a pair: one slot of the first client's upload."""
    ring = ring_for(PARAMETERS)
    selector = np.zeros(ring.degree // 2, np.complex128)
    selector[slot] = 2.0**56
    first, second = _ciphertext(ring, cohort.uploads["client-01"])
    total = ring.inner_product([prepare(ring, first, second).ciphertext], [ring.encode(selector)])
    ring.to_last_level(total)
    constant, rest = ring.extract_constant(total)
    body = constant.to_bytes(8, "little") + pack(rest, ring.primes[:1])
    honest = cohort.results[pair]
    return _resealed(honest[: 10 + 64] + body)


def test_the_decryption_oracle() -> None:
    """A server that forwards coordinates as distances reads them, unless the holder repeats.

    Without the repetition every pair's "distance" is one coordinate of client-01. The holder opens
    its own evaluation only, and takes hashes, which leave a server nothing else to have opened.
    """
    cohort = _cohort(6, 64)
    blinded = slot_chunks(blind(cohort.vectors[0], BLINDING), LENGTH)[0]
    forged = {
        pair: _coordinate_result(cohort, pair, slot) for slot, pair in enumerate(cohort.results)
    }
    ring, read = ring_for(PARAMETERS), []
    for result in forged.values():
        body = result[10 + 64 : -32]
        second = unpack(body[8:], ring.degree, ring.primes[:1])
        constant = int.from_bytes(body[:8], "little")
        read.append(float(cohort.holder._secret.decrypt_constant(constant, second)))
    assert _correlation(np.array(read), blinded[: len(read)].real) > 0.9999
    with pytest.raises(BadDistance, match="not the evaluation") as caught:
        cohort.holder.release(cohort.uploads, _hashes(forged))
    assert caught.value.party == "server"


def _solved_secret(ring: Ring, first: Residues, second: Residues, plain: Residues) -> Residues:
    """The key that makes (first, second) decrypt to exactly ``plain``."""
    inverse = np.array(
        [
            [pow(int(value), -1, prime) for value in row]
            for row, prime in zip(second, ring.data_primes, strict=True)
        ],
        np.uint64,
    )
    return multiply_modulo(
        subtract_modulo(plain, first, ring.data_primes), inverse, ring.data_primes
    )


@pytest.mark.parametrize("protected", [False, True])
def test_recovering_the_key_from_released_values(protected: bool) -> None:
    """Exact decryptions give the secret key (Li and Micciancio 2021), rounded ones do not.

    The attacker knows a ciphertext and its decryption: with the exact one it solves for the key
    and decrypts a victim's upload; what the release rules leave it is the message without noise.
    """
    cohort = _cohort(2, LENGTH)
    ring, secret = ring_for(PARAMETERS), cohort.holder._secret
    own = _ciphertext(ring, cohort.uploads["client-01"])
    plaintext = seal.Plaintext()
    if protected:
        scale = 2.0**PARAMETERS.upload_scale_bits
        message = blind(cohort.vectors[0] / BOUND, BLINDING)
        plaintext = ring.encode(slot_chunks(message, LENGTH)[0] * scale)
    else:
        secret._decryptor.decrypt(prepare(ring, *own).ciphertext, plaintext)
    count = len(ring.data_primes)
    guess = _solved_secret(ring, *own, ring.residues(plaintext, 1, count)[0])
    matching = float(np.mean(guess == secret._residues[:count]))
    first, second = _ciphertext(ring, cohort.uploads["client-02"])
    opened = first + multiply_modulo(second, guess, ring.data_primes)
    opened %= np.array(ring.data_primes, np.uint64)[:, None]
    victim = blind(cohort.vectors[1], BLINDING)
    found = _correlation(_decoded(ring, ring.plaintext(opened)), victim)
    assert (matching < 0.01 and found < CHANCE) if protected else (matching == 1 and found > 0.999)


def test_releases_do_not_show_the_noise() -> None:
    """Equal inputs under one key, flooded: the values differ by the flooding, not the noise."""
    assert PARAMETERS.flood_bits >= 30
    cohort = _cohort(2, 10)
    pair = ("client-01", "client-02")
    width = 2.0**PARAMETERS.flood_width_bits / 2.0**PARAMETERS.result_scale_bits
    true = float(np.sum((cohort.vectors[0] - cohort.vectors[1]) ** 2)) / BOUND**2
    opened = [cohort.holder._opened(cohort.results[pair]) for _ in range(200)]
    errors = np.array(opened) - true
    assert np.std(errors) > 0.4 * width
    assert np.max(np.abs(errors)) <= PARAMETERS.error_bound


def test_averaging_repeated_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 releases under one key bring the flooding down eightfold; hence one release only."""
    monkeypatch.setattr(key_holder, "released", lambda squared, *_: squared)
    cohort = _cohort(2, 10)
    true, read = float(np.sum((cohort.vectors[0] - cohort.vectors[1]) ** 2)), []
    for _ in range(64):
        cohort.holder._spent = False
        read.append(cohort.release()["client-01"]["client-02"])
    errors = np.array(read) - true
    assert abs(errors.mean()) < 0.5 * errors.std()
    with pytest.raises(LocalProtocolError, match="has released"):
        cohort.release()


@pytest.mark.parametrize("protected", [False, True])
def test_an_upload_beyond_the_norm_bound(protected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a distance say a coordinate of each victim more finely than the bound allows."""
    if not protected:
        unchecked = PARAMETERS.resolution
        monkeypatch.setattr(
            key_holder, "released", lambda squared, *_: round(squared / unchecked) * unchecked
        )
        monkeypatch.setattr(KeyHolder, "_contradictions", lambda *_: [])
    holder = KeyHolder(SET, 64, 1.0, Entropy())
    vectors = {f"v{index:02}": _unit_vector(index) for index in range(12)}
    uploads = {}
    for name, vector in {**vectors, "z": np.eye(64)[5]}.items():
        client = KeyHolderClient(vector, SET, 1.0, BLINDING)
        if name == "z":
            client._vector = client._vector * 2.6
        uploads[name] = client.upload(holder.keys())
    digests = DistanceServer(SET, 64, holder.keys()).digests(uploads)
    if protected:
        with pytest.raises(BadDistance) as refused:
            holder.release(uploads, digests)
        assert refused.value.party == "z"
        return
    row = holder.release(uploads, digests)["z"]
    period = 2 ** (PARAMETERS.data_bits - PARAMETERS.result_scale_bits) / 5.2
    read = np.array([(2.6**2 + 1 - row[name]) / 5.2 for name in vectors])
    read -= np.round(read / period) * period  # long distances wrap round the modulus
    true = np.array([vector[5] for vector in vectors.values()])
    assert np.max(np.abs(read - true)) < PARAMETERS.error_bound / 5.2 + 1e-9
    assert _correlation(read, true) > 0.9999


def _unit_vector(seed: int) -> Vector:
    vector = np.random.default_rng(seed).standard_normal(64)
    unit: Vector = vector / np.linalg.norm(vector)
    return unit
