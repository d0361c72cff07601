"""Attacks on encrypted distances under peer trust, each carried out.

Every attack is shown twice: with its counter-measure taken out the attacker holds the victim's
vector (correlation near 1), with it the same computation gives chance. The victim's vector has
one chunk of 4096 numbers, so chance is a correlation of about 1/64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal

from protocols import distances
from protocols.ckks import Ring, SecretKey, _load
from protocols.ckks_check import ring_for
from protocols.distance_frames import DIGEST_BYTES, HEADER_BYTES, SEED_BYTES, Kind, close_frame
from protocols.distance_values import Vector
from protocols.distances import DistanceParty
from protocols.entropy import Entropy
from protocols.parameter_sets import PARAMETER_SETS, distance_leakage
from protocols.residues import Residues, multiply_modulo, pack
from protocols.selection import select

PARAMETERS = PARAMETER_SETS["peer-4096"]
LENGTH = PARAMETERS.degree
PARAMETERS_DROPPED = ring_for(PARAMETERS).primes[1]
CHANCE = 0.1  # six standard deviations at 4096 numbers


def _vector(seed: int, length: int = LENGTH, norm: float = 1.0) -> Vector:
    vector = np.random.default_rng(seed).standard_normal(length)
    return vector * norm / float(np.linalg.norm(vector))


def _party(vector: Vector) -> DistanceParty:
    return DistanceParty(vector, PARAMETERS.name, 1.0, Entropy())


def _correlation(guess: Vector, victim: Vector) -> float:
    return abs(float(np.corrcoef(guess, victim)[0, 1]))


def _numbers(ring: Ring, polynomial: Residues) -> Vector:
    """The numbers that a polynomial of conjugated, negated slots stands for, up to a factor."""
    decoded = seal.CKKSEncoder(ring.context).decode_complex(ring.plaintext(polynomial))
    slots = -np.conj(np.array(decoded))
    return np.stack([slots.real, slots.imag], axis=1).ravel()


def _answer(victim: DistanceParty, key: Any, chunks: list[Any], *, rerandomise: bool) -> Any:
    """The victim's reply before the modulus is reduced, as its own code makes it."""
    ring = victim._ring
    total = ring.inner_product(chunks, victim._own_operands())
    if rerandomise:
        ring.add_encryption(total, key, victim._flooded_half_norm())
    return total


@pytest.mark.parametrize("protected", [False, True])
def test_reading_the_vector_off_the_second_polynomial(protected: bool) -> None:
    """Without re-randomisation the second polynomial is a times the victim's plaintext."""
    ring, victim_vector = ring_for(PARAMETERS), _vector(1)
    attacker, victim = _party(_vector(2)), _party(victim_vector)
    key, chunks = victim._parse_upload(attacker.upload(), "attacker")
    own_uniform = ring.residues(chunks[0], 2, 2)[1]
    total = _answer(victim, key, chunks, rerandomise=protected)
    second = ring.residues(total, 2, 2)[1]
    inverse = np.array(
        [
            [pow(int(value), -1, prime) for value in row]
            for row, prime in zip(own_uniform, ring.data_primes, strict=True)
        ],
        np.uint64,
    )
    guess = _numbers(ring, multiply_modulo(second, inverse, ring.data_primes))
    found = _correlation(guess, victim_vector)
    assert found < CHANCE if protected else found > 0.9999


def _constant_rows(ring: Ring, value: int, primes: tuple[int, ...]) -> Residues:
    columns = np.array([[value % prime] for prime in primes], np.uint64)
    return np.repeat(columns, ring.degree, axis=1)


def _chosen(ring: Ring) -> tuple[Any, Any]:
    """A public key with a = 0 and an upload with a = 2^60: what the wire form cannot say."""
    zeros = np.zeros((len(ring.primes), ring.degree), np.uint64)
    key_body = np.stack([_constant_rows(ring, 1, ring.primes), zeros])
    key_stream = ring._streams.ciphertext(ring.key_level, key_body, None)
    aimed = _constant_rows(ring, 2**60, ring.data_primes)
    upload = np.stack([np.zeros_like(aimed), aimed])
    upload_stream = ring._streams.ciphertext(ring.data_level, upload, None)
    return (
        _load(seal.PublicKey, ring.context, key_stream),
        _load(seal.Ciphertext, ring.context, upload_stream),
    )


@pytest.mark.parametrize("protected", [False, True])
def test_choosing_the_uniform_half(protected: bool) -> None:
    """With a = 0 in the key re-randomisation adds nothing, and one honest reply is the vector."""
    ring, victim_vector = ring_for(PARAMETERS), _vector(1)
    victim = _party(victim_vector)
    if protected:
        key, chunks = victim._parse_upload(_emptied_upload(_party(_vector(2))), "attacker")
    else:
        key, chunk = _chosen(ring)
        chunks = [chunk]
    total = _answer(victim, key, chunks, rerandomise=True)
    ring.to_last_level(total)
    _, second = ring.extract_constant(total)
    guess = _slots_at_last_level(ring, np.stack([second, np.zeros_like(second)]))
    found = _correlation(guess, victim_vector)
    assert found < CHANCE if protected else found > 0.999


def _emptied_upload(party: DistanceParty) -> bytes:
    """An upload in the wire form whose every freely chosen residue is zero."""
    framed = party.upload()
    head, content = framed[:HEADER_BYTES], framed[HEADER_BYTES:-DIGEST_BYTES]
    emptied = content[:SEED_BYTES] + bytes(len(content) - SEED_BYTES)
    return close_frame(head, emptied)


def _slots_at_last_level(
    ring: Ring, polynomials: Residues, secret: SecretKey | None = None
) -> Vector:
    """Numbers in all slots of a last-level ciphertext, decrypted if there is a key.

    Without one, the first polynomial is taken for the plaintext.
    """
    decryptor = (secret or SecretKey(ring))._decryptor
    plaintext = seal.Plaintext()
    decryptor.decrypt(ring.plain_ciphertext(polynomials), plaintext)
    slots = -np.conj(np.array(seal.CKKSEncoder(ring.context).decode_complex(plaintext)))
    return np.stack([slots.real, slots.imag], axis=1).ravel()


@pytest.mark.parametrize("protected", [False, True])
def test_reading_partial_sums(protected: bool) -> None:
    """With all slots of the result the attacker divides its own vector out."""
    ring, victim_vector = ring_for(PARAMETERS), _vector(1)
    attacker, victim = _party(np.full(LENGTH, 1 / np.sqrt(LENGTH))), _party(victim_vector)
    key, chunks = victim._parse_upload(attacker.upload(), "attacker")
    total = _answer(victim, key, chunks, rerandomise=True)
    ring.to_last_level(total)
    if protected:
        constant, second = ring.extract_constant(total)
        first = _constant_rows(ring, constant, ring.primes[:1])
    else:
        first, second = ring.residues(total, 2, 1)
    assert attacker._secret is not None
    products = _slots_at_last_level(ring, np.stack([first, second]), attacker._secret)
    slots = products[0::2] - np.median(products[0::2]) + 1j * products[1::2]
    slots *= 1 + 1j  # the attacker's own slots are (1 + i) times a constant
    guess = np.stack([slots.real, slots.imag], axis=1).ravel()
    found = _correlation(guess, victim_vector)
    assert found < CHANCE if protected else found > 0.99


class _Planted(DistanceParty):
    """An attacker that adds a faint plant at one coordinate of its upload."""

    plant = 0.0
    coordinate = 5

    def upload(self) -> bytes:
        scale = 2.0**PARAMETERS.upload_scale_bits
        self._vector[self.coordinate] += self.plant / scale
        return super().upload()

    def coefficient(self, reply: bytes) -> int:
        """The opened number before rounding and range check."""
        assert self._secret is not None
        return self._secret.decrypt_constant(*self._parse_reply(reply, reply[10:42], "victim"))


@pytest.mark.parametrize("protected", [False, True])
def test_reading_below_the_noise(protected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unflooded, two queries that differ far below the flooding give one coordinate."""
    if not protected:
        monkeypatch.setattr(distances, "uniform_flood", lambda *_: 0)
    own = _vector(2, 64, norm=0.9)
    plain, planted = (_Planted(own, PARAMETERS.name, 1.0, Entropy()) for _ in range(2))
    planted.plant = 2.0**48
    uploads = plain.upload(), planted.upload()
    victims = [_vector(100 + index, 64) for index in range(160)]
    read = []
    for victim in map(_party, victims):
        low, high = (victim.reply(upload) for upload in uploads)
        read.append(float(planted.coefficient(high) - plain.coefficient(low)))
    found = _correlation(np.array(read), np.array([v[_Planted.coordinate] for v in victims]))
    chance = 4 / np.sqrt(len(victims))  # four standard deviations
    assert found < chance if protected else found > 0.99


def test_averaging_repeated_queries() -> None:
    """64 answers to one upload bring the flooding down eightfold; hence one answer only."""
    own, victim_vector = _vector(2, 64), _vector(1, 64)
    attacker = _Planted(own, PARAMETERS.name, 1.0, Entropy())
    upload = attacker.upload()
    answers = [attacker.coefficient(_party(victim_vector).reply(upload)) for _ in range(64)]
    scale = np.exp2(PARAMETERS.result_scale_bits) / PARAMETERS_DROPPED
    exact = float(victim_vector @ victim_vector) / 2 - float(own @ victim_vector)
    errors = np.array(answers) / scale - exact
    assert abs(errors.mean()) < 0.5 * errors.std()
    victim = _party(victim_vector)
    victim.reply(upload)
    with pytest.raises(distances.LocalProtocolError):
        victim.reply(upload)


@pytest.mark.parametrize("queries", [1, 64])
def test_a_query_for_every_coordinate(queries: int) -> None:
    """An upload for each coordinate reads the vector; one upload a pair, one coordinate of it.

    Who relays a second upload of one peer is refused: see ``test_distance_phase_attacks.py``.
    """
    victim_vector, guess = _vector(1, 64), np.zeros(64)
    victim, spikes = _party(victim_vector), np.eye(64)
    for place in range(queries):
        attacker = _party(spikes[place])
        squared = attacker.open(victim.reply(attacker.upload()))
        guess[place] = (1 + float(victim_vector @ victim_vector) - squared) / 2
    found = _correlation(guess, victim_vector)
    assert found > 0.999 if queries == 64 else found < 4 / np.sqrt(64)


def test_a_malicious_upload_reads_one_functional_to_the_stated_bits() -> None:
    """The leakage bound is what an attacker that ignores the norm bound gets, and no more.

    It scales one coordinate up until the modulus wraps and measures how well it can tell
    neighbouring values apart: log2 of range over flooding width.
    """
    amplify = 2.0 ** (PARAMETERS.data_bits - 1 - PARAMETERS.result_scale_bits)
    width = np.exp2(PARAMETERS.flood_width_bits + 1) / PARAMETERS_DROPPED
    attacker = _Planted(np.zeros(64), PARAMETERS.name, 1.0, Entropy())
    attacker._vector[_Planted.coordinate] = amplify
    upload, errors = attacker.upload(), []
    for index in range(60):
        victim_vector = _vector(100 + index, 64)
        got = attacker.coefficient(_party(victim_vector).reply(upload))
        exact = 0.5 - amplify * victim_vector[_Planted.coordinate]
        scale = np.exp2(PARAMETERS.result_scale_bits) / PARAMETERS_DROPPED
        errors.append(got - exact * scale)
    spread = np.sqrt(12) * np.std(errors)
    assert 0.8 < spread / width < 1.2
    bits = np.log2(ring_for(PARAMETERS).primes[0] / spread)
    assert abs(bits - PARAMETERS.leakage_bits) < 0.5


class _Answerer(DistanceParty):
    """An answerer whose reply opens to a functional of its choice, unflooded."""

    def crafted(self, upload: bytes, gain: float, shift: float) -> bytes:
        """Opens to 2 (shift − gain x[5]) + ‖x‖²."""
        ring = self._ring
        key, chunks = self._parse_upload(upload, "victim")
        self._vector = np.zeros(64)
        self._vector[5] = gain
        self._operands = None
        total = ring.inner_product(chunks, self._own_operands())
        ring.add_encryption(total, key, round(shift * np.exp2(PARAMETERS.result_scale_bits)))
        ring.to_last_level(total)
        constant, second = ring.extract_constant(total)
        body = constant.to_bytes(PARAMETERS.residue_bytes(0), "little")
        content = upload[-DIGEST_BYTES:] + body + pack(second, ring.primes[:1])
        return close_frame(self._header(Kind.REPLY), content)


def test_a_malicious_reply_makes_the_victim_publish_one_functional() -> None:
    """No counter-measure takes this away: it is the second number that the report counts."""
    gain, shift, read, true = 0.05, -0.03, [], []
    for index in range(12):
        vector = _vector(200 + index, 64, norm=0.3)
        victim = _party(vector)
        upload = victim.upload()
        row = {
            name: victim.open(_party(_vector(300 + place, 64, norm=0.3)).reply(upload)) ** 0.5
            for place, name in enumerate("bcd")
        }
        evil = _Answerer(_vector(400, 64), PARAMETERS.name, 1.0, Entropy())
        row["evil"] = victim.open(evil.crafted(upload, gain, shift)) ** 0.5
        scale = select(row, 2).scale
        assert scale == row["evil"], "it is the smallest, and goes to all peers"
        read.append((0.09 + 2 * shift - scale**2) / (2 * gain))
        true.append(vector[5])
    assert _correlation(np.array(read), np.array(true)) > 0.999
    steps = 4 / PARAMETERS.resolution + 2
    assert PARAMETERS.released_bits == np.log2(steps)
    leakage = distance_leakage(PARAMETERS.name, 4, 1)
    assert leakage.malicious_bits_each >= PARAMETERS.leakage_bits + np.log2(steps)


def test_opening_floods_what_the_answerer_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a step of the grid an unflooded reply rounds by its noise; opened, it is a coin's toss."""
    victim = _party(_vector(1, 64, norm=0.3))
    upload = victim.upload()
    evil = _Answerer(_vector(2, 64), PARAMETERS.name, 1.0, Entropy())
    reply = evil.crafted(upload, 0.0, 0.1)
    assert len({victim.open(reply) for _ in range(40)}) > 1
    monkeypatch.setattr(distances, "uniform_flood", lambda *_: 0)
    assert len({victim.open(reply) for _ in range(40)}) == 1
