"""T04, T05: phases come in order, and every message belongs to the session it is sent in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Options, Rule
from pilot_secure.audit.rules.history import KnownResults
from pilot_secure.federation.messages import FederationMessage
from protocols.identity import KEY_HOLDER
from protocols.messages import Advertisement, Advertisements, AdvertiseRequest
from protocols.states import CLIENT, HOLDER, SERVER_PHASES, Distances, Transition, applies

PHASE_OF_REPLY = {row.event: row.state for row in SERVER_PHASES}
PHASE_OF_REQUEST = {row.reply: row.state for row in SERVER_PHASES}


@dataclass
class _Place:
    """Where a client is in its table: its state, and the next one by the replies that are due."""

    state: str = CLIENT[0].state
    due: dict[str, str] = field(default_factory=dict)


class T04Order(Rule):
    """Each client's messages follow the transition table, and lie in the phase they belong to."""

    id = "T04"
    title = "order of phases per session"
    compares = True

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._places: dict[tuple[int, str], _Place] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Follow one client by one message."""
        message = entry.protocol_message
        if attempt is None or attempt.parameters is None or message is None:
            return
        if not attempt.is_own(message, entry.client):
            return  # T05 tells
        self.checked += 1
        place = self._places.setdefault((attempt.place, entry.client), _Place())
        if attempt.resumed and message.kind == "advertisement" and not place.due:
            place.due = {message.kind: "advertised"}  # called before the run was killed
        kind, distances = message.kind, attempt.parameters.distances
        table = HOLDER if entry.client == KEY_HOLDER else CLIENT
        phases = PHASE_OF_REQUEST if entry.from_server else PHASE_OF_REPLY
        if phases.get(kind, entry.record.phase) != entry.record.phase:
            due = f"the phase {phases[kind]}"
            self.fail_at(entry, attempt, f"{kind} in the phase {entry.record.phase}", due)
        if entry.from_server:
            rows = [r for r in table if (r.state, r.event) == (place.state, kind)]
            rows = [r for r in rows if applies(r, distances)]
            if not rows or place.due:
                waits = f", which owes {_either(place.due)}" if place.due else ""
                found = f"{kind} to {entry.client} in state {place.state}{waits}"
                self.fail_at(entry, attempt, found, _legal(place, table, distances))
            rows = rows or [r for r in table if r.event == kind]
            place.due = {r.reply: r.next for r in rows} or place.due
            return
        if kind not in place.due:
            expected = _either(place.due) or "nothing before the server asks"
            self.fail_at(entry, attempt, f"{kind} in state {place.state}", expected)
            place.due |= {r.reply: r.next for r in reversed(table) if r.reply == kind}
        place.state = place.due.get(kind, place.state)
        place.due = {}


def _either(names: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(names))


def _legal(place: _Place, table: tuple[Transition, ...], distances: Distances) -> str:
    if place.due:
        return f"{_either(place.due)} first"
    rows = [r for r in table if r.state == place.state and applies(r, distances)]
    return _either(r.event for r in rows) or "nothing more"


class T05Session(Rule):
    """Session ids are bound to the advertisements and to what went before, and used once."""

    id = "T05"
    title = "session id unique and bound"
    compares = True

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._sessions: dict[str, str] = {}
        self._frames: dict[str, tuple[str, int]] = {}
        self._results = KnownResults(self.bundle)
        self._run: str | None = None

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Check one message's session, its frame's novelty, and the results it refers to."""
        self._check_run(entry, attempt)
        if attempt is None:
            return
        unknown = self._results.see(entry, attempt)
        if unknown is not None:
            expected = "results of an aggregation of this transcript: one was left out"
            self.fail_at(entry, attempt, unknown, expected)
        message = entry.protocol_message
        if message is None:
            return
        self.checked += 1
        earlier = self._frames.setdefault(entry.record.sha256, (attempt.digest, entry.record.seq))
        if earlier[0] != attempt.digest:
            found = f"the frame of entry {earlier[1]} again"
            self.fail_at(entry, attempt, found, "a message of this session")
            return
        own = attempt.digest
        if not isinstance(message, AdvertiseRequest | Advertisement | Advertisements):
            told = attempt.to(entry.client).session
            own = told.hex() if told is not None else attempt.session or attempt.digest
        other = message.session.hex()
        if other != own:
            found = f"a message of session {other[:12]}…{self._known(other)}"
            self.fail_at(entry, attempt, found, f"session {own[:12]}…")

    def _check_run(self, entry: Entry, attempt: Attempt | None) -> None:
        """One transcript is of one run: identities may outlive it, so signatures do not tell."""
        run = attempt.parameters.run_id if attempt and attempt.parameters else None
        if isinstance(entry.message, FederationMessage):
            self.checked += 1
            run = entry.message.run_id
        if run is None:
            return
        self._run = self._run or run
        if run != self._run:
            self.fail_at(entry, attempt, f"a message of run {run}", f"run {self._run}")

    def _known(self, session: str) -> str:
        label = self._sessions.get(session)
        return f" ({label})" if label else ""

    def conclude(self, attempt: Attempt) -> None:
        """Check that no earlier attempt had this session, and that records carry it."""
        own = {attempt.session or attempt.digest}
        for session in own if attempt.resumed else own | {attempt.digest}:
            if session in self._sessions:
                found = f"the session {session[:12]}… of {self._sessions[session]} again"
                self.fail(attempt.label, attempt.first_seq, found, "a fresh session")
            self._sessions[session] = attempt.label
        told = {t.session.hex() for t in attempt.told.values() if t.session is not None}
        if attempt.session is not None and told and attempt.session not in told:
            found = f"records of session {attempt.session[:12]}…"
            expected = "the hash of parameters and advertisements that a client was told"
            self.fail(attempt.label, attempt.first_seq, found, expected)
