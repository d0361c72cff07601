"""Noise that clients share in the ring: its distribution, its room, and the sums that hold it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from in_process import Federation, entropy_for
from scipy.stats import chisquare

from protocols import Entropy, ParameterError
from protocols.discrete_gaussian import MAX_DEVIATION, DiscreteGaussian
from protocols.reference import aggregate
from protocols.results import fixed_point_of
from protocols.ring import CHUNK, NOISE_REACH, FixedPoint

SIGMA = 0.05


def drawn(deviation: int, count: int, label: str = "noise") -> np.ndarray:
    return DiscreteGaussian(entropy_for(label).read(32), deviation).draw(count)


def masses(deviation: int, reach: int) -> np.ndarray:
    """P(x) for |x| <= reach, from the definition."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    return weights / weights.sum()


def assert_fits(values: np.ndarray, expected: np.ndarray) -> None:
    """Chi-square of counts against masses around zero, rare values put together."""
    reach, count = len(expected) // 2, len(values)
    counts = np.bincount(np.clip(values, -reach, reach) + reach, minlength=len(expected))
    common = expected * count > 20
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], 1 - expected[common].sum()) * count
    assert chisquare(observed, wanted).pvalue > 1e-6


@pytest.mark.parametrize("deviation", [1, 2, 7, 40])
def test_the_sampler_has_the_exact_distribution(deviation: int) -> None:
    assert_fits(drawn(deviation, 200_000), masses(deviation, 12 * deviation))


def test_chi_square_tells_a_wrong_deviation() -> None:
    """The check itself: noise 2 % too small does not pass."""
    wide = masses(51, 600)
    with pytest.raises(AssertionError):
        assert_fits(drawn(50, 200_000), wide)


def test_the_sum_of_shares_has_the_convolved_distribution() -> None:
    """Not a discrete Gaussian: three of deviation 1 (Kairouz et al. 2021)."""
    one = masses(1, 12)
    expected = np.convolve(np.convolve(one, one), one)
    total = sum(drawn(1, 200_000, f"share {number}") for number in range(3))
    assert_fits(total, expected)


@pytest.mark.parametrize("deviation", [1000, MAX_DEVIATION])
def test_large_deviations_stay_exact_integers(deviation: int) -> None:
    values = drawn(deviation, 50_000)
    assert values.std() == pytest.approx(deviation, rel=0.02)
    assert abs(values.mean()) < 5 * deviation / math.sqrt(len(values))
    assert len(np.unique(values % 16)) == 16


def test_streams_depend_on_the_key_alone_and_never_repeat() -> None:
    assert np.array_equal(drawn(5000, 100), drawn(5000, 100))
    first = DiscreteGaussian(bytes(32), 5000)
    assert not np.array_equal(first.draw(100), first.draw(100))
    assert first.draw(0).shape == (0,)


@pytest.mark.parametrize("deviation", [0, MAX_DEVIATION + 1])
def test_a_deviation_out_of_range_is_refused(deviation: int) -> None:
    with pytest.raises(ValueError, match=f"a deviation of {deviation}"):
        DiscreteGaussian(bytes(32), deviation)


@pytest.mark.parametrize("bits", [16, 20, 24, 32])
@pytest.mark.parametrize("contributors", [2, 3, 9, 100])
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0, 50.0])
def test_terms_and_the_reach_of_their_noise_fit_the_ring(
    bits: int, contributors: int, noise: float
) -> None:
    fixed = FixedPoint(bits, contributors, 1.0, 128.0, noise)
    steps = math.floor(noise * fixed.scale)
    assert fixed.noise_steps == steps
    largest = fixed.scale * (1 + 2.0**-22) + 0.5
    total = contributors * largest + NOISE_REACH * steps * math.sqrt(contributors)
    assert total < 2 ** (bits - 1)


class Remembering(Entropy):
    """Deterministic entropy that keeps what was read."""

    def __init__(self, label: str) -> None:
        self._source, self.reads = entropy_for(label), []

    def read(self, num_bytes: int) -> bytes:
        self.reads.append(self._source.read(num_bytes))
        return self.reads[-1]


def noisy_federation(**options: object) -> Federation:
    noise = {"noise": {"task_adapter": SIGMA}}
    lengths = {"task_adapter": CHUNK + 301, "text_adapter": 202}
    federation = Federation(options=noise | options, entropy=Remembering, lengths=lengths)
    return federation


def replayed_noise(federation: Federation) -> dict[str, dict[str, np.ndarray]]:
    """Each client's noise again, from the last key that it read: it is in one noised sum."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for planned in federation.server.report.plan:
        spec = federation.parameters.sum(planned.id)
        fixed = fixed_point_of(federation.parameters, planned)
        if not fixed.noise_steps:
            continue
        length = federation.lengths[spec.vector]
        for name in planned.contributors:
            stream = DiscreteGaussian(federation.noise_keys[name], fixed.noise_steps)
            sizes = [min(CHUNK, length - start) for start in range(0, length, CHUNK)]
            numbers = np.concatenate([stream.draw(size) for size in sizes])
            steps = numbers * (fixed.max_weight / fixed.scale)
            found.setdefault(planned.id, {})[name] = steps
    return found


def run_noting_keys(federation: Federation, gone: str = "") -> Federation:
    """Run; a client's noise key is what it read last before its upload. ``gone`` withholds that."""
    federation.noise_keys = {}

    def note(phase: str, name: str, reply: bytes) -> bytes | None:
        if phase != "masked_input":
            return reply
        federation.noise_keys[name] = federation.clients[name]._context.entropy.reads[-1]
        return None if name == gone else reply

    return federation.run(on_reply=note)


@pytest.mark.parametrize("bits", [20, 32])
def test_the_mean_is_the_reference_with_the_noise_replayed(bits: int) -> None:
    federation = run_noting_keys(noisy_federation(ring_bits=bits))
    assert federation.errors == {}
    report, noise = federation.server.report, replayed_noise(federation)
    vectors = {
        name: {v: federation.flat(name, v) for v in federation.lengths}
        for name in federation.cohort
    }
    samples = {name: inputs.num_samples for name, inputs in federation.inputs.items()}
    expected = aggregate(federation.parameters, vectors, samples, noise=noise)
    without = aggregate(federation.parameters, vectors, samples)
    for planned in report.plan:
        if planned.recipient != "server":
            continue
        fixed = fixed_point_of(federation.parameters, planned)
        clear = expected[planned.id]
        # the decoder's float32 products are relative to the mean with its noise
        bound = fixed.error_bound(clear.sum_n) + 2.0**-22 * np.abs(clear.mean).max()
        assert np.abs(report.means[planned.id] - clear.mean).max() <= bound
        added = (report.means[planned.id] - without[planned.id].mean) * clear.sum_n / 128
        assert added.std() == pytest.approx(SIGMA * math.sqrt(3), rel=0.03)


def test_a_drop_out_takes_its_share_of_the_noise_along() -> None:
    federation = noisy_federation(min_contributors=2, max_colluders=0)
    run_noting_keys(federation, gone="client-01")
    report = federation.server.report
    assert "client-01" not in report.opened["task-0"]
    samples = {name: inputs.num_samples for name, inputs in federation.inputs.items()}
    left = report.opened["task-0"]
    vectors = {name: {v: federation.flat(name, v) for v in federation.lengths} for name in left}
    total = sum(samples[name] * vectors[name]["task_adapter"].astype(float) for name in left)
    total_n = sum(samples[name] for name in left)
    added = (report.means["task-0"] * total_n - total) / 128
    assert added.std() == pytest.approx(SIGMA * math.sqrt(2), rel=0.03)


@pytest.mark.parametrize(
    ("noise", "problem"),
    [
        ({"text_adapter": 0.1}, "text_adapter has sealed sums, for which no noise can be shared"),
        ({"another": 0.1}, "no sum of another"),
        ({"task_adapter": 1e-9}, "1e-09 is 0 to 0 steps of 20 bits"),
    ],
)
def test_noise_that_protects_nothing_is_refused(noise: dict[str, float], problem: str) -> None:
    with pytest.raises(ParameterError, match=problem):
        Federation(options={"noise": noise})
