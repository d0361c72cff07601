"""Which attempt of which aggregation an entry belongs to, and what the rules share about it.

Everything here is small: hashes, names and commitments, never a vector or a ciphertext.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.declared import DeclaredParameters, Problems
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.spans import Progress, SentSpan
from pilot_secure.audit.verdicts import AttemptSummary
from protocols.codec import CodecError
from protocols.distance_messages import HolderKeys, Selection
from protocols.errors import PeerError
from protocols.frame import claimed_sender
from protocols.graph import peers_of, sharing_threshold
from protocols.identity import sha256
from protocols.messages import (
    Advertisement,
    Advertisements,
    AdvertiseRequest,
    Consistency,
    Delivery,
    DeliveryPart,
    EncryptedShares,
    MaskedInput,
    MaskedPart,
    Message,
    Plan,
    PlannedSum,
    Receipt,
    SurvivorSet,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.plan import session_id
from protocols.transcript import RunningHash, TranscriptRecord


@dataclass
class Told:
    """What the server told one client in an attempt, and what that client answered."""

    members: dict[str, bytes] | None = None
    session: bytes | None = None
    participants: tuple[str, ...] | None = None
    sums: tuple[PlannedSum, ...] | None = None
    survivor_set: SurvivorSet | None = None
    unmask_request: UnmaskRequest | None = None
    opened: tuple[str, ...] = ()
    sealed: str | None = None


@dataclass
class Attempt:
    """One attempt. ``digest`` is the session of its first messages, ``place`` its order.

    ``sent_parts`` are the entries of each client's upload but the last, whose hashes ``manifests``
    says, ``told_parts`` those of each delivery but the last. ``spans`` are the vectors in the entry
    that was noted last.
    """

    digest: str
    place: int
    parameters: DeclaredParameters | None
    problems: Problems
    first_seq: int
    last_seq: int
    session: str | None = None
    complete: bool = True
    resumed: bool = False
    called: dict[str, bytes] = field(default_factory=dict)
    adverts: dict[str, Advertisement] = field(default_factory=dict)
    advert_hashes: dict[str, bytes] = field(default_factory=dict)
    dealt: dict[str, EncryptedShares] = field(default_factory=dict)
    listed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    consistency: dict[str, Consistency] = field(default_factory=dict)
    consistency_seq: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    revealed_seeds: dict[str, set[str]] = field(default_factory=dict)
    revealed_keys: dict[str, set[str]] = field(default_factory=dict)
    revealed_for: dict[str, set[str]] = field(default_factory=dict)
    receipts: dict[str, bytes] = field(default_factory=dict)
    running: dict[str, RunningHash] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    kept: dict[tuple[str, str], TranscriptRecord] = field(default_factory=dict)
    sent_parts: dict[str, list[TranscriptRecord]] = field(default_factory=dict)
    told_parts: dict[str, list[TranscriptRecord]] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    spans: tuple[SentSpan, ...] = ()
    _progress: dict[tuple[str, bool], Progress] = field(default_factory=dict)
    _sent: set[bytes] = field(default_factory=set)

    def to(self, client: str) -> Told:
        """What the server told ``client``."""
        return self.told.setdefault(client, Told())

    @property
    def label(self) -> str:
        """Round, stage and attempt in words."""
        p = self.parameters
        if p is None:
            return f"attempt {self.digest[:12]}…"
        again = f", attempt {p.attempt}" if p.attempt else ""
        return f"round {p.round}, stage {p.stage}{again}"

    @property
    def updates(self) -> str:
        """Which updates the attempt is about: the same for all attempts of an aggregation."""
        return self.parameters.attempt_label if self.parameters else self.digest

    @property
    def members(self) -> tuple[str, ...]:
        """Who takes part, as most clients were told; before that, who advertised."""
        told = [tuple(sorted(t.members)) for t in self.told.values() if t.members is not None]
        return _most_told(told) or tuple(sorted(self.adverts))

    @property
    def plan(self) -> tuple[PlannedSum, ...]:
        """The plan that most clients were told."""
        return _most_told([t.sums for t in self.told.values() if t.sums is not None])

    @property
    def participants(self) -> tuple[str, ...]:
        """The participants that most clients were told."""
        told = [t.participants for t in self.told.values() if t.participants is not None]
        return _most_told(told)

    @property
    def survivors(self) -> tuple[str, ...]:
        """The survivor set that most clients were told."""
        told = [t.survivor_set.survivors for t in self.told.values() if t.survivor_set is not None]
        return _most_told(told)

    @property
    def opened(self) -> tuple[str, ...]:
        """The ids of all sums that were delivered, for all or sealed, or could be: a server that
        holds enough shares knows a sum, whether it delivers it or not."""
        found: set[str] = set()
        if self.parameters is not None:
            enough = sharing_threshold(self.parameters)
            found = {name for name, who in self.revealed_for.items() if len(who) >= enough}
        for told in self.told.values():
            found |= {*told.opened, *([told.sealed] if told.sealed else [])}
        return tuple(sorted(found))

    @property
    def sealed_delivered(self) -> tuple[str, ...]:
        """The sealed sums that were delivered."""
        return tuple(sorted({t.sealed for t in self.told.values() if t.sealed}))

    def seq_of(self, client: str, kind: str) -> int:
        """The entry of a client's message of one kind; the attempt's first where there is none."""
        record = self.kept.get((client, kind))
        return self.first_seq if record is None else record.seq

    def seen_frame(self, digest: bytes) -> bool:
        """Whether a client's frame with this hash is in the transcript already."""
        return digest in self._sent

    def peers(self, client: str) -> tuple[str, ...]:
        """Whom ``client`` shares secrets and masks with."""
        if self.parameters is None or self.session is None:
            return ()
        return peers_of(self.parameters, bytes.fromhex(self.session), self.members, client)

    def summary(self) -> AttemptSummary:
        """What the report says of it."""
        p = self.parameters
        return AttemptSummary(
            digest=self.digest,
            session=self.session,
            round=p.round if p else None,
            stage=p.stage if p else None,
            attempt=p.attempt if p else None,
            first_seq=self.first_seq,
            last_seq=self.last_seq,
            members=self.members,
            survivors=self.survivors,
            opened=self.opened,
            receipts=tuple(sorted(self.receipts)),
        )

    def note(self, entry: Entry) -> None:
        """Take in one entry: its hash for the running hashes, and what its message settles."""
        self.last_seq = entry.record.seq
        message, client = entry.protocol_message, entry.client
        self.spans = ()
        self.complete &= entry.frame is not None and self.parameters is not None
        self._note_hash(entry)
        if message is None or not self.is_own(message, client):
            return
        self.kept[client, message.kind] = entry.record
        if self.parameters is not None:
            place = client, entry.from_server
            progress = self._progress.setdefault(place, Progress(self.parameters))
            self.spans = tuple(progress.take(message))
        if isinstance(message, AdvertiseRequest):
            self.called[client] = bytes.fromhex(entry.record.sha256)
        match message:
            case Advertisement():
                self.adverts[client] = message
                self.advert_hashes[client] = sha256(entry.frame or b"")
            case Advertisements():
                self._note_members(client, message)
            case EncryptedShares():
                self.dealt[client] = message.model_copy(update={"boxes": ()})
            case Selection():
                self.listed[client] = message.neighbours
            case Plan():
                told = self.to(client)
                told.participants, told.sums = message.participants, message.sums
            case MaskedPart():
                self.sent_parts.setdefault(client, []).append(entry.record)
            case DeliveryPart():
                self.told_parts.setdefault(client, []).append(entry.record)
            case MaskedInput():
                self.manifests[client] = message.parts
                self.uploads[client] = sha256(entry.frame or b"")
            case SurvivorSet():
                self.to(client).survivor_set = message
            case Consistency():
                self.consistency[client] = message
                self.consistency_seq[client] = entry.record.seq
            case UnmaskRequest():
                self.to(client).unmask_request = message
            case UnmaskShares():
                self._note_revealed(client, entry.record.seq, message)
            case Delivery():
                told = self.to(client)
                told.opened = tuple(item.sum_id for item in message.opened)
                told.sealed = message.sealed.sum_id if message.sealed else None
            case Receipt():
                self.receipts[client] = message.transcript

    def is_own(self, message: Message, client: str) -> bool:
        """Whether a message is of this attempt: shares carry the new session before any record."""
        if isinstance(message, EncryptedShares | HolderKeys):
            return message.session == self.to(client).session
        return message.session.hex() in (self.digest, self.session)

    def _note_hash(self, entry: Entry) -> None:
        if not entry.from_server:
            self._sent.add(bytes.fromhex(entry.record.sha256))
        if isinstance(entry.message, Receipt):
            return
        running = self.running.setdefault(entry.client, RunningHash())
        running.add("rcvd" if entry.from_server else "sent", bytes.fromhex(entry.record.sha256))

    def _note_members(self, client: str, message: Advertisements) -> None:
        told = self.to(client)
        hashes = {item.party: item.digest for item in message.others}
        for frame in message.advertisements:
            try:
                hashes[claimed_sender(frame, "share")] = sha256(frame)
            except (PeerError, CodecError):
                continue
        told.members = hashes
        if self.parameters is not None:
            told.session = session_id(self.parameters, hashes)

    def _note_revealed(self, client: str, seq: int, message: UnmaskShares) -> None:
        self.answered[client] = seq
        for seed in message.seed_shares:
            self.revealed_seeds.setdefault(seed.owner, set()).add(client)
            self.revealed_for.setdefault(seed.sum_id, set()).add(client)
        for key in message.key_shares:
            self.revealed_keys.setdefault(key.owner, set()).add(client)


def _most_told(values: list[tuple]) -> tuple:  # type: ignore[type-arg]
    """The value that was told most often, the first of equals; () where nothing was told."""
    if not values:
        return ()
    return max(dict.fromkeys(values), key=values.count)


class Attempts:
    """All attempts of a run, in order, and the one that an entry belongs to."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.all: list[Attempt] = []
        self._by_session: dict[str, Attempt] = {}

    def of(self, entry: Entry) -> Attempt | None:
        """Return the attempt of an entry, which this settles; None outside aggregations."""
        if not entry.in_aggregation:
            return None
        session = entry.record.session
        attempt = self._by_session.get(session)
        if attempt is None:
            return self._begin_or_continue(entry, session)
        again = entry.record.phase == "advertise" and entry.client in attempt.adverts
        return self._begin_again(attempt, entry) if again else attempt

    def _begin_again(self, before: Attempt, entry: Entry) -> Attempt:
        """A run that was killed goes on: the same attempt, with fresh keys, so another session.

        The calls to advertise are the same frames, which are not recorded a second time.
        """
        seq, place = entry.record.seq, len(self.all)
        attempt = Attempt(before.digest, place, before.parameters, before.problems, seq, seq)
        attempt.resumed, attempt.called = True, before.called
        for client, digest in before.called.items():
            attempt.running.setdefault(client, RunningHash()).add("rcvd", digest)
        self.all.append(attempt)
        self._by_session[before.digest] = attempt
        return attempt

    def _begin_or_continue(self, entry: Entry, session: str) -> Attempt:
        """A session that is new is a new attempt's first, or the second of the latest one."""
        latest = self.all[-1] if self.all else None
        if entry.record.phase != "advertise" and latest is not None and latest.session is None:
            latest.session = session
            self._by_session[session] = latest
            return latest
        parameters, problems = self._bundle.parameters(session)
        seq = entry.record.seq
        attempt = Attempt(session, len(self.all), parameters, problems, seq, seq)
        self.all.append(attempt)
        self._by_session[session] = attempt
        return attempt
