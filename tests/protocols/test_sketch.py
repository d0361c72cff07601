from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import InputError
from protocols.sketch import relative_error, sketch, sketch_length, sketch_norm_bound

SEED = bytes(range(32))
PINNED_SUM = 436.0
PINNED_START = [-305.0, -308.0, 311.0, 256.0]


def _vector(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


@given(
    length=st.integers(1, 5000),
    cuts=st.lists(st.integers(0, 5000), max_size=6),
    size=st.sampled_from([64, 104, 4096]),
)
@settings(max_examples=40, deadline=None)
def test_chunking_does_not_matter(length: int, cuts: list[int], size: int) -> None:
    vector = _vector(length)
    pieces = np.split(vector, sorted(min(cut, length) for cut in cuts))
    np.testing.assert_array_equal(sketch(iter(pieces), SEED, size), sketch(vector, SEED, size))


def test_equals_a_plain_computation() -> None:
    """Signs and rotations reread from unit vectors explain every other vector's sketch."""
    length, size = 700, 64
    columns = np.stack(
        [sketch(np.eye(length, dtype=np.float32)[i], SEED, size) for i in range(700)]
    )
    assert np.all(np.abs(columns).sum(axis=1) == 1)
    buckets = np.abs(columns).argmax(axis=1)
    for start in range(0, length - size, size):
        row = buckets[start : start + size]
        assert np.array_equal((row - row[0]) % size, np.arange(size))
    vector = _vector(length)
    expected = vector.astype(np.float64) @ columns
    np.testing.assert_allclose(sketch(vector, SEED, size), expected, atol=1e-12)


def test_none_and_short_vectors_are_exact() -> None:
    vector = _vector(100_000)
    np.testing.assert_array_equal(sketch(vector, SEED, None), vector.astype(np.float64))
    np.testing.assert_array_equal(sketch(vector[:64], SEED, 64), vector[:64].astype(np.float64))
    assert sketch_length(64, 64) == 64 and sketch_length(65, 64) == 64
    assert sketch_length(10**8, None) == 10**8
    assert relative_error(64, 64) == 0


@pytest.mark.parametrize("size", [1024, 4096])
def test_distances_have_the_predicted_error(size: int) -> None:
    """Unbiased, with relative standard deviation sqrt(2/m), over 200 seeds."""
    difference = _vector(50_000)
    true = float(difference.astype(np.float64) @ difference)
    seeds = (index.to_bytes(32, "big") for index in range(200))
    ratios = np.array([np.sum(sketch(difference, seed, size) ** 2) / true for seed in seeds])
    predicted = relative_error(difference.size, size)
    assert abs(ratios.mean() - 1) < 4 * predicted / math.sqrt(200)
    assert 0.8 < ratios.std() / predicted < 1.2


def test_linear_and_bound_to_its_seed() -> None:
    a, b = _vector(10_000, 1), _vector(10_000, 2)
    together = sketch(a, SEED, 256) - sketch(b, SEED, 256)
    np.testing.assert_allclose(sketch(a - b, SEED, 256), together, atol=1e-4)
    other = sketch(a, bytes(32), 256)
    correlation = np.corrcoef(sketch(a, SEED, 256), other)[0, 1]
    assert abs(correlation) < 0.35


def test_norm_bound_covers_sketches_of_vectors_at_the_bound() -> None:
    vector = _vector(20_000)
    vector /= np.float32(np.linalg.norm(vector))
    bound = sketch_norm_bound(1.0, vector.size, 1024)
    norms = [np.linalg.norm(sketch(vector, bytes([i]) * 32, 1024)) for i in range(100)]
    assert max(norms) < bound < 1.11
    assert sketch_norm_bound(1.0, 1000, 1024) == 1.0


def test_same_bytes_as_ever() -> None:
    """The map is part of the protocol: a change to it must be noticed."""
    values = sketch(np.arange(1, 201, dtype=np.float32), SEED, 64)
    assert float(np.sum(values)) == pytest.approx(PINNED_SUM)
    np.testing.assert_array_equal(values[:4], PINNED_START)


@pytest.mark.parametrize(
    ("vector", "seed", "size"),
    [
        (_vector(100), SEED, 63),
        (_vector(100), SEED, 68),
        (_vector(100), SEED, (1 << 22) + 1),
        (_vector(100), b"short", 64),
        (_vector(0), SEED, 64),
        (np.array([1, np.nan], np.float32), SEED, None),
        (np.full(1000, np.inf, np.float32), SEED, 64),
        (np.zeros((4, 4), np.float32), SEED, None),
    ],
)
def test_refusals(vector: np.ndarray, seed: bytes, size: int | None) -> None:
    with pytest.raises(InputError), np.errstate(invalid="ignore"):
        sketch(vector, seed, size)


def test_cancelling_infinities_are_refused() -> None:
    vector = np.zeros(1000, np.float32)
    vector[::7], vector[3::7] = np.inf, -np.inf
    with pytest.raises(InputError), np.errstate(invalid="ignore"):
        sketch(vector, SEED, 64)
