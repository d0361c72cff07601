"""Peer trust: correct within the bounds, one answer per upload, and hostile bytes."""

from __future__ import annotations

import hashlib
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import distances
from protocols.ckks import Ring
from protocols.distance_values import released
from protocols.distances import DistanceParty, NormBoundExceeded, reply_length, upload_length
from protocols.entropy import DeterministicEntropy, Entropy
from protocols.errors import BadDistance, InputError, LocalProtocolError, ParameterError
from protocols.parameter_sets import PARAMETER_SETS, distance_leakage
from protocols.sketch import sketch

SET = "peer-4096"
PEER_SETS = [name for name, found in PARAMETER_SETS.items() if found.trust == "peer"]


def _party(vector: np.ndarray, bound: float = 2.0, name: str = SET) -> DistanceParty:
    return DistanceParty(vector, name, bound, Entropy())


def _vectors(count: int, length: int, norm: float = 1.0, seed: int = 3) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, length))
    return vectors * norm / np.linalg.norm(vectors, axis=1, keepdims=True)


def _distance(holder: DistanceParty, peer: DistanceParty) -> float:
    return holder.open(peer.reply(holder.upload(), "client-02"), "client-02")


@pytest.mark.parametrize("name", PEER_SETS)
@pytest.mark.parametrize("length", [1, 4095, 4097, 20_000])
def test_distances_are_within_the_bound(name: str, length: int) -> None:
    bound, parameters = 2.0, PARAMETER_SETS[name]
    x, y = _vectors(2, length)
    a, b = _party(x, bound, name), _party(y, bound, name)
    true = float(np.sum((x - y) ** 2))
    forth, back = _distance(a, b), _distance(b, a)
    assert abs(forth - true) <= parameters.error_bound * bound**2
    assert abs(back - true) <= parameters.error_bound * bound**2
    steps = forth / (parameters.resolution * bound**2)
    assert steps == pytest.approx(round(steps), abs=1e-6)


def test_exact_before_flooding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flooding and rounding the relative error is at most 1e-6 at D = 1e5."""
    monkeypatch.setattr(distances, "uniform_flood", lambda *_: 0)
    monkeypatch.setattr(distances, "released", lambda squared, *_: squared)
    parameters, bound = PARAMETER_SETS[SET], 4.0
    x, y = _vectors(2, 100_000, norm=math.sqrt(10))
    a, b = _party(x, bound), _party(y, bound)
    true = float(np.sum((x - y) ** 2))
    error = abs(_distance(a, b) - true)
    assert error <= parameters.exact_error_bound * bound**2
    assert error / true <= 1e-6


def test_equal_and_opposite_vectors_at_the_bound() -> None:
    (x,) = _vectors(1, 500, norm=2.0)
    slack = PARAMETER_SETS[SET].error_bound * 4
    assert 0 <= _distance(_party(x), _party(x.copy())) <= slack
    assert abs(_distance(_party(x), _party(-x)) - 16) <= slack


def test_a_cohort_picks_the_neighbours_of_the_clear_path() -> None:
    """The whole path with a sketch equals plain numpy on the same sketches."""
    centres = _vectors(3, 30_000)
    vectors = np.repeat(centres, 2, axis=0) + _vectors(6, 30_000, norm=0.5, seed=4)
    sketches = [sketch(v.astype(np.float32), bytes(32), 4096) for v in vectors]
    parties = [_party(s) for s in sketches]
    for k, holder in enumerate(parties):
        upload = holder.upload()
        row = {j: holder.open(p.reply(upload)) for j, p in enumerate(parties) if j != k}
        clear = {j: float(np.sum((sketches[k] - sketches[j]) ** 2)) for j in row}
        assert sorted(row, key=row.__getitem__)[:3] == sorted(clear, key=clear.__getitem__)[:3]
        for j, value in row.items():
            assert abs(value - clear[j]) <= PARAMETER_SETS[SET].error_bound * 4


@pytest.mark.parametrize("name", PEER_SETS)
def test_lengths_are_public(name: str) -> None:
    for length in (1, 8192, 8193):
        a, b = (_party(v, name=name) for v in _vectors(2, length))
        assert len(a.upload()) == upload_length(name, length)
        assert len(b.reply(a.upload())) == reply_length(name)


def test_one_committed_upload_answered_once() -> None:
    a, b = (_party(v) for v in _vectors(2, 100))
    upload = a.upload()
    assert a.upload() == upload
    b.reply(upload, "client-01")
    with pytest.raises(LocalProtocolError, match="client-01"):
        b.reply(upload, "client-01")
    with pytest.raises(LocalProtocolError):
        a.reply(upload, "server")


def test_a_party_goes_on_in_another_process() -> None:
    """Pickled after every step: the same upload, replies that open, and no second answer."""

    def moved(party: DistanceParty) -> DistanceParty:
        return pickle.loads(pickle.dumps(party))

    x, y = _vectors(2, 5000)
    a, b = moved(_party(x)), moved(_party(y))
    upload = a.upload()
    a, b = moved(a), moved(b)
    assert a.upload() == upload
    b.upload()
    reply = b.reply(upload)
    assert abs(moved(a).open(reply) - np.sum((x - y) ** 2)) <= PARAMETER_SETS[SET].error_bound * 4
    with pytest.raises(LocalProtocolError, match="answered before"):
        moved(b).reply(upload)


def test_keys_are_fresh_even_under_equal_entropy() -> None:
    (x,) = _vectors(1, 100)
    first, second = (DistanceParty(x, SET, 2.0, DeterministicEntropy(b"seed")) for _ in range(2))
    a, b = (np.frombuffer(p.upload()[64:-32], np.uint8) for p in (first, second))
    assert np.mean(a == b) < 0.05


def test_the_norm_bound_is_enforced_before_encryption() -> None:
    (x,) = _vectors(1, 100, norm=2.01)
    with pytest.raises(NormBoundExceeded, match="above 2, the public bound") as caught:
        _party(x)
    assert caught.value.norm == pytest.approx(2.01) and caught.value.norm_bound == 2.0
    assert "2.01" not in str(caught.value)


@pytest.mark.parametrize(
    ("vector", "bound"),
    [
        (np.array([np.nan, 0]), 1.0),
        (np.array([np.inf]), 1.0),
        (np.zeros((2, 2)), 1.0),
        (np.zeros(0), 1.0),
        (np.zeros(3), 0.0),
        (np.zeros(3), math.nan),
    ],
)
def test_bad_inputs_are_typed(vector: np.ndarray, bound: float) -> None:
    with pytest.raises(InputError):
        _party(vector, bound)


def test_unknown_set_is_a_parameter_error() -> None:
    with pytest.raises(ParameterError):
        _party(np.zeros(3), name="peer-1")


def test_a_reply_before_the_upload_is_the_callers_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        _party(np.zeros(3)).open(bytes(reply_length(SET)))


def test_secrets_do_not_show() -> None:
    assert "0.123" not in repr(_party(np.full(5, 0.123)))


# Hostile bytes


@pytest.fixture(scope="module")
def exchange() -> tuple[DistanceParty, DistanceParty, bytes, bytes]:
    a, b = (_party(v) for v in _vectors(2, 5000))
    upload = a.upload()
    return a, b, upload, b.reply(upload)


@pytest.fixture
def no_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEAL must not be reached at all."""

    def reached(*_arguments: object) -> None:
        raise AssertionError("hostile bytes reached SEAL")

    for name in ("seeded_ciphertext", "seeded_public_key", "plain_ciphertext"):
        monkeypatch.setattr(Ring, name, reached)


def _resealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_names_the_sender(
    exchange: tuple[DistanceParty, DistanceParty, bytes, bytes], position: float, bit: int
) -> None:
    a, b, *messages = exchange
    for handle, message in zip((b.reply, a.open), messages, strict=True):
        damaged = bytearray(message)
        damaged[int(position * len(damaged))] ^= 1 << bit
        with pytest.raises(BadDistance, match="client-07") as caught:
            handle(bytes(damaged), "client-07")
        assert caught.value.party == "client-07"


@pytest.mark.usefixtures("no_seal")
@pytest.mark.parametrize("length", [0, 1, 16, 5000, -1, +1, 50_000_000])
def test_truncated_and_huge_blobs(
    exchange: tuple[DistanceParty, DistanceParty, bytes, bytes], length: int
) -> None:
    a, b, *messages = exchange
    for handle, message in zip((b.reply, a.open), messages, strict=True):
        size = len(message) + length if abs(length) == 1 else length
        blob = (message + bytes(max(0, size - len(message))))[:size]
        with pytest.raises(BadDistance, match="bytes, expected"):
            handle(blob)


@pytest.fixture(scope="module")
def foreign_uploads() -> tuple[bytes, bytes]:
    """One under another set, and one of another length in as many chunks."""
    (x,) = _vectors(1, 5001)
    return _party(x, name="peer-8192").upload(), _party(x).upload()


@pytest.mark.usefixtures("no_seal")
def test_other_parameters(
    exchange: tuple[DistanceParty, DistanceParty, bytes, bytes],
    foreign_uploads: tuple[bytes, bytes],
) -> None:
    _, b, upload, _ = exchange
    other_set, other_length = foreign_uploads
    with pytest.raises(BadDistance, match="expected"):
        b.reply(other_set)
    assert len(other_length) == len(upload)
    with pytest.raises(BadDistance, match="other parameters"):
        b.reply(other_length)


@pytest.mark.usefixtures("no_seal")
@pytest.mark.parametrize("index", range(10))
def test_every_header_byte_counts(
    exchange: tuple[DistanceParty, DistanceParty, bytes, bytes], index: int
) -> None:
    a, b, *messages = exchange
    for handle, message in zip((b.reply, a.open), messages, strict=True):
        changed = bytearray(message[:-32])
        changed[index] ^= 1
        with pytest.raises(BadDistance, match="other parameters"):
            handle(_resealed(bytes(changed)))


@pytest.mark.usefixtures("no_seal")
def test_residues_out_of_range(
    exchange: tuple[DistanceParty, DistanceParty, bytes, bytes],
) -> None:
    a, b, upload, reply = exchange
    for handle, message, start, width in ((b.reply, upload, 42, 5), (a.open, reply, 42, 5)):
        changed = bytearray(message[:-32])
        changed[start : start + width] = b"\xff" * width
        with pytest.raises(BadDistance, match="below its prime"):
            handle(_resealed(bytes(changed)))


def test_a_reply_under_another_key_or_to_another_upload(
    exchange: tuple[DistanceParty, DistanceParty, bytes, bytes],
) -> None:
    a, _, upload, _ = exchange
    other, responder = (_party(v) for v in _vectors(2, 5000, seed=9))
    foreign = responder.reply(other.upload())
    with pytest.raises(BadDistance, match="another upload"):
        a.open(foreign)
    redirected = bytearray(foreign[:-32])
    redirected[10:42] = upload[-32:]
    outcomes = []
    for shift in range(20):
        redirected[60] = shift
        try:
            outcomes.append(a.open(_resealed(bytes(redirected))))
        except BadDistance as error:
            assert "impossible" in error.reason
            outcomes.append(None)
    assert None in outcomes, "a uniformly random coefficient was always taken for a distance"


def test_impossible_distances_are_refused() -> None:
    parameters = PARAMETER_SETS[SET]
    for squared, norm in ((-0.01, 0.5), (2.3, 0.5), (4.1, 1.0)):
        with pytest.raises(BadDistance, match="impossible"):
            released(squared, norm, parameters, "client-03")
    assert released(-parameters.error_bound / 2, 0.5, parameters, "") == 0.0


# The leakage report


def test_leakage_grows_with_colluders_only() -> None:
    one, two = (distance_leakage(SET, 9, count) for count in (1, 2))
    assert one.functionals_per_victim == 2 and two.functionals_per_victim == 4
    parameters = PARAMETER_SETS[SET]
    both = parameters.leakage_bits + parameters.released_bits
    assert one.malicious_bits_per_victim == both > 38
    again = distance_leakage(SET, 9, 1, max_attempts=3)
    assert again.malicious_bits_per_victim == 3 * both
    holder = distance_leakage("holder-8192", 9, 1, max_attempts=2)
    assert holder.malicious_bits_per_victim == 2 * PARAMETER_SETS["holder-8192"].leakage_bits
    assert two.malicious_bits_per_victim == 2 * one.malicious_bits_per_victim
    assert one.malicious_bits_in_all == 8 * one.malicious_bits_each
    assert distance_leakage(SET, 9, 0).malicious_bits_in_all == 0
    assert one.honest_bits_each <= one.malicious_bits_each + 1
    with pytest.raises(ParameterError):
        distance_leakage(SET, 3, 3)


@pytest.mark.parametrize("own, peer", [(0.0, 0.01), (0.01, 0.0), (0.0, 0.0), (1e-12, 0.01)])
def test_a_client_that_has_not_moved_yet_has_distances_too(own: float, peer: float) -> None:
    length, bound = 5000, 2.0
    asking = DistanceParty(np.full(length, own), "peer-4096", bound, Entropy())
    answering = DistanceParty(np.full(length, peer), "peer-4096", bound, Entropy())
    squared = asking.open(answering.reply(asking.upload()))
    error = asking.parameters.error_bound * bound**2
    assert squared == pytest.approx(length * (own - peer) ** 2, abs=error)
