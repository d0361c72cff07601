"""Where two transcripts part: their bytes, and what happened in them."""

from __future__ import annotations

from itertools import zip_longest

from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import open_entry
from pilot_secure.audit.verdicts import Frozen
from pilot_secure.audit.view import SeenMessage, describe
from pilot_secure.terminal import say
from protocols.transcript import TranscriptRecord


class Parting(Frozen):
    """The first entry at which two transcripts differ; None where one has ended."""

    seq: int
    a: SeenMessage | None
    b: SeenMessage | None
    differs: tuple[str, ...]


class TranscriptDiff(Frozen):
    """``bytes``: the first entry with other bytes, as fresh keys make in every run. ``course``:
    the first one with other parties, phase or length: from there on, something else happened.
    ``unread``: what of which transcript could not be read, and so not compared."""

    records_a: int
    records_b: int
    bytes: Parting | None
    course: Parting | None
    unread: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the transcripts are one, as far as they can be read."""
        return self.bytes is None and not self.unread


def diff(a: Bundle, b: Bundle) -> TranscriptDiff:
    """Compare two transcripts entry by entry."""
    counts = [0, 0]
    first: dict[str, Parting] = {}
    for seq, pair in enumerate(zip_longest(a.records(), b.records())):
        for place, record in enumerate(pair):
            counts[place] += record is not None
        for kind, key in (("bytes", _content), ("course", _course)):
            if kind not in first and key(pair[0]) != key(pair[1]):
                first[kind] = _parting(seq, (a, b), pair)
    return TranscriptDiff(
        records_a=counts[0],
        records_b=counts[1],
        bytes=first.get("bytes"),
        course=first.get("course"),
        unread=tuple(
            f"{name}, {what}" for name, of in (("A", a), ("B", b)) for what in of.unread()
        ),
    )


def _content(record: TranscriptRecord | None) -> object:
    return record and (*_course(record), record.session, record.sha256)


def _course(record: TranscriptRecord | None) -> tuple[object, ...]:
    return (record.sender, record.recipient, record.phase, record.length) if record else ()


def _parting(
    seq: int,
    bundles: tuple[Bundle, Bundle],
    records: tuple[TranscriptRecord | None, TranscriptRecord | None],
) -> Parting:
    a, b = (
        describe(open_entry(record, *bundle.frame(record), bundle.roster)) if record else None
        for bundle, record in zip(bundles, records, strict=True)
    )
    differs: tuple[str, ...] = ()
    if a is not None and b is not None:
        ends = ("sender", "recipient", "phase", "kind", "bytes")
        names = [name for name in ends if getattr(a, name) != getattr(b, name)]
        fields = a.fields.keys() | b.fields.keys()
        names += sorted(name for name in fields if a.fields.get(name) != b.fields.get(name))
        differs = tuple(names)
    return Parting(seq=seq, a=a, b=b, differs=differs)


def print_diff(found: TranscriptDiff) -> None:
    """Print where the transcripts part."""
    say(f"{found.records_a} messages in A, {found.records_b} in B")
    if found.same:
        say("the transcripts are the same")
        return
    for what in found.unread:
        say(f"not compared: {what}")
    _print("first other bytes", found.bytes)
    _print("first other course of events", found.course)


def _print(what: str, parting: Parting | None) -> None:
    if parting is None:
        say(f"{what}: none")
        return
    ended = parting.a is None or parting.b is None
    rest = "one has ended" if ended else "run, session or signature"
    say(f"{what}: entry {parting.seq}, {', '.join(parting.differs) or rest}")
    for letter, m in (("A", parting.a), ("B", parting.b)):
        text = "ended" if m is None else f"{m.phase}: {m.sender} to {m.recipient}, {m.kind}"
        size = "" if m is None else f", {m.bytes} bytes"
        say(f"  {letter}: {text}{size}")
        for name in parting.differs:
            if m is not None and name in m.fields:
                say(f"     {name}: {m.fields[name]}")
