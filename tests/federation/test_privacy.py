"""Whole runs under differential privacy: what is sent, what the ledger says, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FinishedRun

from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.verdicts import Verdict
from pilot_secure.audit.verify import replay, verify
from pilot_secure.privacy import Ledger, parse_ledger, recompute, understated
from pilot_secure.privacy.events import summed_noise
from pilot_secure.privacy.ledger import (
    ClientLedger,
    DpSgd,
    LocalNoise,
    SharedNoise,
    Unprotected,
)
from pilot_secure.simulate import main

ROOMY = {"security": {"clip": 200.0, "distance_norm_bound": 1e5}}
EXAMPLE = {"privacy": {"unit": "example", "noise_multiplier": 2.0, "delta": 0.05}}
CLIENT = {"privacy": {"unit": "client", "noise_multiplier": 3.0, "delta": 0.05}}


def ledger_of(run: FinishedRun) -> Ledger:
    return parse_ledger((run.path / "ledger.json").read_bytes())


@pytest.fixture(scope="module")
def module_runs(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., FinishedRun]:
    from conftest import carry_out

    return lambda name, *layers: carry_out(
        tmp_path_factory.mktemp("private") / name, tiny_base, *layers
    )


@pytest.fixture(scope="module")
def example_run(module_runs: Callable[..., FinishedRun]) -> FinishedRun:
    return module_runs("example", EXAMPLE)


@pytest.fixture(scope="module")
def client_run(module_runs: Callable[..., FinishedRun]) -> FinishedRun:
    return module_runs("client", CLIENT, ROOMY)


def test_without_noise_the_ledger_says_infinity_and_why(secure_run: FinishedRun) -> None:
    ledger = ledger_of(secure_run)
    assert len(ledger.clients) == 9
    for entry in ledger.clients:
        assert [type(release) for release in entry.releases] == [Unprotected, Unprotected]
        assert entry.epsilon is None and "without noise" in str(entry.reason)
    assert secure_run.summary.privacy is None


def test_example_level_counts_every_stage_and_claims_what_follows(example_run: FinishedRun) -> None:
    ledger, config = ledger_of(example_run), example_run.config
    for entry in ledger.clients:
        assert [(r.round, r.stage) for r in entry.releases] == [(1, 1), (2, 2)]
        for release in entry.releases:
            assert isinstance(release, DpSgd) and release.sampling == "poisson"
            assert release.sampling_rate == config.training.batch_size / entry.num_examples
            assert release.steps == math.ceil(entry.num_examples / config.training.batch_size)
            assert (release.noise_multiplier, release.clipping_norm) == (2.0, 1.0)
    claims = {client: claim.epsilon for client, claim in recompute(ledger).items()}
    summary = example_run.summary.privacy
    assert summary is not None and summary.epsilon == claims
    assert understated(ledger) == {}
    assert any("outside epsilon" in caveat for caveat in summary.caveats)


def test_every_view_of_an_example_level_run_is_bounded_by_the_claim(
    example_run: FinishedRun,
) -> None:
    summary = example_run.summary
    entries = summary.leakage.model_extra["effective_privacy"]
    assert len(entries) == 9 + 9 * 8
    assert all(entry["mu"] is None for entry in entries)
    assert all(entry["epsilon"] == summary.privacy.epsilon[entry["client"]] for entry in entries)


def test_client_level_noise_is_on_everything_that_is_sent(
    client_run: FinishedRun, secure_run: FinishedRun
) -> None:
    """The size of the noise, in all vectors of every client, over a clipped update."""
    for place, update in client_run.uploads.items():
        assert update.keys() == secure_run.uploads[place].keys()
        for vector in update.values():
            values = np.concatenate([array.ravel() for array in vector.values()])
            assert values.std() == pytest.approx(3.0, rel=6 / math.sqrt(2 * len(values)))


def test_client_level_counts_one_upload_a_stage(client_run: FinishedRun) -> None:
    ledger = ledger_of(client_run)
    for entry in ledger.clients:
        assert [(r.round, r.stage) for r in entry.releases] == [(1, 1), (2, 2)]
        assert all(isinstance(r, LocalNoise) and r.uploads == 1 for r in entry.releases)
    assert understated(ledger) == {}


def test_sums_hide_more_than_the_noise_alone(client_run: FinishedRun) -> None:
    summary = client_run.summary
    entries = summary.leakage.model_extra["effective_privacy"]
    local = math.sqrt(2) / 3.0
    for entry in entries:
        if entry["viewer"] == "server":
            assert 0 < entry["mu"] < local
            assert entry["epsilon"] < summary.privacy.epsilon[entry["client"]]
        else:  # a client knows a distance to each
            assert entry["mu"] == pytest.approx(local)


SHARED = {
    "privacy": {"unit": "client", "target_epsilon": 40.0, "delta": 0.05},
    "security": {"secure_agg": True, "ring_bits": 32, "insecure_escrow": True},
}


@pytest.fixture(scope="module")
def shared_run(module_runs: Callable[..., FinishedRun]) -> FinishedRun:
    """Noise of task adapters in the ring, of text adapters by each client; a client drops out."""
    gone = {"client": "client-01", "round": 2, "stage": 2, "phase": "masked_input"}
    settings = {
        "privacy": {"distributed_noise": "connectors"},
        "security": {"dropouts": [gone], "min_contributors": 3},
        "data": {"clients_per_task": 4},
    }
    return module_runs("shared", SHARED, ROOMY, settings)


def test_shared_noise_is_counted_by_who_survived(shared_run: FinishedRun) -> None:
    ledger = ledger_of(shared_run)
    assert (ledger.accountant, ledger.noise) == ("zcdp", "both")
    mates = {entry.client for entry in ledger.clients if entry.task == ledger.clients[0].task}
    for entry in ledger.clients:
        kinds = [(r.kind, r.round) for r in entry.releases]
        sums = [r for r in entry.releases if isinstance(r, SharedNoise)]
        assert kinds[:2] == [("local_noise", 1), ("local_noise", 2)]
        if entry.client == "client-01":  # its second update was never opened
            assert [r.round for r in sums] == [1]
            continue
        assert [(r.round, r.stage) for r in sums] == [(1, 1), (2, 2)]
        left = 3 if entry.client in mates else 4
        assert [len(r.weights) for r in sums] == [4, left]
        assert entry.epsilon is not None and 20 < entry.epsilon <= 40.0
    worse, better = (
        {e.epsilon for e in ledger.clients if (e.client in mates) is of_task}
        for of_task in (True, False)
    )
    assert min(worse - {ledger.clients[0].epsilon}) > max(better)
    assert understated(ledger) == {}
    assert any("shared in the ring" in caveat for caveat in shared_run.summary.privacy.caveats)


def test_the_server_learns_less_from_shared_noise_than_a_distance_tells(
    shared_run: FinishedRun,
) -> None:
    summary, ledger = shared_run.summary, ledger_of(shared_run)
    local = math.sqrt(2) / summary.privacy.noise_multiplier["client-02"]
    for entry in summary.leakage.model_extra["effective_privacy"]:
        if entry["viewer"] == "server" and entry["client"] != "client-01":
            sums = [r for r in _entry(ledger, entry["client"]).releases if r.kind == "shared_noise"]
            found = [summed_noise(entry["client"], r, 0) for r in sums]
            expected = math.sqrt(sum(2 * noise.rho() for noise in found))
            assert entry["mu"] == pytest.approx(expected, rel=1e-3)
            assert entry["mu"] < local
        elif "client-01" not in (entry["client"], *entry["members"]):
            assert entry["mu"] == pytest.approx(local, rel=1e-3)


def _entry(ledger: Ledger, client: str) -> ClientLedger:
    return next(entry for entry in ledger.clients if entry.client == client)


def test_an_auditor_finds_the_noise_of_sums_in_the_ledger(
    shared_run: FinishedRun, tmp_path: Path
) -> None:
    def verdict(folder: Path) -> str:
        return verify(Bundle.open(folder)).result("D01").verdict

    assert verdict(shared_run.path) == Verdict.PASS
    reopened = replay(Bundle.open(shared_run.path), read_escrow(shared_run.path / "escrow.json"))
    assert {reopened.result(rule).verdict for rule in ("M01", "M04", "D01")} == {Verdict.PASS}
    for name, change in {
        "more noise": {"noise_steps": 10**6},
        "more survivors": {"weights": dict.fromkeys(("client-02", "client-03"), 1.0)},
    }.items():
        ledger, forged = ledger_of(shared_run), tmp_path / name
        shutil.copytree(shared_run.path, forged)
        entries = list(ledger.clients)
        releases = [
            r.model_copy(update=change) if isinstance(r, SharedNoise) else r
            for r in entries[1].releases
        ]
        entries[1] = entries[1].model_copy(update={"releases": tuple(releases)})
        content = ledger.model_copy(update={"clients": tuple(entries)}).to_json()
        (forged / "ledger.json").write_bytes(content)
        assert verdict(forged) == Verdict.FAIL


def test_all_noise_of_fedavg_may_be_shared(run_tiny: Callable[..., FinishedRun]) -> None:
    """Text adapters, too, where they are seen in a sum only; the noise is in the means."""
    settings = {
        "privacy": {"distributed_noise": "all"},
        "federation": {"method": "fedavg", "rounds": 1},
        "security": {"min_contributors": 8},
    }
    run = run_tiny(SHARED, settings)
    ledger = ledger_of(run)
    assert ledger.noise == "discrete_gaussian"
    for entry in ledger.clients:
        assert [r.kind for r in entry.releases] == ["shared_noise"] * 2
        assert entry.epsilon is not None and 15 < entry.epsilon <= 40.0  # 6 examples of at most 8
    assert not any("floating-point" in caveat for caveat in run.summary.privacy.caveats)
    update = next(iter(run.uploads.values()))
    size = math.sqrt(sum(float(np.square(a).sum()) for v in update.values() for a in v.values()))
    assert size <= 1.00001  # what enters the ring is clipped, and not noised before it


def test_a_second_attempt_sends_the_same_noise() -> None:
    """Fresh noise on the same update would be another release."""
    from pilot_secure.privacy.planning import NoisePlan
    from pilot_secure.privacy.protection import Protection

    plan = NoisePlan("client", "zero_out", 0.05, 1.0, {"a": 3.0}, batch_size=2)
    releases: list[Any] = []
    protection = Protection("a", plan, lambda client, release: releases.append(release))
    update = {"v": {"x": np.ones(50, np.float32)}}
    first = protection.upload((1, 1), update)["v"]["x"]
    assert np.array_equal(protection.upload((1, 1), update)["v"]["x"], first)
    later = protection.upload((2, 2), update)["v"]["x"]
    assert not np.intersect1d(first, later).size
    assert [(r.round, r.stage, r.uploads) for r in releases] == [(1, 1, 1), (2, 2, 1)]


def test_releases_outlive_a_kill_and_count_once(client_run: FinishedRun, tmp_path: Path) -> None:
    """What a client notes again after a kill is known by its draw; a fresh draw is another."""
    from io import StringIO

    from rich.console import Console

    from pilot_secure.federation.journal import RunJournal
    from pilot_secure.progress import RunProgress
    from pilot_secure.run_folder import RunFolder

    first, second = ledger_of(client_run).clients[0].releases
    progress = RunProgress(Console(file=StringIO()))
    journal = RunJournal(RunFolder(tmp_path), progress)
    for release in (first, second):
        journal.released("client-01", release)
    again = RunJournal(RunFolder(tmp_path), progress)
    again.released("client-01", second)
    assert again.releases == {"client-01": [first, second]}
    again.released("client-01", second.model_copy(update={"draw": "another"}))
    assert len(RunJournal(RunFolder(tmp_path), progress).releases["client-01"]) == 3


def test_a_clipped_update_keeps_its_direction() -> None:
    from pilot_secure.privacy.client_level import joint_norm, noised
    from pilot_secure.privacy.noise import ProtectiveNoise
    from protocols.entropy import DeterministicEntropy

    update = {
        "a": {"x": np.full((2, 3), 3.0, np.float32)},
        "b": {"y": np.full(2, 4.0, np.float32)},
    }
    settings: dict[str, Any] = {"noise_multiplier": 1e-9}
    for clip, factor in ((1.0, 1 / joint_norm(update)), (100.0, 1.0)):
        stream = ProtectiveNoise(DeterministicEntropy(b"s"))
        sent = noised(update, clipping_norm=clip, noise=stream, **settings)
        assert joint_norm(sent) == pytest.approx(min(clip, joint_norm(update)), rel=1e-5)
        assert sent["a"]["x"] == pytest.approx(3.0 * factor, rel=1e-5)
        assert sent["b"]["y"] == pytest.approx(4.0 * factor, rel=1e-5)
    broken = {"a": {"x": np.array([np.nan], np.float32)}}
    with pytest.raises(ValueError, match="infinite or undefined"):
        noised(broken, clipping_norm=1.0, noise=stream, **settings)


def test_the_protective_stream_is_normal_and_never_repeats() -> None:
    from scipy.stats import kstest

    from pilot_secure.privacy.noise import ProtectiveNoise
    from protocols import Entropy

    stream = ProtectiveNoise(Entropy())
    drawn = stream.normal(200_001)
    assert kstest(drawn, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert len(np.unique(np.concatenate([drawn, stream.normal(1000)]))) == 201_001
    assert not np.array_equal(ProtectiveNoise(Entropy()).normal(8), drawn[:8])


SHARES = ["--privacy-unit", "client", "--privacy-noise-multiplier", "30"]
SHARES += ["--privacy-distributed-noise"]
BAD = {
    "epsilon of nothing": (["--privacy-target-epsilon", "0"], "expected a number, greater than 0"),
    "epsilon below": (["--privacy-target-epsilon", "-1"], "expected a number, greater than 0"),
    "noise for nobody": (
        ["--privacy-unit", "none", "--privacy-noise-multiplier", "1"],
        "privacy.noise_multiplier is 1 but privacy.unit is none",
    ),
    "neither noise nor target": (["--privacy-unit", "example"], "with neither of"),
    "noise and target": (
        ["--privacy-target-epsilon", "1", "--privacy-noise-multiplier", "1"],
        "with both of",
    ),
    "noise without clipping": (
        ["--privacy-target-epsilon", "1", "--privacy-clipping-norm", "none"],
        "privacy.clipping_norm is none: expected a number, since noise protects no example",
    ),
    "a delta that hands out an example": (
        ["--privacy-target-epsilon", "1", "--privacy-delta", "0.3"],
        "privacy.delta is 0.3: expected less than 1/4",
    ),
    "a batch above the data": (
        ["--privacy-target-epsilon", "1", "--batch-size", "5"],
        "training.batch_size is 5: expected at most a client's 4 training examples",
    ),
    "a target out of reach": (
        ["--privacy-target-epsilon", "1e-4", "--privacy-delta", "1e-6", "--epochs", "30"],
        "privacy.target_epsilon is 0.0001: expected at least ",
    ),
    "rounded norms": (
        ["--privacy-target-epsilon", "1", "--mixed-precision", "bf16"],
        "model.mixed_precision is bf16: expected no",
    ),
    "a sample in parts": (
        ["--privacy-target-epsilon", "1", "--gradient-accumulation", "2"],
        "training.gradient_accumulation is 2: expected 1",
    ),
    "activations computed twice": (
        ["--privacy-target-epsilon", "1", "--gradient-checkpointing"],
        "training.gradient_checkpointing is true: expected false",
    ),
    "no update": (
        ["--privacy-unit", "client", "--privacy-target-epsilon", "9", "--method", "local"],
        "expected a method that sends an update",
    ),
    "no clients": (
        ["--privacy-target-epsilon", "9", "--method", "centralized"],
        "expected none for federation.method centralized",
    ),
    "shares of nobody's noise": (
        ["--privacy-target-epsilon", "9", "--privacy-distributed-noise", "all", "--secure-agg"],
        "privacy.distributed_noise is all: expected none under privacy.unit example",
    ),
    "shares of noise in the clear": (
        [*SHARES, "connectors"],
        "privacy.distributed_noise is connectors: expected security.secure_agg",
    ),
    "shares on personalised sums": (
        [*SHARES, "all", "--secure-agg"],
        "expected none or connectors where text adapters are compared by distance, since a "
        "distance or a personalised sum sees one client's vector",
    ),
    "shares that a client knows": (
        [*SHARES, "all", "--secure-agg", "--method", "fedavg", "--max-colluders", "0"],
        "security.max_colluders is 0: expected at least 1 where distributed_noise is all",
    ),
    "no connector": (
        [*SHARES, "connectors", "--secure-agg", "--method", "shepherd"],
        "expected none or all for shepherd, which sends no connector",
    ),
    "shares lost in rounding": (
        [*SHARES, "all", "--secure-agg", "--method", "fedavg", "--ring-bits", "16"],
        "security.ring_bits is 16: expected more for privacy.distributed_noise of connector",
    ),
    "no room in the ring": (
        ["--privacy-unit", "client", "--privacy-noise-multiplier", "5", "--secure-agg"],
        "security.clip is 1: expected at least 31",
    ),
    "no room in the sketch": (
        ["--privacy-unit", "client", "--privacy-noise-multiplier", "5", "--secure-agg"],
        "security.distance_norm_bound is 16: expected at least",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_one_sentence_before_any_training(
    name: str, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, sentence = BAD[name]
    out = tmp_path / "run"
    command = ["--base", str(tiny_base), "--out", str(out), "--samples-per-client", "4"]
    command += ["--batch-size", "4", "--lora-rank", "2", "--test-samples", "1"]
    assert main([*command, "--privacy-unit", "example", *options]) == 2
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert any(sentence in line for line in lines), printed
    assert "Traceback" not in printed and not out.exists()


def test_a_target_chooses_the_noise_before_training(run_tiny: Callable[..., FinishedRun]) -> None:
    target = {"privacy": {"unit": "example", "target_epsilon": 6.0, "delta": 0.02}}
    run = run_tiny(target, {"federation": {"method": "fedavg", "rounds": 1}})
    summary = run.summary.privacy
    assert summary is not None
    assert all(5.5 < value <= 6.0 for value in summary.epsilon.values())
    assert json.loads((run.path / "ledger.json").read_text())["delta"] == 0.02
