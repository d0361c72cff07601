"""Rank and leverage against worked cases, and the attack that sealing prevents."""

from __future__ import annotations

import clear_distances
import numpy as np
import pytest
from in_process import Federation

from protocols import leakage
from protocols.errors import ParameterError
from protocols.leakage import (
    OpenedRow,
    close_survivor_sets,
    effective_mu,
    leakage_report,
    opened_rows,
    rank_and_leverage,
    view_of,
)


def report_of(federation: Federation):
    report = federation.server.report
    return leakage_report(
        federation.parameters,
        report.plan,
        report.opened,
        {n: c.contribution for n, c in federation.clients.items() if c.contribution},
        {n: i.num_samples for n, i in federation.inputs.items()},
    )


def test_leverage_by_hand() -> None:
    """A sum of two equal terms tells half of each; two equations in two unknowns tell all."""
    assert rank_and_leverage(np.array([[1.0, 1.0, 0.0]])) == (1, pytest.approx([0.5, 0.5, 0]))
    assert rank_and_leverage(np.array([[1.0, 1.0], [1.0, -1.0]])) == (2, pytest.approx([1, 1]))
    rank, leverage = rank_and_leverage(np.array([[0.99, 0.01]]))
    assert rank == 1 and leverage[0] > 0.99


def test_noise_turns_leverage_into_mu() -> None:
    """Equal noise z: mu = sqrt(leverage) / z. A client's own vector in clear: 1 / z."""
    matrix = np.array([[3.0, 5.0, 2.0, 0.0], [1.0, 0.0, 4.0, 0.0]])
    leverage = rank_and_leverage(matrix)[1]
    assert effective_mu(matrix, np.full(4, 2.5)) == pytest.approx(np.sqrt(leverage) / 2.5)
    assert effective_mu(np.eye(2), np.array([2.0, 4.0])) == pytest.approx([0.5, 0.25])
    weights = np.array([[10.0, 30.0]])
    by_hand = weights[0] / np.hypot(10.0 * 2, 30.0 * 3)
    assert effective_mu(weights, np.array([2.0, 3.0])) == pytest.approx(by_hand)


def test_mu_is_the_distance_of_two_gaussians() -> None:
    """By definition: |S^-1/2 (A e_k)| for the covariance S of what the viewer sees."""
    generator = np.random.default_rng(1)
    matrix, noise = generator.normal(size=(3, 6)), generator.uniform(1, 3, 6)
    covariance = (matrix * noise**2) @ matrix.T
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), matrix)
    assert effective_mu(matrix, noise) == pytest.approx(np.linalg.norm(whitened, axis=0))
    repeated = np.vstack([matrix, matrix[:1]])  # seen twice: nothing new
    assert effective_mu(repeated, noise) == pytest.approx(effective_mu(matrix, noise))


def test_what_no_noise_covers_is_unbounded() -> None:
    """One noisy term hides the others of its sum, and of no other sum."""
    one = effective_mu(np.array([[1.0, 1.0, 0.0]]), np.array([0.0, 2.0, 0.0]))
    assert one == pytest.approx([0.5, 0.5, 0.0])
    two = effective_mu(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), np.array([0.0, 2.0, 0.0]))
    assert np.isinf(two[0]) and two[1] == pytest.approx(0.5)
    row = OpenedRow("v", "server", {"a": 1.0, "b": 1.0})
    assert view_of("v", "ab", ("server",), [row], {}).mu == {"a": None, "b": None}
    assert view_of("v", "ab", ("b",), [row], {"a": 2.0, "b": 2.0}).mu == {"a": 0.5}


def test_a_pair_with_one_colluder_is_no_secret() -> None:
    """Three clients in a task, one colludes: its two peers are a pair; two: all is known."""
    row = OpenedRow("v", "server", {"a": 10.0, "b": 10.0, "c": 10.0})
    assert view_of("v", "abc", ("server",), [row]).leverage["a"] == pytest.approx(1 / 3)
    assert view_of("v", "abc", ("c",), [row]).leverage["a"] == pytest.approx(1 / 2)
    assert view_of("v", "abc", ("b", "c"), [row]).leverage["a"] == pytest.approx(1.0)


def test_the_server_learns_the_task_means_and_nothing_of_the_text_adapters(monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    report = report_of(Federation().run())
    server = {view.vector: view for view in report.views if view.viewer == ("server",)}
    assert server["task_adapter"].rank == 3
    assert server["text_adapter"].rank == 0
    assert set(server["text_adapter"].leverage.values()) == {0.0}
    assert server["task_adapter"].most_exposed[1] < 0.75


def test_unsealed_sums_would_hand_the_server_every_text_adapter(monkeypatch) -> None:
    """The counter-measure taken out: nine clear sums, nine unknowns, solved."""
    clear_distances.install(monkeypatch)
    federation = Federation().run()
    results = {n: c.result for n, c in federation.clients.items()}
    samples = {n: i.num_samples for n, i in federation.inputs.items()}
    report = federation.server.report
    applied = {n: c.contribution for n, c in federation.clients.items()}
    rows = opened_rows(federation.parameters, report.plan, report.opened, applied, samples)
    clear = [OpenedRow(r.vector, "server", r.coefficients) for r in rows]
    view = view_of("text_adapter", federation.cohort, ("server",), clear)
    assert view.rank == 9
    assert min(view.leverage.values()) == pytest.approx(1.0)
    text = [r for r in rows if r.vector == "text_adapter"]
    matrix = np.array([[r.coefficients.get(n, 0.0) for n in federation.cohort] for r in text])
    sums = np.stack([results[r.recipient].sealed.vector_sum for r in text]).astype(float)
    solved = np.linalg.solve(matrix, sums)
    truth = np.stack([federation.flat(n, "text_adapter") for n in federation.cohort])
    assert np.abs(solved - truth).max() < 0.05 * np.abs(truth).max()


def test_every_coalition_up_to_the_bound_is_reported(monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    report = report_of(Federation(options={"max_colluders": 2, "min_contributors": 4}).run())
    viewers = {view.viewer for view in report.views if view.vector == "text_adapter"}
    assert len(viewers) == 1 + 9 + 36
    single = next(v for v in report.views if v.viewer == ("client-01",) and v.num_distances)
    assert single.rank == 1 and single.num_distances == 8 + 8
    pair = report.worst(2)["text_adapter"]
    victim, leverage = pair.most_exposed
    assert len(pair.viewer) == 2 and victim not in pair.viewer and pair.rank == 2
    pairs = [v for v in report.views if len(v.viewer) == 2 and v.vector == "text_adapter"]
    assert leverage == max(max(view.leverage.values()) for view in pairs)
    assert leverage >= report.worst(1)["text_adapter"].most_exposed[1]
    assert report.worst(0)["text_adapter"].most_exposed[1] == 0.0
    assert report.worst(0)["text_adapter"].viewer == ("server",)
    assert report.coalitions_left_out == 0


def test_what_is_too_much_to_look_at_is_counted(monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    federation = Federation(options={"max_colluders": 2, "min_contributors": 4}).run()
    monkeypatch.setattr(leakage, "MAX_COALITIONS", 11)
    report = report_of(federation)
    assert report.coalitions_left_out == 9 + 36 - 11
    viewers = {view.viewer for view in report.views if view.viewer != ("server",)}
    assert len(viewers) == 11 and {len(viewer) for viewer in viewers} == {1, 2}


def test_both_visibilities_leak_the_same_sums(monkeypatch) -> None:
    """Visibility changes what the server knows of the graph, not what the sums determine."""
    clear_distances.install(monkeypatch)
    hidden = report_of(Federation().run())
    visible = report_of(Federation(options={"neighbour_visibility": "visible"}).run())
    for one, other in zip(hidden.views, visible.views, strict=True):
        assert one.rank == other.rank
        assert one.leverage == pytest.approx(other.leverage)
    told = [(v.viewer, v.vector) for v in visible.views if v.sees_selections]
    assert told == [(("server",), "text_adapter")]
    assert not any(view.sees_selections for view in hidden.views)


def test_sets_that_are_one_client_apart_are_reported() -> None:
    rounds = {
        "round-1": {"all": ("a", "b", "c", "d"), "other": ("a", "b", "c")},
        "round-2": {"all": ("a", "b", "c"), "other": ("a", "b", "c")},
        "round-3": {"all": ("a", "b", "d")},
    }
    assert close_survivor_sets(rounds) == [("all", "round-1", "round-2", ("d",))]


def test_sums_that_nobody_took_home_were_opened_all_the_same(monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    federation = Federation()
    report = report_of(federation.run(drop_before={"deliver": set(federation.cohort)}))
    assert not any(client.result for client in federation.clients.values())
    delivered = report_of(Federation().run())
    assert len(report.views) == 2 * 10
    assert [view.num_sums for view in report.views] == [view.num_sums for view in delivered.views]
    for view, same in zip(report.views, delivered.views, strict=True):
        assert (view.viewer, view.rank, view.num_distances) == (
            same.viewer,
            same.rank,
            same.num_distances,
        )
        assert view.leverage == pytest.approx(same.leverage)
    assert report.worst(1)["text_adapter"].most_exposed[1] > 0


def test_parameters_refuse_what_cannot_be_encrypted() -> None:
    federation = Federation()
    longer = {"task_adapter": 301, "text_adapter": (1 << 22) + 1}
    with pytest.raises(ParameterError, match="4194305 numbers, at most 4194304"):
        federation.parameters_for(vector_lengths=longer)
    assert federation.parameters_for(vector_lengths=longer, sketch_size=1 << 22).selects
    with pytest.raises(ParameterError, match="sketch_size"):
        federation.parameters_for(sketch_size=1 << 23)
