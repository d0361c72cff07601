"""How far two runs lie apart: adapters, scores, selections, configuration.

Run A is the one that differences are relative to. A secure run and a clear one that replays its
selection are equal to the last bit, for both then add what is rounded to one fixed point; with a
selection of its own, a clear run may choose another neighbour where two distances are nearly
equal, which `SelectionDifference` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pilot_secure.adapter_files import CONNECTOR_TENSORS
from pilot_secure.errors import RunFolderError
from pilot_secure.saved_run import SavedRun, read_tensors
from pilot_secure.summary import ClientSummary, SelectionRecord

MOMENTS = ("before", "after_local", "after_aggregation")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PartDifference(_Record):
    """One part of a client's model: `text_adapter` or `connector`.

    `max_absolute` is the largest |a - b|; `relative_norm` is ||a - b|| / ||a||, or null where
    a is zero and b is not. Both are null, and `unlike` says why, where the parts have other
    tensors.
    """

    client: str
    part: str
    max_absolute: float | None
    relative_norm: float | None
    unlike: str | None = None


class ScoreDifference(_Record):
    """One client's score in both runs, percent; null where a run has none."""

    client: str
    moment: str
    metric: str
    a: float | None
    b: float | None


class SelectionDifference(_Record):
    """What one client's selection has different in the two runs.

    Attributes:
        only_a, only_b: neighbours that one of the runs chose, and the other did not.
        max_weight_difference: over neighbours that both chose; null where there are none.
        max_distance_difference: over the peers whose distance both know.
        near_tie: largest gap between the distances of neighbours that took each other's place,
            in the run where it is larger; null where the neighbours are the same. What is no
            larger than twice the distances' own difference is a tie.
        margin: distance of run A's nearest peer not chosen minus that of its farthest neighbour.
    """

    round: int
    stage: int
    client: str
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    max_weight_difference: float | None
    max_distance_difference: float | None
    near_tie: float | None
    margin: float | None


class Comparison(_Record):
    """All differences; clients and selections that only one run has are named, not compared.

    `another_base` is false where a run did not note down its base model's hash.
    """

    clients_only_a: tuple[str, ...]
    clients_only_b: tuple[str, ...]
    settings: dict[str, tuple[str, str]]
    another_base: bool
    adapters: tuple[PartDifference, ...]
    scores: tuple[ScoreDifference, ...]
    selections: tuple[SelectionDifference, ...]
    selections_only_a: int
    selections_only_b: int


def compare_runs(a: SavedRun, b: SavedRun) -> Comparison:
    """Compare two run folders.

    Raises: RunFolderError if either has no adapters, or if they have no client in common.
    """
    a.require_adapters()
    b.require_adapters()
    common = [client for client in a.clients if client in b.clients]
    if not common:
        raise RunFolderError(f"{a.folder.path} and {b.folder.path}: expected a client in both.")
    chosen_a, chosen_b = a.selections(), b.selections()
    both = [place for place in chosen_a if place in chosen_b]
    return Comparison(
        clients_only_a=_missing(a.clients, b.clients),
        clients_only_b=_missing(b.clients, a.clients),
        settings=_settings(a, b),
        another_base=len({a.summary.base_sha256, b.summary.base_sha256} - {None}) == 2,
        adapters=tuple(part for client in common for part in _parts(a, b, client)),
        scores=tuple(_scores(a, b, common)),
        selections=tuple(compare_selections(chosen_a[place], chosen_b[place]) for place in both),
        selections_only_a=len(chosen_a) - len(both),
        selections_only_b=len(chosen_b) - len(both),
    )


def _missing(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    known = set(others)
    return tuple(name for name in names if name not in known)


def _settings(a: SavedRun, b: SavedRun) -> dict[str, tuple[str, str]]:
    """Configuration fields that differ, as text; where a run was written does not count."""
    flat_a, flat_b = (_flat(run.config.model_dump(mode="json")) for run in (a, b))
    return {
        name: (str(flat_a[name]), str(flat_b[name]))
        for name in flat_a
        if flat_a[name] != flat_b[name] and name not in ("run.out", "run.name")
    }


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, fields in sections.items()
        for name, value in fields.items()
    }


def _parts(a: SavedRun, b: SavedRun, client: str) -> list[PartDifference]:
    """Raises: RunFolderError if a file is missing or malformed."""
    connectors = [read_tensors(r.folder.adapter_folder(client) / CONNECTOR_TENSORS) for r in (a, b)]
    texts = [_texts(run, client) for run in (a, b)]
    return [
        compare_tensors(client, "text_adapter", *texts),
        compare_tensors(client, "connector", *connectors),
    ]


def _texts(run: SavedRun, client: str) -> dict[str, Tensor]:
    """A client's text adapter, and its personal one where the method keeps one."""
    personal = run.personal_adapter(client)
    beside = {f"personal.{name}": t for name, t in personal[0].items()} if personal else {}
    return {**run.text_adapter(client), **beside}


def compare_tensors(
    client: str, part: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> PartDifference:
    """The difference of two sets of named tensors, in float64."""
    unlike = _unlike(a, b)
    if unlike:
        return PartDifference(
            client=client, part=part, max_absolute=None, relative_norm=None, unlike=unlike
        )
    largest = squares = norm = 0.0
    for name, tensor in a.items():
        difference = tensor.double() - b[name].double()
        largest = max(largest, float(difference.abs().max()) if difference.numel() else 0.0)
        squares += float(difference.square().sum())
        norm += float(tensor.double().square().sum())
    relative = (squares / norm) ** 0.5 if norm else (0.0 if not squares else None)
    return PartDifference(client=client, part=part, max_absolute=largest, relative_norm=relative)


def _unlike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str | None:
    """Why two sets of tensors cannot be compared, or None."""
    odd = sorted(a.keys() ^ b.keys())
    if odd:
        return f"{len(odd)} tensors are in one run only, such as {odd[0]}"
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            return f"{name} is {tuple(tensor.shape)} in A and {tuple(b[name].shape)} in B"
    return None


def _scores(a: SavedRun, b: SavedRun, clients: Iterable[str]) -> Iterable[ScoreDifference]:
    by_name_a, by_name_b = _by_name(a), _by_name(b)
    for client in clients:
        for moment in MOMENTS:
            yield ScoreDifference(
                client=client,
                moment=moment,
                metric=by_name_a[client].metric,
                a=getattr(by_name_a[client], moment),
                b=getattr(by_name_b[client], moment),
            )


def _by_name(run: SavedRun) -> dict[str, ClientSummary]:
    return {client.client: client for client in run.summary.clients}


def compare_selections(a: SelectionRecord, b: SelectionRecord) -> SelectionDifference:
    """The difference of one client's selections in one aggregation."""
    weights_a, weights_b = _weights(a), _weights(b)
    only_a, only_b = _missing(weights_a, weights_b), _missing(weights_b, weights_a)
    gaps = [_gap(a.distances, only_a, only_b), _gap(b.distances, only_b, only_a)]
    return SelectionDifference(
        round=a.round,
        stage=a.stage,
        client=a.client,
        only_a=only_a,
        only_b=only_b,
        max_weight_difference=_largest(weights_a, weights_b),
        max_distance_difference=_largest(a.distances, b.distances),
        near_tie=max((gap for gap in gaps if gap is not None), default=None),
        margin=_margin(a),
    )


def _weights(record: SelectionRecord) -> dict[str, float]:
    return dict(zip(record.neighbours, record.weights, strict=True))


def _largest(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    """The largest absolute difference over the keys in both."""
    return max((abs(a[key] - b[key]) for key in a if key in b), default=None)


def _gap(
    distances: Mapping[str, float], chosen: Iterable[str], instead: Iterable[str]
) -> float | None:
    """How much farther the farthest of `instead` is than the nearest of `chosen`."""
    near = [distances[name] for name in chosen if name in distances]
    far = [distances[name] for name in instead if name in distances]
    return max(far) - min(near) if near and far else None


def _margin(record: SelectionRecord) -> float | None:
    chosen = [record.distances[n] for n in record.neighbours if n in record.distances]
    others = [d for n, d in record.distances.items() if n not in record.neighbours]
    return min(others) - max(chosen) if chosen and others else None
