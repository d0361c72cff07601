"""What a party, or a coalition of clients, saw of a run, and what that determines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from pilot_secure.audit.attempts import Attempt, Attempts
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.effective import effective, local_noise, read_ledger
from pilot_secure.audit.entries import Entry, open_entry
from pilot_secure.audit.rules.leakage import public_rows
from pilot_secure.audit.rules.shares import real_contributors
from pilot_secure.audit.verdicts import Frozen
from pilot_secure.errors import RunFolderError
from pilot_secure.federation.messages import ClearUpdate
from pilot_secure.privacy import Ledger
from pilot_secure.privacy.views import EffectivePrivacy
from pilot_secure.terminal import say
from protocols.identity import KEY_HOLDER, SERVER, Roster
from protocols.leakage import OpenedRow, View, view_of
from protocols.transcript import TranscriptRecord

MAX_SHOWN = 12
PLACE = re.compile(r"[0-9]{1,5}")
DETERMINED = 0.999
UPLOADS, ROWS = ("distance_upload", "blinded_upload"), ("distance_delivery", "row_delivery")


class SeenMessage(Frozen):
    """One message that a viewer sent or received; ``fields`` says what stood in it.

    ``at_ms`` is when the server says that it passed: nothing proves it.
    """

    seq: int
    at_ms: int
    phase: str
    sender: str
    recipient: str
    kind: str
    bytes: int
    sha256: str
    fields: dict[str, str]


class Determined(Frozen):
    """What the sums of one attempt determine for the viewer, vector by vector."""

    attempt: str
    view: View


class PartyView(Frozen):
    """Everything that a viewer saw.

    ``effective`` holds, where there is a ledger, what it can tell of each client outside over the
    whole run; ``claimed`` the ledger's own epsilons, which hold for every view within c_max.
    """

    viewer: tuple[str, ...]
    messages: tuple[SeenMessage, ...]
    determined: tuple[Determined, ...]
    effective: tuple[EffectivePrivacy, ...]
    claimed: dict[str, float | None]
    notes: tuple[str, ...]


def viewers(roster: Roster, party: str | None, coalition: str | None) -> tuple[str, ...]:
    """The parties that a command line names; a coalition by its clients' places in the roster.

    Raises: RunFolderError for a party that the roster does not hold.
    """
    names = roster.names()
    if party is not None:
        everybody = [entry.name for entry in roster.entries()]
        if party not in everybody:
            raise RunFolderError(f"--party is {party}: expected one of {', '.join(everybody)}.")
        return (party,)
    places = (coalition or "").split(",")
    if not all(PLACE.fullmatch(place) and 1 <= int(place) <= len(names) for place in places):
        raise RunFolderError(
            f"--coalition is {coalition}: expected places in the roster such as 1,4, of 1 to "
            f"{len(names)}."
        )
    return tuple(sorted({names[int(place) - 1] for place in places}))


@dataclass
class Observed:
    """A run read once, for any viewer: its attempts, clear uploads, and a line for each message."""

    attempts: list[Attempt]
    ledger: Ledger | None
    messages: list[SeenMessage]
    clear: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def by(self, viewer: tuple[str, ...]) -> PartyView:
        """Return what ``viewer`` saw, and what that determines."""
        ledger = self.ledger
        determined = [d for a in self.attempts for d in _determined(a, viewer, ledger)]
        if SERVER in viewer:
            determined += [d for label in self.clear for d in self._in_clear(label)]
        claims = {entry.client: entry.epsilon for entry in ledger.clients} if ledger else {}
        found, notes = _effective(ledger, determined, viewer)
        return PartyView(
            viewer=viewer,
            messages=tuple(m for m in self.messages if _saw(viewer, m)),
            determined=tuple(determined),
            effective=found,
            claimed={name: value for name, value in claims.items() if name not in viewer},
            notes=(*_notes(self, viewer), *self.notes, *notes),
        )

    def _in_clear(self, label: str) -> Iterator[Determined]:
        """Without secure aggregation the server holds every vector that it is sent."""
        noise, sent = _noise_of(self.ledger), self.clear[label]
        for vector in sorted({name for vectors in sent.values() for name in vectors}):
            owners = [client for client, vectors in sent.items() if vector in vectors]
            rows = [OpenedRow(vector, SERVER, {client: 1.0}) for client in owners]
            yield Determined(attempt=label, view=view_of(vector, owners, (SERVER,), rows, noise))


def observe(bundle: Bundle, viewer: tuple[str, ...] = (SERVER,)) -> Observed:
    """Read a run once. Memory: one message, and a line for each that ``viewer`` saw.

    A ledger that is none is noted, and for D01 to judge.
    """
    attempts = Attempts(bundle)
    run = Observed(attempts.all, None, [])
    try:
        run.ledger = read_ledger(bundle)
    except RunFolderError as error:
        run.notes.append(f"no effective epsilon: {error}")
    for record in bundle.records():
        entry = open_entry(record, *bundle.frame(record), bundle.roster)
        attempt = attempts.of(entry)
        if attempt is not None:
            attempt.note(entry)
        if _saw(viewer, record):
            run.messages.append(describe(entry))
        if isinstance(entry.message, ClearUpdate):
            label = f"round {entry.message.round}, stage {entry.message.stage}, in the clear"
            run.clear.setdefault(label, {})[entry.client] = tuple(entry.message.vectors)
    run.notes += [f"left out: {what}" for what in bundle.unread()]
    return run


def view(bundle: Bundle, viewer: tuple[str, ...]) -> PartyView:
    """Return what ``viewer`` saw. Memory: :func:`observe`'s."""
    return observe(bundle, viewer).by(viewer)


def _saw(viewer: tuple[str, ...], message: SeenMessage | TranscriptRecord) -> bool:
    return SERVER in viewer or message.sender in viewer or message.recipient in viewer


def describe(entry: Entry) -> SeenMessage:
    """Return a message's header and what its fields hold, long ones by size and hash."""
    record, message = entry.record, entry.message
    return SeenMessage(
        seq=record.seq,
        at_ms=record.at_ms,
        phase=record.phase,
        sender=record.sender,
        recipient=record.recipient,
        kind=getattr(message, "kind", "unknown" if entry.frame is not None else "not kept"),
        bytes=record.length,
        sha256=record.sha256,
        fields=_fields(message) if message is not None else {},
    )


def _fields(message: BaseModel) -> dict[str, str]:
    header = {"kind", "version", "session", "sender", "recipient", "run_id"}
    names = [name for name in type(message).model_fields if name not in header]
    return {name: shown(getattr(message, name)) for name in names}


def shown(value: object) -> str:
    """A field's value in a few words."""
    match value:
        case bytes():
            return f"{len(value)} bytes {value[:8].hex()}{'…' if len(value) > 8 else ''}"
        case tuple() if all(isinstance(item, str) for item in value):
            return ", ".join(value) or "none"
        case tuple():
            more = ", …" if len(value) > MAX_SHOWN else ""
            return f"{len(value)}: " + "; ".join(map(shown, value[:MAX_SHOWN])) + more
        case BaseModel():
            return " ".join(
                f"{name} {shown(getattr(value, name))}" for name in type(value).model_fields
            )
    return str(value)


def _notes(run: Observed, viewer: tuple[str, ...]) -> list[str]:
    counts = "the ledger's sample counts" if run.ledger else "equal sample counts"
    notes = [f"leverage with {counts} and equal weights; private weights are not in a transcript"]
    if any(a.parameters and a.parameters.neighbour_visibility == "hidden" for a in run.attempts):
        notes.append("hidden lists: a sealed sum counts all that may contribute to it")
    if KEY_HOLDER in viewer:
        notes.append("the key holder opens every distance, and no coordinate of a blinded sketch")
    if run.clear and SERVER not in viewer:
        notes.append("a run in the clear: what its personal sums tell a client is not judged here")
    return notes


def _effective(
    ledger: Ledger | None, determined: list[Determined], viewer: tuple[str, ...]
) -> tuple[tuple[EffectivePrivacy, ...], list[str]]:
    if ledger is None:
        return (), []
    aggregations: dict[str, list[View]] = {}
    for found in determined:
        aggregations.setdefault(found.attempt, []).append(found.view)
    try:
        return effective(ledger, aggregations.values(), viewer), []
    except ImportError:
        return (), ["no effective epsilon: dp-accounting, whose scipy it needs, is not installed"]


def _noise_of(ledger: Ledger | None) -> dict[str, float] | None:
    return local_noise(ledger) if ledger is not None else None


def _determined(
    attempt: Attempt, viewer: tuple[str, ...], ledger: Ledger | None
) -> Iterator[Determined]:
    p, distances = attempt.parameters, _num_distances(attempt, viewer)
    if p is None or not (attempt.opened or distances):
        return
    samples = {entry.client: entry.num_examples for entry in ledger.clients} if ledger else {}
    rows = [
        replace(row, coefficients={n: c * samples.get(n, 1) for n, c in row.coefficients.items()})
        for row in (*public_rows(attempt), *_hidden_rows(attempt))
        if viewer != (KEY_HOLDER,)
    ]
    for vector in sorted(p.vector_lengths):
        found = view_of(vector, p.cohort, viewer, rows, _noise_of(ledger))
        if vector == p.distance_vector:
            ranks = SERVER in viewer and p.shows_selections
            told = {"num_distances": distances, "sees_selections": ranks}
            found = found.model_copy(update=told)
        yield Determined(attempt=attempt.label, view=found)


def _num_distances(attempt: Attempt, viewer: tuple[str, ...]) -> int:
    """The distances that a viewer is told: its members' rows, all of them for the key holder."""
    measured = {name for name, kind in attempt.kept if kind in UPLOADS}
    if viewer == (KEY_HOLDER,):
        return len(measured) * (len(measured) - 1) // 2
    told = {name for name, kind in attempt.kept if kind in ROWS and name in viewer}
    return sum(len(measured - {name}) for name in told)


def _hidden_rows(attempt: Attempt) -> Iterator[OpenedRow]:
    p = attempt.parameters
    assert p is not None
    if p.neighbour_visibility != "hidden":
        return
    for planned in attempt.plan:
        spec = p.sum(planned.id)
        if planned.id in attempt.opened and spec.contributors == "selected":
            real = real_contributors(attempt, planned)
            yield OpenedRow(spec.vector, spec.recipient, dict.fromkeys(real, 1.0))


def print_view(found: PartyView) -> None:
    """Print the messages, a line each, and what they determine."""
    say(f"{' and '.join(found.viewer)}: {len(found.messages)} messages")
    for m in found.messages:
        say(
            f"{m.seq:>6}  {m.phase}: {m.sender} to {m.recipient}  {m.kind}, {m.bytes} bytes"
            f"  {m.sha256[:12]}…  at {m.at_ms / 1000:.3f} s"
        )
        for name, value in m.fields.items():
            say(f"          {name}: {value}")
    for item in found.determined:
        v = item.view
        say(
            f"{item.attempt}, {v.vector}: {v.num_sums} sums, rank {v.rank}, "
            f"{v.num_distances} distances"
        )
        for client, leverage in sorted(v.leverage.items(), key=lambda pair: -pair[1]):
            known = ": the vector is determined" if leverage > DETERMINED else ""
            say(f"    {client}: leverage {leverage:.3f}{known}")
    for entry in found.effective:
        claim = _epsilon(found.claimed.get(entry.client))
        mu = "unbounded" if entry.mu is None else f"{entry.mu:.3f}"
        say(
            f"{entry.client}: effective epsilon {_epsilon(entry.epsilon)} in this view over the "
            f"run (mu {mu}; the ledger claims {claim} against every view)"
        )
    for note in found.notes:
        say(f"note: {note}")


def _epsilon(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.3f}"
