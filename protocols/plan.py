"""Who contributes to which sum, recomputed by every party from the same public facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from protocols.codec import encode
from protocols.identity import sha256
from protocols.messages import PlannedSum
from protocols.parameters import AggregationParameters, SumSpec


def plan_sums(
    parameters: AggregationParameters,
    participants: Collection[str],
    neighbours: Mapping[str, Collection[str]] | None,
) -> tuple[PlannedSum, ...]:
    """Return the sums that can still reach their minimum, with their contributors.

    ``neighbours`` holds the lists of visible selections; None when they are hidden, and then every
    other participant contributes to each selected sum. A sum whose recipient is gone, or whose
    contributors (with the recipient's own term) are below ``min_contributors``, is left out.
    """
    planned, present = [], frozenset(participants)
    for spec in parameters.sums:
        contributors = _contributors(parameters, spec, present, neighbours)
        if spec.sealed and spec.recipient not in present:
            continue
        if len(contributors) + spec.sealed < parameters.min_contributors:
            continue
        planned.append(
            PlannedSum(id=spec.id, recipient=spec.recipient, contributors=tuple(contributors))
        )
    return tuple(planned)


def _contributors(
    parameters: AggregationParameters,
    spec: SumSpec,
    present: frozenset[str],
    neighbours: Mapping[str, Collection[str]] | None,
) -> list[str]:
    there = [name for name in parameters.potential_contributors(spec) if name in present]
    if spec.contributors != "selected" or neighbours is None:
        return there
    listed = neighbours.get(spec.recipient, ())
    return [name for name in there if name in listed]


def may_open(
    parameters: AggregationParameters,
    planned: PlannedSum,
    survivors: Collection[str],
    neighbours: Mapping[str, Collection[str]],
) -> bool:
    """Return whether enough real terms survive for this sum to be opened.

    Counted are contributors that survive; for a selected sum the real neighbours among them and
    the recipient itself, which must survive too.
    """
    spec = parameters.sum(planned.id)
    survivors = frozenset(survivors)
    real = [name for name in planned.contributors if name in survivors]
    if spec.contributors == "selected":
        real = [name for name in real if name in neighbours.get(planned.recipient, ())]
    if spec.sealed and planned.recipient not in survivors:
        return False
    return len(real) + spec.sealed >= parameters.min_contributors


def plan_digest(participants: Collection[str], sums: Collection[PlannedSum]) -> bytes:
    """Return the hash of participants and planned sums that consistency signatures carry."""
    body = [[s.id, s.recipient, list(s.contributors)] for s in sums]
    return sha256(encode(["pilot-secure plan", list(participants), body]))


def session_id(parameters: AggregationParameters, frame_hashes: Mapping[str, bytes]) -> bytes:
    """Return the session id: the parameters and everybody's signed advertisement.

    The parameters' digest holds version, run, round, stage, attempt and the pinned roster.
    """
    adverts = [[name, frame_hashes[name]] for name in sorted(frame_hashes)]
    return sha256(encode(["pilot-secure session", parameters.digest(), adverts]))


def lists_digest(selections: Mapping[str, bytes]) -> bytes:
    """Return the hash by which a client says which neighbour lists it saw.

    ``selections`` maps each selecting participant to the hash of its signed list, and a key holder
    to that of its signed table of distances. The signature is part of what is hashed, so that the
    few possible lists cannot be tried out.
    """
    lists = [[name, selections[name]] for name in sorted(selections)]
    return sha256(encode(["pilot-secure neighbour lists", lists]))


def statement(session: bytes, plan: bytes, lists: bytes, uploads: Mapping[str, bytes]) -> bytes:
    """Return the bytes that consistency signatures sign.

    ``lists`` is the :func:`lists_digest`, ``uploads`` maps each survivor to the hash of its
    upload: the survivor set is its keys. All of it is public, so that anybody can verify.
    """
    hashes = [[name, uploads[name]] for name in sorted(uploads)]
    return encode(["pilot-secure consistency", session, plan, lists, hashes])
