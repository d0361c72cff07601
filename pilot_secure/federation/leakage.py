"""What a run's aggregations let each party determine: rank and leverage, for the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols import AggregationReport, AggregationResult
from protocols.leakage import close_survivor_sets, leakage_report
from protocols.parameter_sets import distance_leakage

FULL_VIEWS_UP_TO = 16

Results = Mapping[tuple[int, int], Mapping[str, AggregationResult]]


def run_leakage(
    reports: Sequence[AggregationReport], results: Results, num_samples: Mapping[str, int]
) -> dict[str, Any]:
    """Return the sections of the summary's leakage report.

    ``aggregations`` holds, for each that was opened, the most exposed client of every vector for
    the server and for coalitions of each size up to c_max, and every view where the cohort is
    small; ``distances`` the bits a malicious client can extract beside them; ``close_survivors``
    the sums of consecutive aggregations whose contributors are one client apart.

    Secrecy: leverages depend on private weights; the owner of a simulation's run folder holds
    them all.
    """
    opened = [report for report in reports if report.aborted is None]
    if not opened:
        return {}
    sections: dict[str, Any] = {
        "aggregations": [_aggregation(report, results, num_samples) for report in opened],
        "close_survivors": [
            {"sum": sum_id, "earlier": earlier, "later": later, "clients": list(clients)}
            for sum_id, earlier, later, clients in close_survivor_sets(
                {report.parameters.attempt_label: report.opened for report in opened}
            )
        ],
    }
    parameters = opened[0].parameters
    if parameters.selects:
        leak = distance_leakage(
            parameters.distance_parameter_set, len(parameters.cohort), parameters.max_colluders
        )
        sections["distances"] = {
            "malicious_bits_per_victim_and_aggregation": leak.malicious_bits_per_victim,
            "honest_bits_per_distance": leak.honest_bits_each,
        }
    return sections


def _aggregation(
    report: AggregationReport, results: Results, num_samples: Mapping[str, int]
) -> dict[str, Any]:
    parameters = report.parameters
    place = (parameters.round, parameters.stage)
    leakage = leakage_report(
        parameters, report.plan, report.opened, results.get(place, {}), num_samples
    )
    worst = [
        {
            "vector": vector,
            "coalition_size": size,
            "viewer": list(viewer),
            "victim": victim,
            "leverage": leverage,
        }
        for size in range(parameters.max_colluders + 1)
        for vector, (viewer, victim, leverage) in leakage.worst(size).items()
    ]
    entry: dict[str, Any] = {"round": parameters.round, "stage": parameters.stage, "worst": worst}
    if len(parameters.cohort) <= FULL_VIEWS_UP_TO:
        entry["views"] = [view.model_dump(mode="json") for view in leakage.views]
    return entry
