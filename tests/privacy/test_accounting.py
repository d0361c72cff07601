"""Releases to epsilon: against the closed form, dp-accounting fed event by event, and PRV."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.special import logsumexp

from pilot_secure.privacy import (
    ClientLedger,
    DpSgd,
    Ledger,
    LedgerError,
    LocalNoise,
    SharedNoise,
    Unprotected,
    claim,
    parse_ledger,
    recompute,
    understated,
    with_claims,
)
from pilot_secure.privacy.accountants import (
    Unreachable,
    calibrate,
    calibrate_concentrated,
    epsilon,
    gaussian_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from pilot_secure.privacy.concentrated import (
    JointNoise,
    NoRoom,
    SummedNoise,
    concentrated_epsilon,
    rounded_norms,
    shared_deviation,
)
from pilot_secure.privacy.events import Mechanism, mechanisms
from pilot_secure.privacy.prv import prv_epsilon
from protocols.ring import FixedPoint

DELTA = 1e-3
WEIGHTS = {"a": 0.5, "b": 1.0, "c": 0.75, "d": 0.75}
STEPS, SIGMA, LENGTH = 20_000.0, 60_000, 400
DROPPED = {name: WEIGHTS[name] for name in ("a", "b", "d")}


def sgd(**fields: Any) -> DpSgd:
    given = {"round": 1, "stage": 1, "sampling": "poisson", "sampling_rate": 0.125}
    given |= {"noise_multiplier": 1.2, "clipping_norm": 1.0, "steps": 8}
    return DpSgd.model_validate(given | fields)


def local(**fields: Any) -> LocalNoise:
    given = {"round": 1, "stage": 1, "noise_multiplier": 40.0, "clipping_norm": 1.0, "uploads": 1}
    return LocalNoise.model_validate(given | fields)


def shared(**fields: Any) -> SharedNoise:
    given = {
        "round": 1,
        "stage": 1,
        "sum": "all",
        "vector": "v",
        "noise_steps": SIGMA,
        "steps_per_unit": STEPS,
    }
    given |= {"clipping_norm": 1.0, "coordinates": LENGTH, "weights": WEIGHTS}
    return SharedNoise.model_validate(given | fields)


def run_of(make: Any, rounds: int = 20, stages: int = 2, **fields: Any) -> list[Any]:
    return [
        make(round=r, stage=s, **fields) for r in range(1, rounds + 1) for s in range(1, stages + 1)
    ]


def total(
    releases: Sequence[Any], client: str = "a", colluders: int = 0, adjacency: Any = "zero_out"
) -> float:
    return epsilon(mechanisms(client, releases, max_colluders=colluders), DELTA, adjacency)


def one_by_one(events: Sequence[tuple[float, float]]) -> float:
    """dp-accounting's PLD on (sampling rate, noise multiplier) of every single release."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    for rate, noise in events:
        event: Any = dp_accounting.GaussianDpEvent(noise)
        if rate < 1:
            event = dp_accounting.PoissonSampledDpEvent(rate, event)
        accountant.compose(event)
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
def test_the_closed_form_satisfies_its_own_definition(mu: float) -> None:
    """Delta of the found epsilon by numerical integration of max(0, p - e^eps q)."""
    from scipy.integrate import quad
    from scipy.stats import norm

    found = gaussian_epsilon(mu, DELTA)
    start = found / mu - mu / 2  # where the loss exceeds epsilon
    value, _ = quad(
        lambda x: norm.pdf(x - mu) - math.exp(found) * norm.pdf(x), start + mu, start + mu + 40
    )
    assert value == pytest.approx(DELTA, rel=1e-4)


@pytest.mark.parametrize(
    ("uploads", "weights", "colluders"),
    [
        (1, WEIGHTS, 0),
        (2, WEIGHTS, 0),
        (2, WEIGHTS, 1),
        (2, DROPPED, 0),
        (2, DROPPED, 1),
        (2, dict.fromkeys(WEIGHTS, 1.0), 1),
    ],
)
def test_shared_noise_over_twenty_rounds_is_the_gaussian_of_what_remains(
    uploads: int, weights: dict[str, float], colluders: int
) -> None:
    """20 rounds x 2 stages x uploads; the noise is that of survivors less the colluders.

    Its rho is that of the closed form, and of PLD, for a Gaussian of that multiplier; the claim is
    dp-accounting's for that rho, and costs some percent more than the Gaussian's.
    """
    releases = [
        *run_of(shared, weights=weights),
        *(run_of(shared, sum="again", weights=weights) if uploads == 2 else []),
    ]
    remaining = math.sqrt(len(weights) - colluders) * SIGMA
    noise = remaining / (STEPS * weights["a"] + math.sqrt(LENGTH) / 2)
    found = mechanisms("a", releases, max_colluders=colluders)
    rho = sum(mechanism.rho() for mechanism in found)
    count = 40 * uploads
    assert rho == pytest.approx(count / (2 * noise**2), rel=1e-5)
    gaussian = gaussian_epsilon(math.sqrt(2 * rho), DELTA)
    assert gaussian == pytest.approx(one_by_one([(1.0, noise)] * count), abs=1e-3)
    claimed = total(releases, colluders=colluders)
    accountant = RdpAccountant([1 + x / 50 for x in range(1, 2000)])
    accountant.compose(dp_accounting.ZCDpEvent(rho))
    assert claimed == pytest.approx(accountant.get_epsilon(DELTA), abs=1e-3)
    assert gaussian < claimed < 1.15 * gaussian


@pytest.mark.parametrize(("deviation", "terms"), [(1, 2), (1, 5), (2, 3), (5, 2)])
@pytest.mark.parametrize("shift", [1, 3])
def test_rho_bounds_the_divergence_of_the_exact_sum(deviation: int, terms: int, shift: int) -> None:
    """Against the sum's own masses, by convolution: Renyi divergence, and delta of each epsilon."""
    values = np.arange(-60 * deviation, 60 * deviation + 1)
    one = np.exp(-(values.astype(float) ** 2) / (2 * deviation**2))
    one /= one.sum()
    p = one
    for _ in range(terms - 1):
        p = np.convolve(p, one)
    near, far = p[shift:], p[:-shift]  # the sum, and the sum moved by the sensitivity
    kept = (near > 1e-250) & (far > 1e-250)
    near, far = near[kept], far[kept]
    losses = np.log(near) - np.log(far)
    rho = SummedNoise(terms, deviation, float(shift), 0.0, 1).rho()
    for order in (1.5, 2.0, 4.0, 16.0):
        divergence = float(logsumexp(np.log(near) + (order - 1) * losses)) / (order - 1)
        assert divergence <= order * rho * (1 + 1e-9)
        if deviation > 1:
            assert divergence >= 0.999 * order * rho
    for claimed in (0.5, 1.0, 3.0):
        delta = float(np.maximum(0, near - math.exp(claimed) * far).sum())
        if delta > 1e-12:
            assert concentrated_epsilon(rho, delta) >= claimed


def test_vectors_of_one_clipped_update_cost_what_the_barest_of_them_does() -> None:
    """Two Gaussians on parts whose squared norms add up to the clip's: the worst is an end."""
    parts = JointNoise(1 / 5.0**2, ((SummedNoise(2, 4000, 12_000.0, 0.0, 1),),))
    shares = np.linspace(0, 1, 101)
    exact = (shares / 5.0**2 + (1 - shares) * (12_000 / 4000) ** 2 / 2) / 2
    assert parts.rho() == pytest.approx(exact.max())
    assert parts.rho(2.0) == pytest.approx(4 * parts.rho())


def test_a_rounded_term_has_no_larger_norm_than_counted() -> None:
    """The encoder's own rounding, on terms made to be rounded up."""
    length = 5000
    fixed = FixedPoint(20, 3, 1.0, 64.0, 2.0)
    vector = np.full(length, 1 / math.sqrt(length), np.float32)
    vector = np.float32((np.floor(vector * fixed.scale) + 0.5001) / fixed.scale)
    norm = float(np.linalg.norm(vector.astype(float)))
    words, floats = np.empty(length, np.uint32), np.empty(length, np.float32)
    for weight in (64.0, 17.0):
        fixed.encode(vector, weight, floats, words)
        largest = float(np.linalg.norm(words.view(np.int32).astype(float)))
        assert largest <= sum(rounded_norms(fixed.scale, norm, weight / 64, length))
    assert largest > fixed.scale * norm * weight / 64 or weight != 64.0


@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
@pytest.mark.parametrize("target", [0.5, 8.0])
def test_calibrated_shares_reach_the_target_with_the_fewest_survivors(
    target: float, adjacency: Any
) -> None:
    """Three open a sum, one colludes; planned for nine: rounding, ring and floors counted."""
    noise = calibrate_concentrated(6, target, DELTA, adjacency)
    ring = FixedPoint(32, 9, 0.5, 64.0)
    share = shared_deviation(noise, ring, norm=0.5, length=40_000, honest=2, vectors=2)
    for planned in (3, 9):
        fixed = FixedPoint(32, planned, 0.5, 64.0, share)
        sums = {"noise_steps": fixed.noise_steps, "steps_per_unit": fixed.scale}
        sums |= {"clipping_norm": 0.5, "coordinates": 40_000}
        sums |= {"weights": dict.fromkeys("abc", 1.0)}
        own = {"noise_multiplier": noise, "clipping_norm": 0.5, "without": ("v", "w")}
        releases = [
            *run_of(shared, 6, 1, **sums),
            *run_of(shared, 6, 1, vector="w", **sums),
            *run_of(local, 6, 1, **own),
        ]
        reached = total(releases, colluders=1, adjacency=adjacency)
        assert 0.9 * target < reached <= target
    with pytest.raises(NoRoom, match="too small beside the rounding of 40000 coordinates"):
        shared_deviation(90.0, FixedPoint(16, 9, 0.5, 64.0), norm=0.5, length=40_000, honest=2)


@pytest.mark.parametrize("uploads", [1, 2])
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_local_noise_equals_the_closed_form(uploads: int, adjacency: Any) -> None:
    found = total(run_of(local, uploads=uploads), adjacency=adjacency)
    shift = 2.0 if adjacency == "replace_one" else 1.0
    mu = shift * math.sqrt(40 * uploads) / 40
    assert found == pytest.approx(gaussian_epsilon(mu, DELTA), abs=2e-2)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "rounds"),
    [(0.125, 1.2, 8, 3), (0.125, 3.0, 8, 20), (0.02, 0.8, 50, 2), (0.5, 6.0, 4, 20)],
)
def test_dp_sgd_equals_pld_event_by_event_and_opacus_prv(
    rate: float, noise: float, steps: int, rounds: int
) -> None:
    releases = run_of(sgd, rounds, sampling_rate=rate, noise_multiplier=noise, steps=steps)
    found = total(releases)
    composed = [Mechanism(noise, rate, 2 * rounds * steps)]
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    accountant.compose(event, 2 * rounds * steps)
    assert found == pytest.approx(accountant.get_epsilon(DELTA), abs=1e-3)
    assert found == pytest.approx(prv_epsilon(composed, DELTA, error=5e-3), abs=2e-2)
    assert found <= rdp_epsilon(composed, DELTA, "zero_out")


def test_stages_of_different_noise_and_rate_compose() -> None:
    """Two stages that differ, mixed with a full release: no two events merge wrongly."""
    releases = [
        *run_of(sgd, 2, 1, steps=2),
        *run_of(sgd, 1, 1, steps=2, sampling_rate=0.25, noise_multiplier=2.0),
        local(noise_multiplier=5.0),
    ]
    events = [(0.125, 1.2)] * 4 + [(0.25, 2.0)] * 2 + [(1.0, 5.0)]
    assert total(releases) == pytest.approx(one_by_one(events), abs=1e-3)
    found = mechanisms("a", releases)
    assert total(releases) == pytest.approx(prv_epsilon(found, DELTA, error=5e-3), abs=2e-2)


def test_replacing_an_example_costs_more_than_leaving_it_out() -> None:
    releases = run_of(sgd, 3, 1)
    once, replaced = total(releases), total(releases, adjacency="replace_one")
    assert once < replaced
    doubled = total(run_of(sgd, 3, 1, noise_multiplier=0.6))  # group privacy of a pair: q as is
    assert replaced < doubled + once


FACTORS = {
    "rounds": lambda: (total(run_of(sgd, 20)), total(run_of(sgd, 19))),
    "stages": lambda: (total(run_of(sgd, 3, 2)), total(run_of(sgd, 3, 1))),
    "steps": lambda: (total(run_of(sgd, 3)), total(run_of(sgd, 3, steps=7))),
    "uploads": lambda: (total(run_of(local, uploads=2)), total(run_of(local, uploads=1))),
    "sampling": lambda: (
        total(run_of(sgd, 3, sampling="shuffled", noise_multiplier=9.0)),
        total(run_of(sgd, 3, noise_multiplier=9.0)),
    ),
    "weights": lambda: (
        total(run_of(shared, weights={"a": 1.0, "b": 0.5, "c": 0.5})),
        total(run_of(shared, weights={"a": 0.5, "b": 0.5, "c": 0.5})),
    ),
    "drop-outs": lambda: (total(run_of(shared, weights=DROPPED)), total(run_of(shared))),
    "colluders": lambda: (total(run_of(shared), colluders=1), total(run_of(shared))),
    "rounding": lambda: (total(run_of(shared, coordinates=10**7)), total(run_of(shared))),
    "sums": lambda: (total(run_of(shared) + run_of(shared, sum="b")), total(run_of(shared))),
    "own noise": lambda: (
        total(run_of(shared) + run_of(local, without=("v",), noise_multiplier=3.0)),
        total(run_of(shared)),
    ),
    "a part twice": lambda: (
        total(run_of(shared) + run_of(local, noise_multiplier=9.0)),
        total(run_of(shared) + run_of(local, noise_multiplier=9.0, without=("v",))),
    ),
    "adjacency": lambda: (
        total(run_of(local), adjacency="replace_one"),
        total(run_of(local)),
    ),
    "noise": lambda: (total(run_of(sgd, 3)), total(run_of(sgd, 3, noise_multiplier=1.3))),
}


@pytest.mark.parametrize("factor", FACTORS)
def test_leaving_out_a_factor_is_seen(factor: str) -> None:
    """Each factor moves epsilon by far more than the accountants' disagreement."""
    whole, without = FACTORS[factor]()
    assert whole > without + 2e-2


def ledger(*releases: Any, **fields: Any) -> Ledger:
    entries = tuple(
        ClientLedger(client=name, task="t", num_examples=64, releases=releases)
        for name in ("a", "b", "c", "d")
    )
    given = {"unit": "example", "adjacency": "zero_out", "delta": DELTA, "clients": entries}
    return with_claims(Ledger(**(given | fields)))


def test_a_third_party_recomputes_the_claims() -> None:
    written = ledger(*run_of(sgd, 3))
    read = parse_ledger(written.to_json())
    assert read == written
    claims = recompute(read)
    assert claims["a"].epsilon == read.clients[0].epsilon == total(run_of(sgd, 3))
    assert understated(read) == {}


def test_a_ledger_with_a_stage_left_out_is_found_out() -> None:
    """The claim of one stage beside the releases of two."""
    whole, half = ledger(*run_of(sgd, 3, 2)), ledger(*run_of(sgd, 3, 1))
    forged = whole.model_copy(
        update={
            "clients": tuple(
                entry.model_copy(update={"epsilon": half.clients[0].epsilon})
                for entry in whole.clients
            )
        }
    )
    assert set(understated(forged)) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("fields", "release", "reason"),
    [
        ({}, Unprotected(round=2, stage=1, reason="no noise was added"), "round 2, stage 1: no"),
        ({}, local(), "local_noise bounds no example's"),
        ({"unit": "client"}, sgd(), "dp_sgd bounds no client's"),
        ({}, sgd(noise_multiplier=0.0), "released without noise"),
        ({"delta": 0.02}, sgd(), r"delta 0\.02 is not below 1/64"),
        ({"unit": "client", "delta": 0.3}, local(), r"delta 0\.3 is not below 1/4"),
    ],
)
def test_what_is_not_covered_is_infinite_with_a_reason(
    fields: dict[str, Any], release: Any, reason: str
) -> None:
    entry = ledger(release, **fields).clients[0]
    assert entry.epsilon is None and math.isinf(entry.claimed_epsilon)
    assert entry.reason is not None
    assert re.search(reason, entry.reason)


def test_no_release_costs_nothing() -> None:
    made = claim("a", 64, [], unit="example", adjacency="zero_out", delta=DELTA, num_clients=4)
    assert made.epsilon == 0


@pytest.mark.parametrize(
    ("rate", "count", "target"), [(0.125, 24, 4.0), (0.125, 24, 1.0), (0.5, 6, 3.0), (1.0, 3, 4.0)]
)
def test_a_target_is_reached_and_not_by_much(rate: float, count: int, target: float) -> None:
    noise = calibrate(rate, count, target, DELTA, "zero_out")
    assert epsilon([Mechanism(noise, rate, count)], DELTA, "zero_out") <= target
    less = [Mechanism(noise * 0.98, rate, count)]
    assert epsilon(less, DELTA, "zero_out") > target


def test_a_target_out_of_reach_is_refused_with_what_is_reached() -> None:
    with pytest.raises(Unreachable) as caught:
        calibrate(1.0, 1000, 0.01, DELTA, "zero_out")
    best = [Mechanism(100.0, 1.0, 1000)]
    assert caught.value.reached == pytest.approx(epsilon(best, DELTA, "zero_out"))


def test_the_coarse_grid_of_the_calibration_only_errs_upwards() -> None:
    found = [Mechanism(1.2, 0.125, 48)]
    coarse = pld_epsilon(found, DELTA, "zero_out", interval=1e-3)
    rough = pld_epsilon(found, DELTA, "zero_out", interval=1e-2)
    assert coarse <= rough < 1.01 * coarse
    assert 0 <= coarse - pld_epsilon(found, DELTA, "zero_out") < 1e-2


def test_a_client_told_of_twice_is_no_ledger() -> None:
    """Else an empty second entry would stand for the first, and hide what that one claims."""
    written = ledger(*run_of(sgd, 3))
    entry = written.clients[0]
    forged = [entry.model_copy(update={"epsilon": 0.1}), ClientLedger(
        client="a", task="t", num_examples=64, epsilon=0.0)]  # fmt: skip
    for clients, message in ((forged, "clients: .* a is there twice"), ([], "clients: .*at least")):
        content = written.model_copy(update={"clients": tuple(clients)}).to_json()
        with pytest.raises(LedgerError, match=message):
            parse_ledger(content)


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"unit": "household"}'])
def test_what_is_no_ledger_is_refused(content: bytes) -> None:
    with pytest.raises(LedgerError, match="no valid ledger"):
        parse_ledger(content)
