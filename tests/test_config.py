"""The configuration: its defaults, and every rule across fields."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import merged
from pydantic import ValidationError

from pilot_secure.config import SimulationConfig
from pilot_secure.errors import ConfigError
from pilot_secure.run_privacy import check_room
from protocols.parameters import MAX_BOUND, MIN_BOUND

SECURE = {"security": {"secure_agg": True}}
FILES = {"data": {"scenario": "files"}}


def build(*layers: dict[str, Any]) -> SimulationConfig:
    return SimulationConfig.model_validate(merged(*layers))


def problems(*layers: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        build(*layers)
    (error,) = raised.value.errors()
    return str(error["ctx"]["error"]).splitlines()


def own_clients(*tasks: str, **more: Any) -> dict[str, Any]:
    """Entries of the user's own clients, one a task; ``more`` goes into the first."""
    entry = {"metric": "cider", "train": "a.json", "images": "a"}
    entries = [{**entry, "task": task} for task in tasks]
    entries[0].update(more)
    return merged(FILES, {"data": {"clients": entries}}, {"federation": {"num_neighbours": 1}})


def test_defaults_are_the_embedded_federation() -> None:
    config = SimulationConfig()
    assert (config.num_clients, config.cohort_size) == (9, 9)
    assert config.federation.num_neighbours == 6
    assert config.security.secure_agg is False
    assert build(SECURE).security.min_contributors == 3
    assert config.run_name == "visual-understanding-pilot"


@pytest.mark.parametrize(
    ("participation", "size"), [(1.0, 9), (0.67, 6), (0.5, 6), (0.34, 3), (0.001, 3)]
)
def test_a_share_of_the_clients_takes_part(participation: float, size: int) -> None:
    local = {"federation": {"method": "local", "participation": participation}}
    assert build(local).cohort_size == size


def test_a_share_is_of_every_task() -> None:
    """round(0.4 * 6) = 2 of one task, and at least 1 of the task with 1: of all, round(2.8)."""
    own = own_clients("read", "draw", split_into=6, task="read")
    assert build(own, {"federation": {"participation": 0.4}}).cohort_size == 2 + 1
    assert build(own, {"federation": {"participation": 0.1}}).cohort_size == 1 + 1


def test_a_share_keeps_the_contributors_that_hide_each_other() -> None:
    share = {"federation": {"participation": 0.67}}
    (problem,) = problems(SECURE, share, {"federation": {"num_neighbours": 5}})
    assert problem.startswith("federation.participation is 0.67: expected a share that keeps at")
    assert "least security.min_contributors = 3 clients of every task" in problem
    assert problem.endswith("it keeps 2 of 3")
    five = {"data": {"clients_per_task": 5}}
    assert build(SECURE, share, five).cohort_size == 9
    clear = build(share, {"federation": {"num_neighbours": 5}})
    assert clear.cohort_size == 6
    assert build(clear.model_dump(), five, SECURE, VISIBLE).num_clients == 15


def test_clients_are_counted_by_task() -> None:
    config = build(own_clients("read", "draw", "read", split_into=3))
    assert config.task_sizes() == {"read": 4, "draw": 1}
    assert config.num_clients == 5


@pytest.mark.parametrize("neighbours", [8, 9])
def test_neighbours_are_fewer_than_the_clients(neighbours: int) -> None:
    settings = {"federation": {"num_neighbours": neighbours}}
    if neighbours == 8:
        assert build(settings).federation.num_neighbours == 8
    else:
        (problem,) = problems(settings)
        assert problem.startswith("federation.num_neighbours is 9: expected fewer than the 9")
    assert build(settings, {"federation": {"method": "local"}}).num_clients == 9


@pytest.mark.parametrize(("threshold", "safe"), [(5, False), (6, True), (9, True), (10, False)])
def test_the_threshold_lets_one_survivor_set_open(threshold: int, safe: bool) -> None:
    settings = merged(SECURE, {"security": {"threshold": threshold}})
    if safe:
        assert build(settings).security.threshold == threshold
    else:
        (problem,) = problems(settings)
        assert problem.startswith(f"security.threshold is {threshold}: expected")
    assert build({"security": {"threshold": threshold}}).security.secure_agg is False


def test_more_colluders_ask_for_more_of_everything() -> None:
    told = problems(SECURE, {"security": {"max_colluders": 4, "threshold": 6}})
    assert [problem.partition(":")[0] for problem in told] == [
        "security.min_contributors is 3",
        "security.threshold is 6",
    ]
    assert "at least max_colluders + 2 = 6" in told[0]
    assert "at least 7" in told[1]


def test_colluders_that_no_cohort_can_bear() -> None:
    """n = 9, c_max = 8: 2t > 17 takes t = 9; c_max = 9 takes t = 10 of 9."""
    wide = {"data": {"clients_per_task": 12}}
    many = {"security": {"max_colluders": 8, "min_contributors": 10}}
    neighbours = {"federation": {"num_neighbours": 9}}
    assert build(SECURE, wide, many, neighbours, VISIBLE).num_clients == 36
    told = problems(SECURE, {"security": {"max_colluders": 9, "min_contributors": 11}})
    assert any("security.threshold is 10: expected at most the 9" in problem for problem in told)


VISIBLE = {"security": {"neighbour_visibility": "visible"}}


def test_a_task_has_the_contributors_that_hide_each_other() -> None:
    two = {"data": {"clients_per_task": 2}, "federation": {"num_neighbours": 3}}
    (problem,) = problems(SECURE, two)
    assert "clients_per_task is 2: expected at least security.min_contributors = 3" in problem
    assert build(two).num_clients == 6  # in the clear nothing is hidden
    alone = problems(SECURE, own_clients("read", "draw", split_into=4, task="read"))
    assert any("1 client of task draw" in problem for problem in alone)
    assert not any("of task read" in problem for problem in alone)


def test_neighbours_are_enough_for_a_sealed_sum_to_open() -> None:
    one = {"federation": {"num_neighbours": 1}}
    (problem,) = problems(SECURE, one)
    assert problem.startswith("federation.num_neighbours is 1: expected at least")
    assert build(one).federation.num_neighbours == 1


def test_own_clients_belong_to_their_scenario() -> None:
    assert problems(FILES) != []
    entries = own_clients("read", "draw")["data"]["clients"]
    (problem,) = problems({"data": {"clients": entries}})
    assert "expected scenario `files`" in problem


def test_client_names_are_given_once() -> None:
    settings = own_clients("read", "draw", name="north")
    settings["data"]["clients"][1]["name"] = "north"
    (problem,) = problems(settings)
    assert "`north` twice" in problem


@pytest.mark.parametrize("method", ["local", "pilot"])
def test_a_replay_goes_with_a_clear_pilot_only(method: str) -> None:
    replay = {"federation": {"replay_selection": "runs/x", "method": method}}
    if method == "pilot":
        assert str(build(replay).federation.replay_selection) == "runs/x"
        replay = merged(SECURE, replay)
    (problem,) = problems(replay)
    assert problem.startswith("federation.replay_selection is runs/x: expected")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("run", "seed", -1),
        ("run", "seed", 2**31),
        ("data", "look_strength", 1.5),
        ("data", "scenario", "visual"),
        ("model", "adapter_init_scale", 0.0),
        ("training", "learning_rate_stage1", 0.0),
        ("training", "learning_rate_stage1", float("inf")),
        ("training", "batch_size", 0),
        ("federation", "participation", 0.0),
        ("federation", "eq12", "normalized"),
        ("security", "ring_bits", 18),
        ("security", "clip", float("inf")),
        ("security", "clip", float("nan")),
        ("security", "max_samples", (1 << 24) + 1),
        ("security", "threshold", "all"),
        ("security", "dropout_probability", 1.01),
        ("security", "unknown", 1),
    ],
)
def test_each_field_has_its_bounds(section: str, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        build({section: {field: value}})
    assert {error["loc"][:2] for error in raised.value.errors()} == {(section, field)}


def test_a_configuration_does_not_change() -> None:
    config = SimulationConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.federation.rounds = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam", "shepherd"])
def test_sums_over_all_ask_for_no_minimum_in_a_task(name: str) -> None:
    two = {"data": {"clients_per_task": 2}, "federation": {"method": name, "participation": 0.5}}
    assert build(SECURE, two).cohort_size == 3
    (problem,) = problems(SECURE, two, {"security": {"min_contributors": 4}})
    assert problem.startswith(f"federation.method {name} sums over the 3 clients of a round")


def test_sums_within_a_task_ask_for_its_minimum() -> None:
    (problem,) = problems(
        SECURE, {"data": {"clients_per_task": 2}, "federation": {"method": "task_fedavg"}}
    )
    assert problem.startswith("data.clients_per_task is 2: expected at least security.min_contr")


def test_methods_without_neighbours_do_not_care_how_many() -> None:
    settings = {"federation": {"method": "fedavg", "num_neighbours": 100}}
    wide = {"data": {"clients_per_task": 12}}
    assert build(SECURE, wide, settings).num_clients == 36
    replay = {"federation": {"method": "fedavg", "replay_selection": "runs/a"}}
    (problem,) = problems(replay)
    assert problem.startswith("federation.replay_selection is runs/a: expected a method that sel")


def test_all_data_in_one_place_is_no_federation() -> None:
    central = {"federation": {"method": "centralized"}}
    assert build(central).exchanges is False
    (problem,) = problems(SECURE, central)
    assert problem.startswith("federation.method is centralized: expected a federated method")
    (problem,) = problems(central, {"federation": {"participation": 0.5}})
    assert problem.startswith("federation.participation is 0.5: expected 1 for federation.method")
    (problem,) = problems(central, {"run": {"engine": "processes", "slots": 2}})
    assert problem.startswith("run.engine is processes: expected in_process, or one process")


def test_what_only_ray_can_do_needs_ray() -> None:
    asked = {"gpus_per_worker": 0.5, "ray_address": "head:6379"}
    assert build({"run": {"engine": "ray", **asked}}).run.gpus_per_worker == 0.5
    assert problems({"run": {"engine": "processes", **asked}}) == [
        "run.gpus_per_worker is 0.5: expected run.engine ray with it, it is processes",
        "run.ray_address is head:6379: expected run.engine ray with it, it is processes",
    ]


def test_neighbours_by_the_gap_fit_any_cohort() -> None:
    auto = {"federation": {"num_neighbours": "auto"}}
    assert build(SECURE, auto).federation.num_neighbours == "auto"
    assert build(auto, {"data": {"clients_per_task": 1}}).cohort_size == 3


def test_simple_rules_for_text_adapters_select_nobody() -> None:
    rule = {"federation": {"text_aggregation": "same_task", "num_neighbours": 99}}
    assert build(SECURE, rule).selects_neighbours is False
    assert build(rule, {"federation": {"method": "fedavg"}}).selects_neighbours is False


def test_a_sketch_is_no_longer_than_what_can_be_encrypted() -> None:
    with pytest.raises(ValidationError, match=r"sketch_size[\s\S]*4194304"):
        build({"security": {"sketch_size": 1 << 23}})
    assert build({"security": {"sketch_size": 1 << 22}}).security.sketch_size == 1 << 22


@pytest.mark.parametrize("field", ["clip", "distance_norm_bound"])
def test_bounds_are_those_of_the_protocol(field: str) -> None:
    """What the configuration lets pass, the parameters of an attempt do not refuse."""
    for value in (MIN_BOUND, MAX_BOUND):
        assert getattr(build({"security": {field: value}}).security, field) == value
    for value in (MIN_BOUND / 10, MAX_BOUND * 10, 0.0, -1.0):
        with pytest.raises(ValidationError, match=field):
            build({"security": {field: value}})


def test_exact_distances_of_long_adapters_are_refused_before_training() -> None:
    exact = build(SECURE, {"security": {"sketch_size": None}})
    check_room(exact, None, {"text_adapter": 1 << 22})
    with pytest.raises(ConfigError, match=r"sketch_size is null.*4194305 numbers.*4194304"):
        check_room(exact, None, {"text_adapter": (1 << 22) + 1})
    check_room(build(SECURE), None, {"text_adapter": 1 << 30})


def test_parties_with_nodes_of_their_own_give_nobody_their_secrets() -> None:
    flower = {"run": {"engine": "flower"}, "security": {"secure_agg": True}}
    assert build(flower).processes == 9
    (escrow,) = problems(flower, {"security": {"insecure_escrow": True}})
    assert escrow.startswith("security.insecure_escrow is on: expected another run.engine")
    (holder,) = problems(flower, {"security": {"distance_trust": "key_holder"}})
    assert holder.startswith("security.distance_trust is key_holder: expected peer for run.engine")
