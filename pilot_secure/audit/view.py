"""What a party, or a coalition of clients, saw of a run, and what that determines."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from pilot_secure.audit.attempts import Attempt, Attempts
from pilot_secure.audit.bundle import LEDGER, Bundle
from pilot_secure.audit.entries import Entry, open_entry
from pilot_secure.audit.rules.leakage import public_rows
from pilot_secure.audit.rules.shares import real_contributors
from pilot_secure.audit.verdicts import Frozen
from pilot_secure.errors import RunFolderError
from pilot_secure.privacy import LedgerError, parse_ledger
from protocols.identity import KEY_HOLDER, SERVER, Roster
from protocols.leakage import OpenedRow, View, view_of

MAX_SHOWN = 12


class SeenMessage(Frozen):
    """One message that a viewer sent or received; ``fields`` says what stood in it."""

    seq: int
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

    Leverages are with equal weights; ``epsilons`` are the ledger's claims for the clients outside.
    """

    viewer: tuple[str, ...]
    messages: tuple[SeenMessage, ...]
    determined: tuple[Determined, ...]
    epsilons: dict[str, float | None]
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
    if not all(place.isdigit() and 1 <= int(place) <= len(names) for place in places):
        raise RunFolderError(
            f"--coalition is {coalition}: expected places in the roster such as 1,4, of 1 to "
            f"{len(names)}."
        )
    return tuple(sorted({names[int(place) - 1] for place in places}))


def view(bundle: Bundle, viewer: tuple[str, ...]) -> PartyView:
    """Return what ``viewer`` saw. Memory: one message, and a line for each of the viewer's."""
    attempts, seen = Attempts(bundle), []
    for record in bundle.records():
        entry = open_entry(record, *bundle.frame(record), bundle.roster)
        attempt = attempts.of(entry)
        if attempt is not None:
            attempt.note(entry)
        if SERVER in viewer or record.sender in viewer or record.recipient in viewer:
            seen.append(describe(entry))
    determined = [found for attempt in attempts.all for found in _determined(attempt, viewer)]
    notes = ["leverage with equal weights; the private ones are known to who applied them"]
    if any(a.parameters and a.parameters.neighbour_visibility == "hidden" for a in attempts.all):
        notes.append("hidden lists: a sealed sum counts all that may contribute to it")
    if KEY_HOLDER in viewer:
        notes.append("the key holder opens every distance, and no coordinate of a blinded sketch")
    return PartyView(
        viewer=viewer,
        messages=tuple(seen),
        determined=tuple(determined),
        epsilons=_epsilons(bundle, viewer),
        notes=tuple(notes),
    )


def describe(entry: Entry) -> SeenMessage:
    """Return a message's header and what its fields hold, long ones by size and hash."""
    record, message = entry.record, entry.message
    return SeenMessage(
        seq=record.seq,
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


def _determined(attempt: Attempt, viewer: tuple[str, ...]) -> Iterator[Determined]:
    if attempt.parameters is None or not attempt.opened or viewer == (KEY_HOLDER,):
        return
    rows = [*public_rows(attempt), *_hidden_rows(attempt)]
    for vector in sorted({row.vector for row in rows}):
        own = [row for row in rows if row.vector == vector]
        clients = {name for row in own for name in row.coefficients}
        clients |= {row.recipient for row in own} - {SERVER}
        yield Determined(attempt=attempt.label, view=view_of(vector, clients, viewer, rows))


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


def _epsilons(bundle: Bundle, viewer: tuple[str, ...]) -> dict[str, float | None]:
    content = bundle.content(LEDGER)
    try:
        ledger = parse_ledger(content) if content is not None else None
    except LedgerError as error:
        raise RunFolderError(f"{bundle.path / LEDGER}: {error}.") from None
    if ledger is None:
        return {}
    return {entry.client: entry.epsilon for entry in ledger.clients if entry.client not in viewer}


def print_view(found: PartyView) -> None:
    """Print the messages, a line each, and what they determine."""
    print(f"{' and '.join(found.viewer)}: {len(found.messages)} messages")
    for m in found.messages:
        print(
            f"{m.seq:>6}  {m.phase}: {m.sender} to {m.recipient}  {m.kind}, {m.bytes} bytes", end=""
        )
        print(f"  {m.sha256[:12]}…")
        for name, value in m.fields.items():
            print(f"          {name}: {value}")
    for item in found.determined:
        v = item.view
        print(f"{item.attempt}, {v.vector}: {v.num_sums} sums, rank {v.rank}")
        for client, leverage in sorted(v.leverage.items(), key=lambda pair: -pair[1]):
            print(f"    {client}: leverage {leverage:.3f}")
    for client, epsilon in found.epsilons.items():
        print(f"{client}: epsilon {'infinite' if epsilon is None else f'{epsilon:.3f}'}")
    for note in found.notes:
        print(f"note: {note}")
