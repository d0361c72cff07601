"""A secure run and a clear one that repeats its selection: the same adapters, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import SIX, FinishedRun, merged

from pilot_secure.federation.clear import aggregate_in_clear
from pilot_secure.federation.messages import ClearUpdate, vector_bytes, vector_from_bytes
from pilot_secure.federation.state import flatten
from protocols.ring import FixedPoint

CLEAR = {"security": {"secure_agg": False}}


def adapters(run: FinishedRun, client: str) -> dict[str, torch.Tensor]:
    state = run.simulation.host.clients[client].state
    modules = {} if state.connector is None else state.connector.state_dict()
    connector = {f"connector.{name}": tensor for name, tensor in modules.items()}
    return {**state.text_adapter, **connector}


def assert_same_adapters(one: FinishedRun, other: FinishedRun) -> None:
    assert one.simulation.host.clients.keys() == other.simulation.host.clients.keys()
    for client in one.simulation.host.clients:
        left, right = adapters(one, client), adapters(other, client)
        assert left.keys() == right.keys()
        differing = [name for name in left if not torch.equal(left[name], right[name])]
        assert differing == [], client


def update(run: FinishedRun, place: tuple[int, int, str]) -> ClearUpdate:
    round_number, stage, client = place
    return ClearUpdate(
        run_id="run",
        round=round_number,
        stage=stage,
        sender=client,
        recipient="server",
        num_samples=run.simulation.host.clients[client].num_samples,
        vectors={k: vector_bytes(flatten(v)) for k, v in run.uploads[place].items()},
    )


def assert_within_bound(run: FinishedRun, round_number: int, stage: int) -> None:
    """What clients were given is what the clear computation gives for what they sent."""
    agreement = run.simulation.server._agreement
    cohort = [c for r, s, c in run.uploads if (r, s) == (round_number, stage)]
    parameters = agreement.parameters(round_number, stage, 0, cohort)
    updates = {client: update(run, (round_number, stage, client)) for client in cohort}
    replayed = {
        client: {
            peer: run.result(peer, round_number, stage).weights[client]
            for peer in run.result(client, round_number, stage).neighbours
        }
        for client in cohort
    }
    expected = aggregate_in_clear(parameters, updates, replayed)
    exact = exact_sums(run, parameters, updates, replayed)
    for client in cohort:
        result = run.result(client, round_number, stage)
        for sum_id, mean in result.means.items():
            contributors = parameters.sum(sum_id).contributors
            total = sum(updates[c].num_samples for c in contributors)
            bound = fixed_point(parameters, "task_adapter", len(contributors)).error_bound(total)
            assert 0 < np.abs(mean - exact[sum_id]).max() <= bound
            rounded = vector_from_bytes(expected[client]["means"][sum_id])
            np.testing.assert_array_equal(mean, rounded)
        sealed, clear = result.sealed, expected[client]["personal"]
        fixed = fixed_point(parameters, "text_adapter", len(cohort) - 1)
        error = np.abs(sealed.vector_sum - exact[client]).max()
        assert 0 < error <= sealed.sum_nu * fixed.error_bound(sealed.sum_nu)
        np.testing.assert_array_equal(sealed.vector_sum, vector_from_bytes(clear.vector_sum))
        assert (sealed.sum_nu, sealed.sum_u, sealed.sum_n, sealed.num_contributors) == (
            clear.sum_nu,
            clear.sum_u,
            clear.sum_n,
            clear.num_contributors,
        )


def fixed_point(parameters, vector: str, contributors: int) -> FixedPoint:
    return FixedPoint(
        parameters.ring_bits, contributors, parameters.clip[vector], float(parameters.max_samples)
    )


def exact_sums(run: FinishedRun, parameters, updates, replayed) -> dict[str, np.ndarray]:
    """Eq. 10 by sum id and Σ n u x by client, in float64 and without any rounding."""
    flat = {
        client: {k: vector_from_bytes(v).astype(np.float64) for k, v in sent.vectors.items()}
        for client, sent in updates.items()
    }
    samples = {client: sent.num_samples for client, sent in updates.items()}
    exact = {}
    for spec in parameters.sums:
        if spec.contributors == "selected":
            weights = replayed[spec.recipient]
            exact[spec.recipient] = sum(
                samples[j] * u * flat[j]["text_adapter"] for j, u in weights.items()
            )
        else:
            total = sum(samples[c] for c in spec.contributors)
            weighted = sum(samples[c] * flat[c]["task_adapter"] for c in spec.contributors)
            exact[spec.id] = weighted / total
    return exact


def test_all_adapters_are_equal_after_all_rounds(
    secure_run: FinishedRun, clear_run: FinishedRun
) -> None:
    assert_same_adapters(secure_run, clear_run)
    start = secure_run.simulation.host.worker.initial_text_adapter()
    final = [run.state.text_adapter for run in secure_run.simulation.host.clients.values()]
    assert all(any(not torch.equal(f[k], start[k]) for k in start) for f in final)


@pytest.mark.parametrize(("round_number", "stage"), [(1, 1), (2, 2)])
def test_each_aggregation_is_within_the_fixed_point_bound(
    secure_run: FinishedRun, round_number: int, stage: int
) -> None:
    assert_within_bound(secure_run, round_number, stage)


@pytest.mark.parametrize(
    ("ring_bits", "eq12", "others"),
    [
        (16, "literal", {"federation": {"schedule": "both_stages"}}),
        (24, "literal", {"security": {"neighbour_visibility": "visible", "sketch_size": None}}),
        (32, "normalised", {"data": {"scenario": "general-vqa"}}),
    ],
)
def test_other_settings_agree_too(
    run_tiny: Callable[..., FinishedRun], ring_bits: int, eq12: str, others: dict
) -> None:
    settings = {"federation": {"eq12": eq12}, "security": {"ring_bits": ring_bits}}
    secure = run_tiny(SIX, settings, others)
    replay = {"federation": {"replay_selection": secure.path}}
    assert_same_adapters(secure, run_tiny(SIX, settings, others, replay, CLEAR))
    assert secure.summary.status == "finished"
    if others.get("security", {}).get("neighbour_visibility") != "visible":
        assert_within_bound(secure, 1, 1)


def test_partial_participation_agrees_and_moves_on(run_tiny: Callable[..., FinishedRun]) -> None:
    """Two of each task's three clients in a round, as many as open a mean."""
    settings = merged(
        SIX,
        {"data": {"clients_per_task": 3}},
        {"federation": {"participation": 0.67, "rounds": 3, "num_neighbours": 2}},
    )
    secure = run_tiny(settings)
    task = {name: client.data.task for name, client in secure.simulation.host.clients.items()}
    cohorts = [{c for r, _s, c in secure.uploads if r == number} for number in (1, 2, 3)]
    assert [len(cohort) for cohort in cohorts] == [6, 6, 6]
    for cohort in cohorts:
        assert sorted(task[c] for c in cohort) == sorted([*set(task.values())] * 2)
    assert len(set(map(frozenset, cohorts))) > 1  # somebody is away and comes back
    replay = {"federation": {"replay_selection": secure.path}}
    assert_same_adapters(secure, run_tiny(settings, replay, CLEAR))
    assert not any("not opened" in note for note in secure.summary.notes)
    assert secure.simulation.server.events.refusals == []


def test_a_clear_run_selects_as_the_secure_one_does(
    secure_run: FinishedRun, run_tiny: Callable[..., FinishedRun]
) -> None:
    """Distances from sketches and exact ones may rank close clients differently; weights agree."""
    own = run_tiny(CLEAR, {"federation": {"rounds": 1}})
    for client in own.simulation.host.clients:
        secure, clear = secure_run.result(client), own.result(client)
        assert set(secure.row) == set(clear.row) == set(own.simulation.host.clients) - {client}
        for peer, distance in clear.row.items():
            assert secure.row[peer] == pytest.approx(distance, rel=0.5)
        assert len(clear.neighbours) == len(secure.neighbours) == 6
        assert all(0.25 <= u <= 1 for u in clear.weights.values())
