"""Rules across fields of a configuration: what is unsafe or impossible together.

Each problem is one sentence that names the field, its value and what was expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilot_secure.config_data import entry_problems
from pilot_secure.config_privacy import privacy_problems
from protocols.errors import ParameterError
from protocols.parameter_sets import parameter_set
from protocols.parameters import smallest_threshold

if TYPE_CHECKING:
    from pilot_secure.config import SimulationConfig

HIDDEN_UP_TO = 16


def problems_across_fields(config: SimulationConfig) -> list[str]:
    """Return every problem; none if the configuration can be run."""
    return [
        *_data_problems(config),
        *_engine_problems(config),
        *_method_problems(config),
        *_flower_problems(config),
        *_cohort_problems(config),
        *_security_problems(config),
        *privacy_problems(config),
    ]


def _data_problems(config: SimulationConfig) -> list[str]:
    data = config.data
    if data.scenario == "files" and not data.clients:
        return [
            "data.clients is empty: scenario `files` needs at least one client with its "
            "conversation JSON and image folder"
        ]
    if data.scenario != "files" and data.clients:
        return [
            f"data.clients has {len(data.clients)} entries but data.scenario is "
            f"`{data.scenario}`: expected scenario `files`"
        ]
    problems = [p for i, entry in enumerate(data.clients) for p in entry_problems(i, entry)]
    if problems:
        return problems
    tasks = config.task_sizes()
    if config.federation.method == "pilot" and len(tasks) == 1:
        return [
            f"data.clients has one task, {next(iter(tasks))}: expected at least two for "
            "federation.method pilot, whose second stage mixes the adapters of other tasks"
        ]
    return []


def _engine_problems(config: SimulationConfig) -> list[str]:
    """What only Ray can do."""
    run = config.run
    asked = {"gpus_per_worker": run.gpus_per_worker, "ray_address": run.ray_address}
    return [
        f"run.{name} is {value}: expected run.engine ray with it, it is {run.engine}"
        for name, value in asked.items()
        if run.engine != "ray" and value not in (None, "auto")
    ]


def _method_problems(config: SimulationConfig) -> list[str]:
    """What cannot be asked for where all data are in one place."""
    if config.federation.method != "centralized":
        return []
    problems = []
    if config.security.secure_agg:
        problems.append(
            "federation.method is centralized: expected a federated method under "
            "security.secure_agg: with all data in one place nothing is protected"
        )
    if config.federation.participation < 1:
        problems.append(
            f"federation.participation is {config.federation.participation}: expected 1 for "
            "federation.method centralized, which has no clients to leave out"
        )
    if config.processes > 1:
        problems.append(
            f"run.engine is {config.run.engine}: expected in_process, or one process, for "
            "federation.method centralized, whose data are in one place"
        )
    return problems


def _flower_problems(config: SimulationConfig) -> list[str]:
    """What cannot be asked for where every client has a node of its own."""
    if config.run.engine != "flower":
        return []
    problems = []
    if config.security.insecure_escrow:
        problems.append(
            "security.insecure_escrow is on: expected another run.engine than flower, whose "
            "parties give nobody their secrets"
        )
    if config.has_key_holder:
        problems.append(
            "security.distance_trust is key_holder: expected peer for run.engine flower, where "
            "only clients have nodes"
        )
    return problems


def _cohort_problems(config: SimulationConfig) -> list[str]:
    problems = _simulated_problems(config)
    size, neighbours = config.cohort_size, config.federation.num_neighbours
    if config.selects_neighbours and neighbours != "auto" and neighbours >= size:
        problems.append(
            f"federation.num_neighbours is {neighbours}: expected fewer than the {size} clients "
            "that take part in a round"
        )
    if config.data.scenario != "files" or not config.data.clients:
        return problems
    names = [client.name for client in config.data.clients if client.name]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"data.clients names `{name}` twice: expected one entry for each client")
    return problems


def _simulated_problems(config: SimulationConfig) -> list[str]:
    """Replay and drop-outs that could never take place."""
    federation, security, problems = config.federation, config.security, []
    if federation.replay_selection is not None and (
        security.secure_agg or not config.selects_neighbours
    ):
        problems.append(
            f"federation.replay_selection is {federation.replay_selection}: expected a method "
            "that selects neighbours, without secure_agg: a secure run makes its own selection"
        )
    problems += [
        f"security.dropouts names round {dropout.round}: expected at most the "
        f"{federation.rounds} rounds of federation.rounds"
        for dropout in security.dropouts
        if dropout.round > federation.rounds
    ]
    problems += [
        f"security.dropouts names part {dropout.part} of phase {dropout.phase}: expected phase "
        "masked_input or deliver, which alone go in parts"
        for dropout in security.dropouts
        if dropout.part > 0 and dropout.phase not in ("masked_input", "deliver")
    ]
    places = [(d.client, d.round, d.stage, d.phase, d.part) for d in security.dropouts]
    problems += [
        f"security.dropouts names {client} in phase {phase} of round {number}, stage {stage}, "
        "twice: expected one entry"
        for client, number, stage, phase, part in sorted(set(places))
        if places.count((client, number, stage, phase, part)) > 1
    ]
    return problems


def _security_problems(config: SimulationConfig) -> list[str]:
    if not config.security.secure_agg or not config.exchanges:
        return []
    problems = _threshold_problems(config)
    if config.selects_neighbours:
        problems += _neighbour_problems(config)
    return [*problems, *_contributor_problems(config)]


def _threshold_problems(config: SimulationConfig) -> list[str]:
    security, cohort, problems = config.security, config.cohort_size, []
    if security.min_contributors < security.max_colluders + 2:
        problems.append(
            f"security.min_contributors is {security.min_contributors}: expected at least "
            f"max_colluders + 2 = {security.max_colluders + 2}"
        )
    threshold = security.threshold
    if threshold == "auto":
        threshold = smallest_threshold(cohort, security.max_colluders)
    if threshold > cohort:
        problems.append(
            f"security.threshold is {threshold}: expected at most the {cohort} clients that take "
            "part in a round"
        )
    if 2 * threshold <= cohort + security.max_colluders:
        problems.append(
            f"security.threshold is {threshold}: expected 2·threshold > clients + max_colluders, "
            f"at least {smallest_threshold(cohort, security.max_colluders)}"
        )
    return problems


def _neighbour_problems(config: SimulationConfig) -> list[str]:
    security, neighbours, problems = config.security, config.federation.num_neighbours, []
    try:
        parameter_set(security.ckks_set, security.distance_trust)
    except ParameterError as error:
        problems.append(
            f"security.ckks_parameters is {security.ckks_parameters}: expected auto, or a set for "
            f"distance_trust {security.distance_trust} ({error})"
        )
    if security.neighbour_visibility == "auto" and config.cohort_size > HIDDEN_UP_TO:
        problems.append(
            f"security.neighbour_visibility is auto: expected hidden or visible, stated, for "
            f"{config.cohort_size} clients in a round (more than {HIDDEN_UP_TO})"
        )
    if neighbours != "auto" and neighbours < security.min_contributors - 1:
        problems.append(
            f"federation.num_neighbours is {neighbours}: expected at least "
            f"security.min_contributors - 1 = {security.min_contributors - 1} under secure_agg"
        )
    return problems


def _contributor_problems(config: SimulationConfig) -> list[str]:
    """Sums that could never have enough contributors."""
    minimum = config.security.min_contributors
    least = f"security.min_contributors = {minimum} under secure_agg"
    if not config.sums_within_tasks:
        if config.cohort_size >= minimum:
            return []
        return [
            f"federation.method {config.federation.method} sums over the {config.cohort_size} "
            f"clients of a round: expected at least {least}"
        ]
    if config.data.scenario != "files":
        few = config.data.clients_per_task < minimum
        problems = [
            f"data.clients_per_task is {config.data.clients_per_task}: expected at least {least}"
        ]
        return [*(problems if few else []), *_participation_problems(config)]
    problems = [
        f"data.clients has {size} client{'s' if size > 1 else ''} of task {task}: expected at "
        f"least {least}"
        for task, size in config.task_sizes().items()
        if size < minimum
    ]
    return [*problems, *_participation_problems(config)]


def _participation_problems(config: SimulationConfig) -> list[str]:
    """A share that leaves a task with enough clients too few of them in every round."""
    federation, minimum = config.federation, config.security.min_contributors
    short = {
        task: size
        for task, size in config.task_sizes().items()
        if federation.taking_part(size) < minimum <= size
    }
    if not short:
        return []
    size = min(short.values())
    return [
        f"federation.participation is {federation.participation}: expected a share that keeps at "
        f"least security.min_contributors = {minimum} clients of every task in a round under "
        f"secure_agg, it keeps {federation.taking_part(size)} of {size}"
    ]
