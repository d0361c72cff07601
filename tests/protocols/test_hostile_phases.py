"""Every phase in both directions, in both trust models and without distances, under hostile frames.

One run per kind of attempt is attacked all the way: before an honest frame reaches its recipient,
every hostile form of it is tried, and each must end in an error that names its sender and the
phase. The run then goes on with the honest frame, and must end as if nothing had happened.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from hostile import Hostile, damaged, lies, out_of_place
from in_process import KEY_HOLDER_TRUST, Federation, names
from test_aggregation import assert_equals_reference

from protocols import KEY_HOLDER, SERVER, MemoryGuard, SumSpec
from protocols.codec import decode
from protocols.errors import PeerError
from protocols.frame_sizes import largest_due, largest_frame
from protocols.identity import SIGNATURE_BYTES
from protocols.states import CLIENT, HOLDER, SERVER_PHASES, Transition, applies

VICTIM = "client-02"
FAMILIES = (
    *("bit-flipped", "truncated", "oversized", "non-canonical", "unknown-field"),
    *("wrong-length", "wrong-type", "re-ordered", "replayed"),
)
PARTS = {"part_bytes": 600}  # uploads and deliveries go in more parts than two


def named_sums() -> tuple[SumSpec, ...]:
    """A sum of either vector for all, and one sealed sum: without a selection."""
    one, *others = names(4)
    sums = (
        SumSpec(id="all", vector="task_adapter", recipient=SERVER, contributors=names(4)),
        SumSpec(id="own", vector="task_adapter", recipient=one, contributors=tuple(others)),
        SumSpec(id="text", vector="text_adapter", recipient=SERVER, contributors=names(4)),
    )
    return sums


OPTIONS = {
    "none": {"options": {"sums": named_sums(), **PARTS}},
    "peer": {"num_tasks": 1, "options": {"num_neighbours": 3, **PARTS}},
    "key_holder": {"num_tasks": 1, "options": {**KEY_HOLDER_TRUST, "num_neighbours": 3, **PARTS}},
}
# Lists of which a part, or another order, is no fault that the recipient could see: members that
# have dropped out, shares that are not released, sums that stay closed, sets whatever their order.
TAKEN = {
    ("advertisements", "advertisements"),
    ("encrypted_shares", "seed_commitments"),
    ("distance_uploads", "uploads"),
    ("distance_delivery", "boxes"),
    ("release_request", "uploads"),
    ("release_request", "results"),
    ("plan", "shares"),
    ("plan", "selections"),
    ("unmask_request", "signatures"),
    ("unmask_shares", "seed_shares"),
    ("delivery_part", "spans"),
    ("delivery", "opened"),
}
Frames = dict[tuple[str, str], bytes]


@dataclass
class Outcome:
    """What came of one hostile frame; ``error`` is None where it was taken."""

    hostile: Hostile
    sender: str
    places: tuple[str, ...]
    error: Exception | None


class Attacked:
    """A run that is attacked all the way. ``outcomes`` are by direction and kind of message."""

    def __init__(self, distances: str) -> None:
        self.federation = Federation(count=4, **OPTIONS[distances])
        self.outcomes: dict[tuple[str, str], list[Outcome]] = {}
        self.sizes: dict[tuple[str, str], tuple[int, int]] = {}
        self._earlier: dict[str, Frames] = {"request": {}, "reply": {}}
        self._present: dict[str, Frames] = {"request": {}, "reply": {}}
        self.federation.run(on_request=self._keep("request"), on_reply=self._keep("reply"))
        assert self.federation.server.report.aborted is None
        self._earlier, self._present = self._present, {"request": {}, "reply": {}}
        self.federation.guards = {name: MemoryGuard() for name in self.federation.guards}
        self.federation.start(attempt=1)
        self.federation.run(on_request=self._request, on_reply=self._reply)

    def _keep(self, direction: str) -> Callable[[str, str, bytes], bytes]:
        def keep(phase: str, name: str, frame: bytes) -> bytes:
            part = self.federation.server.part
            self._present[direction][f"{phase} {part}", name] = frame
            return frame

        return keep

    def _request(self, phase: str, name: str, frame: bytes) -> bytes:
        """Try every hostile form of a request on its recipient, turning its time back each time."""
        if name in (VICTIM, KEY_HOLDER):
            machine = self.federation.party(name)
            table = HOLDER if name == KEY_HOLDER else CLIENT
            limit = largest_due(self.federation.parameters, table, machine.state)

            guard = self.federation.guards[name]
            claims = dict(guard._claims)

            def attempt(hostile: bytes) -> None:
                state, running = machine._state, copy.copy(getattr(machine, "_running", None))
                try:
                    machine.handle(hostile)
                finally:
                    machine._state, machine._running = state, running
                    guard._claims = dict(claims)
                    if phase == "distance_release":
                        state.distances._spent = False
                    if phase == "distance_reply":
                        state.distances._answered.clear()

            self._attack("request", phase, name, SERVER, frame, limit, attempt, machine.state)
        return self._keep("request")(phase, name, frame)

    def _reply(self, phase: str, name: str, frame: bytes) -> bytes:
        """Try every hostile form of a reply on the server, which must stay as it was."""
        if name in (VICTIM, KEY_HOLDER):
            server = self.federation.server
            limit = largest_frame(self.federation.parameters, server._phase.due(name))

            def attempt(hostile: bytes) -> None:
                try:
                    server.accept(name, hostile)
                finally:
                    server._heard.discard(name)
                    server.report.faults.pop(name, None)

            self._attack("reply", phase, name, name, frame, limit, attempt, phase)
        return self._keep("reply")(phase, name, frame)

    def _attack(
        self,
        direction: str,
        phase: str,
        name: str,
        sender: str,
        frame: bytes,
        limit: int,
        attempt: Callable[[bytes], None],
        state: str,
    ) -> None:
        kind = kind_of(frame)
        length, _limit = self.sizes.get((direction, kind), (0, 0))
        self.sizes[direction, kind] = (max(length, len(frame)), limit)
        everything = [
            *damaged(frame, limit),
            *lies(self.federation, sender, frame, limit),
            *out_of_place(
                self.federation,
                sender,
                frame,
                for_one(self._earlier[direction], name),
                for_one(self._present[direction], name),
            ),
        ]
        outcomes = self.outcomes.setdefault((direction, kind), [])
        for hostile in everything:
            if direction == "reply" and may_be_taken(kind, hostile):
                continue  # it would be taken, and the honest frame would come too late
            error: Exception | None = None
            try:
                attempt(hostile.frame)
            except Exception as raised:  # noqa: BLE001 - a crash is what the tests look for
                error = raised
            outcomes.append(Outcome(hostile, sender, (phase, state, "distances"), error))


def for_one(frames: Frames, name: str) -> list[bytes]:
    return [frame for (_phase, party), frame in frames.items() if party == name]


def may_be_taken(kind: str, hostile: Hostile) -> bool:
    """Whether it is a list of :data:`TAKEN` with fewer items, or in another order."""
    whole, _, change = hostile.what.partition(" ")
    fewer = hostile.how == "wrong-length" and change in ("shorter", "empty")
    return (fewer or hostile.how == "re-ordered") and (kind, whole) in TAKEN


def kind_of(frame: bytes) -> str:
    return decode(frame[SIGNATURE_BYTES:])["kind"]


attacked = functools.cache(Attacked)


def cells(distances: str) -> Iterable[tuple[str, str]]:
    """Each (direction, kind) of an attempt, from the tables of states."""
    requests = {row.event for table in (CLIENT, HOLDER) for row in rows(table, distances)}
    yield from (("request", kind) for kind in sorted(requests))
    yield from (("reply", row.event) for row in rows(SERVER_PHASES, distances))


def rows(table: tuple[Transition, ...], distances: str) -> list[Transition]:
    return [row for row in table if applies(row, distances)]


CELLS = [(distances, *cell) for distances in OPTIONS for cell in cells(distances)]


@pytest.mark.parametrize(("distances", "direction", "kind"), CELLS)
def test_hostile_frames_are_refused_naming_sender_and_phase(distances, direction, kind) -> None:
    outcomes = attacked(distances).outcomes[direction, kind]
    assert {outcome.hostile.how for outcome in outcomes} == set(FAMILIES)
    for outcome in outcomes:
        if outcome.error is None and may_be_taken(kind, outcome.hostile):
            continue
        about = (outcome.hostile.how, outcome.hostile.what, outcome.error)
        assert isinstance(outcome.error, PeerError), about
        assert outcome.error.party == outcome.sender, about
        assert outcome.error.phase in outcome.places, about


@pytest.mark.parametrize("distances", OPTIONS)
def test_the_attacked_run_ends_as_if_nothing_had_happened(distances: str) -> None:
    federation = attacked(distances).federation
    assert federation.errors == {} and federation.server.report.aborted is None
    assert federation.server.report.faults == {}
    assert len(federation.server.report.receipts) == 4
    assert_equals_reference(federation)


@pytest.mark.parametrize(("distances", "direction", "kind"), CELLS)
def test_each_phase_has_a_bound_of_its_own(distances: str, direction: str, kind: str) -> None:
    """Near what is sent, so that a phase of a few hundred bytes takes no frame as long as a sum."""
    length, limit = attacked(distances).sizes[direction, kind]
    assert length <= limit <= 6 * length + 1024
    refused = [
        o for o in attacked(distances).outcomes[direction, kind] if o.hostile.how == "oversized"
    ]
    assert len(refused) >= 2 and all("above" in str(o.error) for o in refused)
