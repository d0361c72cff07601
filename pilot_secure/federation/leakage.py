"""What a run's aggregations let each party determine: rank and leverage, for the summary."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilot_secure.federation.shared_noise import noise_of_sums
from pilot_secure.privacy.planning import NoisePlan
from pilot_secure.privacy.views import ViewsOfARun, most_exposed
from protocols import AggregationReport, Contribution
from protocols.leakage import View, close_survivor_sets, leakage_report
from protocols.parameter_sets import distance_leakage

FULL_VIEWS_UP_TO = 16

Contributions = Mapping[tuple[int, int], Mapping[str, Contribution]]


@dataclass(frozen=True)
class PrivacyOfARun:
    """What limits the views beside the sums themselves.

    ``noise`` is each client's local noise over its sensitivity (empty without client-level
    noise), ``claimed`` each client's epsilon at ``delta``, which holds for every view. ``plan``
    says which sums hold noise that their contributors share.
    """

    noise: Mapping[str, float] = field(default_factory=dict)
    claimed: Mapping[str, float] = field(default_factory=dict)
    delta: float | None = None
    plan: NoisePlan | None = None


def run_leakage(
    reports: Sequence[AggregationReport],
    contributions: Contributions,
    num_samples: Mapping[str, int],
    privacy: PrivacyOfARun = PrivacyOfARun(),
    *,
    in_clear: Collection[str] = (),
    told: Collection[Collection[str]] = (),
    max_attempts: int = 1,
) -> dict[str, Any]:
    """Return the sections of the summary's leakage report.

    ``effective_privacy`` holds one entry per viewer and client (`privacy.views`), of the most
    exposed clients only where the cohort is large. ``in_clear`` names the vectors that the
    server sees in a run without secure aggregation, ``told`` the clients of each of its
    aggregations; of such a run only this section is told.

    ``aggregations`` holds, for each that was opened, the most exposed client of every vector for
    the server and for coalitions of each size up to c_max, with the rank of what they see, every
    view where the cohort is small, and how many coalitions were too many to look at;
    ``distances`` the bits that c_max malicious clients (one, if c_max is 0) can extract beside
    them in ``max_attempts``;
    ``close_survivors`` the sums of consecutive aggregations whose contributors are one client
    apart.

    Secrecy: leverages depend on private weights; the owner of a simulation's run folder holds
    them all.
    """
    opened = [report for report in reports if report.aborted is None]
    shared = privacy.plan is not None and bool(privacy.plan.shared)
    views = ViewsOfARun(privacy.noise, concentrated=shared)
    if in_clear and told:
        for cohort in told:
            views.add_in_clear(in_clear, cohort)
        return {"effective_privacy": _entries(views, privacy)}
    if not opened:
        return {}
    sections: dict[str, Any] = {
        "aggregations": [
            _aggregation(report, contributions, num_samples, privacy, views) for report in opened
        ],
        "effective_privacy": _entries(views, privacy),
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
            parameters.distance_parameter_set,
            len(parameters.cohort),
            max(1, parameters.max_colluders),
            max_attempts,
        )
        sections["distances"] = {
            "malicious_bits_per_victim_and_aggregation": leak.malicious_bits_per_victim,
            "malicious_bits_with_the_server": leak.malicious_bits_with_server,
            "honest_bits_per_distance": leak.honest_bits_each,
            "key_holder": _key_holder_learns(opened),
        }
    return sections


def _entries(views: ViewsOfARun, privacy: PrivacyOfARun) -> list[dict[str, Any]]:
    found = views.result(delta=privacy.delta, claimed=privacy.claimed)
    if len({entry.client for entry in found}) > FULL_VIEWS_UP_TO:
        found = list(most_exposed(found).values())
    return [entry.model_dump(mode="json") for entry in found]


def _key_holder_learns(opened: Sequence[AggregationReport]) -> dict[str, Any] | None:
    """What a key holder knows after the run; None where each client holds its own key."""
    measured = [
        len(report.survivors["distance_upload"])
        for report in opened
        if report.parameters.distances == "key_holder"
    ]
    if not measured:
        return None
    return {
        "distances": sum(count * (count - 1) // 2 for count in measured),
        "norms": sum(measured),
        "coordinates": 0,
        "with_any_client": "every sketched vector",
    }


def _key_holder_view(report: AggregationReport) -> list[View]:
    """Every distance and no sum, for a party that holds the distances' key."""
    parameters = report.parameters
    if parameters.distances != "key_holder" or parameters.distance_vector is None:
        return []
    cohort = len(parameters.cohort)
    return [
        View(
            vector=parameters.distance_vector,
            viewer=("key-holder",),
            rank=0,
            num_sums=0,
            num_distances=cohort * (cohort - 1) // 2,
            leverage=dict.fromkeys(parameters.cohort, 0.0),
        )
    ]


def _aggregation(
    report: AggregationReport,
    contributions: Contributions,
    num_samples: Mapping[str, int],
    privacy: PrivacyOfARun,
    views: ViewsOfARun,
) -> dict[str, Any]:
    parameters = report.parameters
    place = (parameters.round, parameters.stage)
    leakage = leakage_report(
        parameters,
        report.plan,
        report.opened,
        contributions.get(place, {}),
        num_samples,
        privacy.noise or None,
        noise_of_sums(report, privacy.plan, num_samples),
    )
    views.add([*leakage.views, *_key_holder_view(report)], parameters.cohort)
    worst = [
        {
            "vector": vector,
            "coalition_size": size,
            "viewer": list(view.viewer),
            "sums": view.num_sums,
            "rank": view.rank,
            "victim": view.most_exposed[0],
            "leverage": view.most_exposed[1],
        }
        for size in range(parameters.max_colluders + 1)
        for vector, view in leakage.worst(size).items()
    ]
    entry: dict[str, Any] = {
        "round": parameters.round,
        "stage": parameters.stage,
        "worst": worst,
        "coalitions_left_out": leakage.coalitions_left_out,
    }
    if len(parameters.cohort) <= FULL_VIEWS_UP_TO:
        entry["views"] = [view.model_dump(mode="json") for view in leakage.views]
    return entry
