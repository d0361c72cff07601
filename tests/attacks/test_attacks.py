"""Each attack works where protection is off and fails where it is on."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FinishedRun

from pilot_secure.attacks.canaries import audit_client, audit_ledger, barest_parts
from pilot_secure.attacks.distances import (
    cosine,
    pairwise,
    task_accuracy,
    task_chance,
    vector_from_distances,
)
from pilot_secure.attacks.linear import reconstruct
from pilot_secure.attacks.one_run import (
    DELTA,
    area_under_curve,
    audit,
    epsilon_lower_bound,
    p_value,
    true_positive_rate,
)
from pilot_secure.attacks.simulated import SimulatedUpdates
from pilot_secure.privacy import (
    ClientLedger,
    DpSgd,
    Ledger,
    LocalNoise,
    SharedNoise,
    with_claims,
)
from protocols.leakage import OpenedRow, rank_and_leverage


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


# Reconstruction by linear systems


def test_unsealed_sums_give_every_text_adapter_and_sealed_ones_none(
    generator: np.random.Generator,
) -> None:
    simulated = SimulatedUpdates.draw(generator)
    clear = simulated.personal_rows(6, sealed=False)
    found = reconstruct(clear, simulated.vectors, ("server",))
    assert max(found.relative_errors.values()) < 1e-9
    sealed = simulated.personal_rows(6, sealed=True)
    found = reconstruct(sealed, simulated.vectors, ("server",))
    assert set(found.relative_errors.values()) == {1.0}  # nothing seen, nothing estimated


def test_the_task_means_determine_nobody_until_two_of_three_collude(
    generator: np.random.Generator,
) -> None:
    simulated = SimulatedUpdates.draw(generator)
    rows = simulated.task_rows()
    alone = reconstruct(rows, simulated.vectors, ("server",))
    assert alone.best[1] > 0.3
    pair = reconstruct(rows, simulated.vectors, ("client-01", "client-02"))
    assert pair.best == ("client-03", pytest.approx(0, abs=1e-9))
    assert pair.relative_errors["client-04"] > 0.3


def test_the_error_is_what_the_leverage_says(generator: np.random.Generator) -> None:
    """Independent vectors: the least-norm estimate leaves 1 - leverage of the victim out."""
    vectors = {n: generator.normal(size=20_000) for n in "abcd"}
    row = OpenedRow("v", "server", {"a": 1.0, "b": 2.0, "c": 0.5, "d": 1.0})
    found = reconstruct([row], vectors, ("server",))
    leverage = rank_and_leverage(np.array([[1.0, 2.0, 0.5, 1.0]]))[1]
    errors = np.array([found.relative_errors[n] for n in "abcd"]) ** 2
    expected = (1 - leverage) ** 2 + leverage * (1 - leverage)
    assert errors == pytest.approx(expected, abs=0.03)


def test_noise_on_the_updates_stops_the_solved_system(generator: np.random.Generator) -> None:
    simulated = SimulatedUpdates.draw(generator)
    sent = simulated.noised(1.0, generator)
    rows = simulated.personal_rows(6, sealed=False)
    found = reconstruct(rows, sent, ("server",), simulated.vectors)
    assert found.best[1] > 5


# Canaries


def test_the_p_value_is_that_of_randomised_response() -> None:
    """delta 0: the binomial's tail, by exact counting."""
    rate = 1 / (1 + math.exp(-1.0))
    exact = sum(math.comb(10, k) * rate**k * (1 - rate) ** (10 - k) for k in range(8, 11))
    assert p_value(10, 10, 8, 1.0, 0.0) == pytest.approx(exact)
    assert p_value(10, 10, 8, 1.0, 1e-3) > exact
    assert p_value(10, 10, 0, 1.0, 0.0) == 1.0
    best = epsilon_lower_bound(1000, 1000, 1000, 0.0, 1e-3)
    assert 1000 * math.log(1 / (1 + math.exp(-best))) == pytest.approx(math.log(1e-3), abs=0.02)


def test_randomised_response_is_never_refuted_beyond_its_chance(
    generator: np.random.Generator,
) -> None:
    """The bound on a mechanism whose epsilon is exact: 60 audits at 95 %, few above it."""
    epsilon, count, above = 1.0, 400, 0
    bounds = []
    for _ in range(60):
        included = generator.random(count) < 0.5
        told = np.where(generator.random(count) < 1 / (1 + math.exp(-epsilon)), included, ~included)
        found = audit(
            told + 0.1 * generator.random(count), included,
            claimed=epsilon, delta=0.0, confidence=0.95,
        )  # fmt: skip
        bounds.append(found.lower_bound)
        above += not found.passed
    assert above <= 9
    assert np.median(bounds) > 0.3  # and it sees most of what there is


def test_scores_of_a_perfect_and_of_a_blind_attacker() -> None:
    included = np.arange(1000) % 2 == 0
    perfect, blind = included.astype(float), np.zeros(1000)
    assert area_under_curve(perfect, included) == 1.0
    assert true_positive_rate(perfect, included, 0.01) == 1.0
    assert area_under_curve(blind, included) == 0.5
    assert true_positive_rate(blind, included, 0.01) == 0.0
    found = audit(perfect, included, claimed=1.0)
    assert found.lower_bound == found.ceiling > 4 and found.verdict == "FAIL"


def sgd_entry(noise: float, *, rate: float = 1.0, steps: int = 4) -> ClientLedger:
    release = DpSgd(
        round=1, stage=1, sampling="poisson", sampling_rate=rate, noise_multiplier=noise,
        clipping_norm=0.5, steps=steps,
    )  # fmt: skip
    return ClientLedger(client="a", task="t", num_examples=64, releases=(release,))


def local_entry(noise: float, uploads: int = 4) -> ClientLedger:
    release = LocalNoise(
        round=1, stage=1, noise_multiplier=noise, clipping_norm=2.0, uploads=uploads
    )
    return ClientLedger(client="a", task="t", num_examples=64, releases=(release,))


def claimed(entry: ClientLedger, unit: str) -> float:
    """What is claimed for its releases at the audit's delta."""
    made = Ledger(unit=unit, adjacency="zero_out", delta=DELTA, clients=(entry,))  # type: ignore[arg-type]
    return with_claims(made).clients[0].claimed_epsilon


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_noise_six_times_too_small_is_caught_in_dp_sgd(mode: str) -> None:
    """At a claim well below what the attack can show."""
    entry = sgd_entry(6.0)
    claim = claimed(entry, "example")
    sound = audit_client(entry, claimed=claim, mode=mode)
    broken = audit_client(entry, claimed=claim, weakened=6.0, mode=mode)
    assert 1.0 < claim < sound.ceiling
    assert (sound.verdict, broken.verdict) == ("PASS", "FAIL")
    assert broken.lower_bound > claim + 0.2
    assert 0.5 < sound.auc < broken.auc


def test_noise_six_times_too_small_is_caught_in_client_level_noise() -> None:
    entry = local_entry(6.0)
    claim = claimed(entry, "client")
    sound = audit_client(entry, claimed=claim)
    broken = audit_client(entry, claimed=claim, weakened=6.0)
    assert (sound.verdict, broken.verdict) == ("PASS", "FAIL")


def test_noise_six_times_too_small_is_caught_in_a_sum_with_shared_noise() -> None:
    """Three survivors, one of whom gives its share away: what is left is six times the term."""
    release = SharedNoise(
        round=1, stage=1, sum="task.one", vector="v", noise_steps=round(6000 / math.sqrt(2)),
        steps_per_unit=2000.0, clipping_norm=0.5, coordinates=1, weights=dict.fromkeys("abc", 1.0),
    )  # fmt: skip
    releases = tuple(release.model_copy(update={"round": number}) for number in range(1, 5))
    entry = ClientLedger(client="a", task="t", num_examples=64, releases=releases)
    ledger = Ledger(
        unit="client", adjacency="zero_out", delta=DELTA, max_colluders=1, clients=(entry,)
    )
    claim = with_claims(ledger).clients[0].claimed_epsilon
    sound = audit_client(entry, claimed=claim, max_colluders=1)
    broken = audit_client(entry, claimed=claim, max_colluders=1, weakened=6.0)
    assert 1.0 < claim < sound.ceiling
    assert (sound.verdict, broken.verdict) == ("PASS", "FAIL")


def summed(vector: str, deviation: float, round_number: int = 1) -> SharedNoise:
    """A sum of three, of whom two add noise that amounts to ``deviation`` times the clip."""
    return SharedNoise(
        round=round_number, stage=1, sum=vector, vector=vector, steps_per_unit=20_000.0,
        noise_steps=round(20_000 * deviation / math.sqrt(2)), clipping_norm=1.0, coordinates=1,
        weights=dict.fromkeys("abc", 1.0),
    )  # fmt: skip


def test_a_canary_spends_the_clipping_norm_of_an_update_once() -> None:
    """Text adapters under own noise, connectors under shared: no client has both at full norm."""
    own = LocalNoise(
        round=1, stage=1, noise_multiplier=1.5, clipping_norm=1.0, uploads=1, without=("v", "w")
    )
    assert barest_parts("a", [own], [summed("v", 2.0), summed("w", 3.0)], 1) == ([own], [])
    barest = summed("w", 1.0)
    assert barest_parts("a", [own], [summed("v", 2.0), barest], 1) == ([], [barest])
    elsewhere = own.model_copy(update={"round": 2})
    assert barest_parts("a", [elsewhere], [barest], 1) == ([elsewhere], [barest])
    assert barest_parts("z", [own], [barest], 1) == ([own], [])  # in no sum

    releases: list[LocalNoise | SharedNoise] = []
    for number in (1, 2, 3):
        releases += [own.model_copy(update={"round": number}), summed("v", 1.5, number)]
    entry = ClientLedger(client="a", task="t", num_examples=64, releases=tuple(releases))
    found = audit_client(entry, claimed=10.0, max_colluders=1)
    one_part = 0.5 * math.erfc(-math.sqrt(3) / 1.5 / 2)  # the AUC of mu = sqrt(3) / 1.5
    assert found.auc == pytest.approx(one_part, abs=0.04)  # with both: 0.08 above it


def test_without_noise_to_speak_of_every_canary_is_found() -> None:
    found = audit_client(sgd_entry(0.05), claimed=1.0)
    assert found.auc > 0.999 and found.tpr_at_1_percent_fpr > 0.99
    assert 4 < found.lower_bound <= found.ceiling
    assert found.verdict == "FAIL"


def test_sampled_training_of_a_ledger_passes_and_equal_clients_are_audited_once() -> None:
    entries = tuple(
        sgd_entry(1.0, rate=0.125, steps=8).model_copy(update={"client": name}) for name in "abc"
    )
    ledger = with_claims(Ledger(unit="example", adjacency="zero_out", delta=1e-3, clients=entries))
    audits = audit_ledger(ledger, canaries=400)
    assert set(audits) == set("abc")
    assert audits["a"] is audits["b"] is audits["c"]
    assert audits["a"].verdict == "PASS"
    assert audits["a"].auc > 0.5


# Distances


def test_distances_tell_tasks_and_noise_hides_them(generator: np.random.Generator) -> None:
    simulated = SimulatedUpdates.draw(generator)
    rows = pairwise(simulated.vectors)
    within = [rows[a][b] for a in rows for b in rows[a] if simulated.tasks[a] == simulated.tasks[b]]
    assert np.mean(within) == pytest.approx(1.9, abs=0.1)
    assert task_accuracy(rows, simulated.tasks) == 1.0
    assert task_chance(rows, simulated.tasks) == pytest.approx(2 / 8)
    guesses = [
        task_accuracy(pairwise(simulated.noised(1.0, generator)), simulated.tasks)
        for _ in range(200)
    ]
    assert np.mean(guesses) == pytest.approx(2 / 8, abs=0.06)


def test_enough_distances_give_the_vector_and_a_runs_few_do_not(
    generator: np.random.Generator,
) -> None:
    secret = generator.normal(size=64)

    def exact(point: np.ndarray) -> float:
        return float(np.linalg.norm(secret - point))

    def noised(point: np.ndarray) -> float:
        return float(np.linalg.norm(secret + 3 * generator.normal(size=64) - point))

    all_of_it = vector_from_distances(exact, 64, 65, generator)
    assert np.linalg.norm(all_of_it - secret) < 1e-6 * np.linalg.norm(secret)
    rounds = [cosine(vector_from_distances(exact, 64, 4, generator), secret) for _ in range(50)]
    assert abs(np.mean(rounds)) < 0.4
    assert abs(cosine(vector_from_distances(noised, 64, 65, generator), secret)) < 0.9


# Inversion, and all of it together


def test_a_connectors_update_gives_its_images_away_unless_noised() -> None:
    """On the shipped model; beside chance, also for a sum of three clients."""
    from pilot_secure.attacks.findings import inversion_findings

    found = {
        f.setting: f
        for f in inversion_findings(np.random.default_rng(0), trials=3, announce=lambda what: None)
    }
    clear = {setting: f for setting, f in found.items() if "noised" not in setting}
    assert all(f.worked for f in clear.values())
    assert clear["one client, 1 a batch"].value == clear["sum of 3 clients, 1 a batch"].value == 1
    assert clear["one client, 8 a batch"].value < 1
    assert not any(f.worked for setting, f in found.items() if "noised" in setting)


def test_hits_by_chance_have_the_probability_of_blind_guesses() -> None:
    from pilot_secure.attacks.inversion import p_value_of_hits

    assert p_value_of_hits(0, images=3, candidates=64, trials=2) == pytest.approx(1)
    assert p_value_of_hits(2, images=1, candidates=64, trials=2) == pytest.approx(64**-2)
    drawn = np.random.default_rng(0).hypergeometric(4, 12, 4, size=(100_000, 3)).sum(1)
    assert p_value_of_hits(6, images=4, candidates=16, trials=3) == pytest.approx(
        (drawn >= 6).mean(), rel=0.1
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_every_attack_on_made_up_updates_tells_off_from_on(seed: int) -> None:
    from pilot_secure.attacks.findings import (
        canary_findings,
        distance_findings,
        linear_findings,
    )

    generator = np.random.default_rng(seed)
    found = [
        *linear_findings(generator),
        *canary_findings(),
        *distance_findings(generator),
    ]
    worked = {f.setting for f in found if f.worked}
    assert worked == {
        "sums unsealed, server",
        "task means, two of three clients",
        "noise six times too small",
        "distances of updates",
        "65 queries on 64 coordinates",
    }


def test_the_command_attacks_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], secure_run: FinishedRun
) -> None:
    from pilot_secure.attacks.__main__ import main

    assert main([str(secure_run.path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "no claim" in printed and "task mates found" in printed
    assert main([str(tmp_path)]) == 2
    assert "expected a run folder" in capsys.readouterr().err


def test_a_claim_below_what_its_releases_amount_to_is_refuted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], secure_run: FinishedRun
) -> None:
    from pilot_secure.attacks.__main__ import main

    path = tmp_path / "run"
    shutil.copytree(secure_run.path, path)
    entry = sgd_entry(6.0)
    made = with_claims(Ledger(unit="example", adjacency="zero_out", delta=0.01, clients=(entry,)))
    (path / "ledger.json").write_bytes(made.to_json())
    assert main([str(path)]) == 0
    edited = made.model_copy(update={"clients": (entry.model_copy(update={"epsilon": 0.1}),)})
    (path / "ledger.json").write_bytes(edited.to_json())
    assert main([str(path)]) == 1
    assert "claimed 0.10: FAIL" in " ".join(capsys.readouterr().out.split())
