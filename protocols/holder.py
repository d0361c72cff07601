"""The key holder's machine: one object per attempt, driven by requests as a client is.

It makes fresh keys for a session that it computes itself from the signed advertisements, and
releases distances once: of uploads that the cohort signed for this session, and only where the
server's results equal its own evaluation of them. Its guard counts the releases of the same updates
over all attempts, since their flooding averages out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocols.client import check_pinned
from protocols.client_select import sketch_bound
from protocols.client_setup import (
    check_keys,
    enough_members,
    read_advertisements,
)
from protocols.client_states import AnswerGuard
from protocols.distance_lengths import distance_upload_bytes, measured_length
from protocols.distance_messages import (
    BlindedUpload,
    DistanceRelease,
    DistanceTable,
    HolderKeys,
    MeasuredUpload,
    ReleaseRequest,
)
from protocols.distance_table import ROW_USAGE, Pair, commitment, make_entries, pack_row
from protocols.entropy import Entropy
from protocols.errors import (
    AttemptRefused,
    BadDistance,
    BadPlan,
    LocalProtocolError,
    ParameterError,
    ProtocolError,
    UnexpectedMessage,
    WrongSession,
)
from protocols.frame import frame_hash, open_frame, open_relayed, seal
from protocols.frame_sizes import largest_due, largest_frame
from protocols.identity import KEY_HOLDER, SERVER, Identity, Roster
from protocols.keys import KEY_BYTES, Channel, KeyPair
from protocols.messages import Advertisement, Advertisements, Box, Message
from protocols.pair_jobs import PairWorkers
from protocols.parameters import AggregationParameters
from protocols.plan import session_id
from protocols.states import HOLDER, find

if TYPE_CHECKING:
    from protocols.key_holder import KeyHolder


@dataclass(frozen=True)
class HolderIdle:
    """Nothing has happened."""

    label = "idle"


@dataclass(frozen=True)
class Keyed:
    """Fresh keys are out for one session. Secrecy: ``distances`` and ``row_key`` hold secrets."""

    session: bytes
    adverts: Mapping[str, Advertisement] = field(repr=False)
    distances: KeyHolder
    row_key: KeyPair
    label = "keyed"


@dataclass(frozen=True)
class Released:
    """The one release is made, and the keys are gone."""

    session: bytes
    label = "released"


@dataclass(frozen=True)
class HolderFailed:
    """A rule was broken; this attempt is over for the holder, and its keys are gone."""

    reason: str
    label = "failed"


HolderState = HolderIdle | Keyed | Released | HolderFailed


class AggregationKeyHolder:
    """The key holder in one attempt: ``handle`` takes the server's frame and returns the reply's.

    Secrecy: it learns all distances, norms and inner products of the sketches; the clients' common
    blinding keeps coordinates from it. It must collude neither with a client nor with the server.
    """

    def __init__(
        self,
        parameters: AggregationParameters,
        identity: Identity,
        entropy: Entropy,
        *,
        roster: Roster,
        guard: AnswerGuard,
        max_releases: int,
        pair_workers: PairWorkers | None = None,
    ) -> None:
        """Take the pinned roster, and the guard that this key holder has always had.

        ``max_releases`` bounds how often distances of the same updates are released, in whatever
        attempts; ``pair_workers`` share many pairs.

        Raises:
            ParameterError: parameters without a key holder, another roster, or another identity.
        """
        check_pinned(parameters, identity, roster)
        if parameters.distances != "key_holder" or identity.name != KEY_HOLDER:
            raise ParameterError(f"{identity.name}: these parameters give it no key to hold")
        self._parameters, self._identity, self._roster = parameters, identity, roster
        self._entropy, self._guard, self._max_releases = entropy, guard, max_releases
        self._pair_workers = pair_workers
        self._state: HolderState = HolderIdle()

    @property
    def state(self) -> str:
        """The present state's name in the transition table."""
        return self._state.label

    def handle(self, request: bytes) -> bytes:
        """Return the signed reply to a request of the server.

        Raises:
            PeerError: the request is not the server's, comes at the wrong time or for another
                session (the state stays), or breaks a rule (the attempt is over).
            ProtocolError: this machine was used after its end, or its guard refuses the release.
        """
        if isinstance(self._state, HolderFailed):
            raise LocalProtocolError(f"{KEY_HOLDER}: {self._state.reason}")
        phase = self._state.label
        limit = largest_due(self._parameters, HOLDER, phase)
        message = open_frame(request, self._roster, SERVER, phase, limit)
        self._check_order(message)
        try:
            self._state, reply = self._step(message)
        except ProtocolError as error:
            self._state = HolderFailed(f"this attempt ended with {type(error).__name__}")
            raise
        return reply

    def _check_order(self, message: Message) -> None:
        """Refuse what is for another session or party, or has no row in the table."""
        state = self._state
        session = state.session if isinstance(state, Keyed | Released) else None
        if message.session != (session or self._parameters.digest()):
            raise WrongSession(SERVER, state.label, "a request of another session")
        if message.recipient != KEY_HOLDER:
            raise UnexpectedMessage(SERVER, state.label, f"a request to {message.recipient}")
        if find(HOLDER, state.label, message.kind, self._parameters.distances) is None:
            raise UnexpectedMessage(SERVER, state.label, f"{message.kind} in state {state.label}")

    def _step(self, message: Message) -> tuple[HolderState, bytes]:
        """Dispatch to the phase; the pairs are the rows of the holder's table."""
        match self._state, message:
            case HolderIdle(), Advertisements():
                return self._on_advertisements(message)
            case Keyed() as state, ReleaseRequest():
                return self._on_release_request(state, message)
        raise UnexpectedMessage(SERVER, self._state.label, "a request without a row in the table")

    def _on_advertisements(self, message: Advertisements) -> tuple[Keyed, bytes]:
        """Fix the session from what clients signed, and make its keys."""
        from protocols.key_holder import KeyHolder

        parameters = self._parameters
        adverts, hashes = read_advertisements(parameters, self._roster, message)
        enough_members(parameters, hashes)
        check_keys(adverts, "share")
        session = session_id(parameters, hashes)
        distances = KeyHolder(
            parameters.distance_parameter_set,
            measured_length(parameters),
            sketch_bound(parameters),
            self._entropy,
            self._pair_workers,
        )
        row_key = KeyPair(self._entropy.read(KEY_BYTES))
        reply = HolderKeys(
            session=session,
            sender=KEY_HOLDER,
            recipient=SERVER,
            row_key=row_key.public,
            keys=distances.keys(),
        )
        return Keyed(session, adverts, distances, row_key), seal(reply, self._identity)

    def _on_release_request(self, state: Keyed, message: ReleaseRequest) -> tuple[Released, bytes]:
        """Repeat the evaluation on the signed uploads, and give each client its own row."""
        frames = self._signed_uploads(state, message)
        self._claim_release()
        uploads = {name: upload.upload for name, (_, upload) in frames.items()}
        rows = state.distances.release(uploads, _digests(message))
        names = sorted(rows)
        squared = {(a, b): rows[a][b] for a in names for b in names if a < b}
        entries = make_entries(squared, self._entropy)
        table = DistanceTable(
            session=state.session,
            sender=KEY_HOLDER,
            recipient=SERVER,
            uploads=tuple(
                MeasuredUpload(party=name, digest=frame_hash(frames[name][0])) for name in names
            ),
            commitments=tuple(
                commitment(state.session, pair, entry) for pair, entry in entries.items()
            ),
        )
        reply = DistanceRelease(
            session=state.session,
            sender=KEY_HOLDER,
            recipient=SERVER,
            table=seal(table, self._identity),
            rows=tuple(
                Box(party=name, ciphertext=_sealed(state, name, pack_row(entries, name, names)))
                for name in names
            ),
        )
        return Released(state.session), seal(reply, self._identity)

    def _claim_release(self) -> None:
        """Have the guard persist this release before anything is decrypted.

        Raises:
            AttemptRefused: distances of these updates were released as often as may be.
        """
        updates, unique = self._parameters.attempt_label, self._entropy.read(KEY_BYTES)
        labels = (f"{updates}/released/{number}" for number in range(self._max_releases))
        if not any(self._guard.claim(label, unique) for label in labels):
            raise AttemptRefused(
                f"{KEY_HOLDER}: distances of the updates of {updates} were released "
                f"{self._max_releases} times, the most that is allowed"
            )

    def _signed_uploads(
        self, state: Keyed, message: ReleaseRequest
    ) -> dict[str, tuple[bytes, BlindedUpload]]:
        """Return {client: (frame, upload)}, each signed by its client for this session.

        Raises:
            PeerError: strangers, repetitions or too few of them; an upload that its client did not
                sign for this session, of another length, or blinded otherwise than the others.
        """
        phase = "distance_release"
        limit = largest_frame(self._parameters, "blinded_upload")
        frames: dict[str, tuple[bytes, BlindedUpload]] = {}
        for frame in message.uploads:
            upload = open_relayed(frame, BlindedUpload, state.session, self._roster, phase, limit)
            name = upload.sender
            if name not in state.adverts or name in frames:
                raise BadPlan(SERVER, phase, "uploads of strangers or repeated ones")
            if len(upload.upload) != distance_upload_bytes(self._parameters):
                raise BadDistance(name, phase, f"an upload of {len(upload.upload)} bytes")
            frames[name] = frame, upload
        if len(frames) < self._parameters.threshold:
            raise BadPlan(SERVER, phase, f"{len(frames)} uploads, below the threshold")
        if len({upload.blinding for _, upload in frames.values()}) > 1:
            raise BadDistance(SERVER, phase, "uploads under different blinding secrets")
        return frames


def _digests(message: ReleaseRequest) -> dict[Pair, bytes]:
    digests = {(item.one, item.other): item.digest for item in message.results}
    if len(digests) != len(message.results):
        raise BadDistance(SERVER, "distance_release", "two results for one pair")
    return digests


def _sealed(state: Keyed, name: str, row: bytes) -> bytes:
    """Encrypt a client's row under the two fresh keys that this session is made of."""
    secret = state.row_key.exchange(state.adverts[name].share_key)
    return Channel(secret, state.session).seal(ROW_USAGE, KEY_HOLDER, name, row)
