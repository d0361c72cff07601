"""The server's phases up to the plan. A phase asks its clients, takes replies and moves on.

The server decides nothing that clients do not recompute; what it refuses here it refuses to keep
one faulty client from spoiling the round for the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from protocols.accumulators import Allocate
from protocols.client_setup import check_keys
from protocols.errors import AttemptAborted, BadSelection, MalformedMessage, PeerError
from protocols.frame import expect, frame_hash, open_frame
from protocols.identity import SERVER, Identity, Roster
from protocols.messages import (
    Advertisement,
    Advertisements,
    AdvertiseRequest,
    Box,
    DistanceCall,
    DistanceDelivery,
    DistanceReplies,
    DistanceUpload,
    DistanceUploads,
    EncryptedShares,
    Message,
    NeighbourList,
    Selection,
)
from protocols.parameters import AggregationParameters
from protocols.plan import session_id


@dataclass(frozen=True)
class ServerContext:
    """What does not change during an attempt."""

    parameters: AggregationParameters
    identity: Identity = field(repr=False)
    roster: Roster
    allocate: Allocate


class Phase(ABC):
    """One exchange with the clients that are still there."""

    name: ClassVar[str]
    reply_kind: ClassVar[str]

    def __init__(self, context: ServerContext, clients: tuple[str, ...], session: bytes) -> None:
        self.context = context
        self.clients = clients
        self.session = session

    @abstractmethod
    def request(self, client: str) -> Message:
        """Return the request for one client."""

    @abstractmethod
    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Check and keep one reply.

        Raises:
            PeerError: the reply breaks a rule; the client counts as dropped out.
        """

    @abstractmethod
    def survivors(self) -> tuple[str, ...]:
        """Return whose replies were kept."""

    @abstractmethod
    def finish(self) -> Phase | None:
        """Return the next phase, or None after the last.

        Raises:
            AttemptAborted: the attempt cannot go on.
        """

    def enough(self, present: tuple[str, ...]) -> tuple[str, ...]:
        """Return ``present`` if the threshold holds.

        Raises:
            AttemptAborted: too few are left.
        """
        if len(present) < self.context.parameters.threshold:
            raise AttemptAborted(
                f"{self.name}: {len(present)} clients left, "
                f"{self.context.parameters.threshold} needed"
            )
        return present


class Advertise(Phase):
    """Collect signed fresh keys."""

    name, reply_kind = "advertise", "advertisement"

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context, context.parameters.cohort, context.parameters.digest())
        self.adverts: dict[str, Advertisement] = {}
        self.frames: dict[str, bytes] = {}

    def request(self, client: str) -> AdvertiseRequest:
        """Return the call to begin."""
        return AdvertiseRequest(session=self.session, sender=SERVER, recipient=client)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one advertisement unless its keys are unusable or someone else's."""
        advert = expect(message, Advertisement, self.session, SERVER, self.name)
        check_keys({**self.adverts, client: advert}, self.name)
        self.adverts[client], self.frames[client] = advert, frame

    def survivors(self) -> tuple[str, ...]:
        """Return who advertised."""
        return tuple(sorted(self.adverts))

    def finish(self) -> Phase:
        """Fix the session; abort if clients disagree on the last results."""
        clients = self.enough(self.survivors())
        told = Counter(advert.previous_results for advert in self.adverts.values())
        if len(told) > 1:
            common = told.most_common(1)[0][0]
            others = [n for n in clients if self.adverts[n].previous_results != common]
            raise AttemptAborted(f"{self.name}: {others} accepted other results the last time")
        hashes = {name: frame_hash(frame) for name, frame in self.frames.items()}
        return Share(self, session_id(self.context.parameters, hashes))


class Share(Phase):
    """Relay the advertisements, collect encrypted shares."""

    name, reply_kind = "share", "encrypted_shares"

    def __init__(self, advertise: Advertise, next_session: bytes) -> None:
        super().__init__(advertise.context, advertise.survivors(), advertise.session)
        self.adverts, self.next_session = advertise.adverts, next_session
        self._frames = tuple(advertise.frames[name] for name in self.clients)
        self.shares: dict[str, EncryptedShares] = {}

    def request(self, client: str) -> Advertisements:
        """Return everybody's advertisements."""
        return Advertisements(
            session=self.session, sender=SERVER, recipient=client, advertisements=self._frames
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one client's shares if there is one box and one list per member."""
        dealt = expect(message, EncryptedShares, self.next_session, SERVER, self.name)
        specs = self.context.parameters.sums_of(client)
        peers = [name for name in self.clients if name != client]
        if [box.party for box in dealt.boxes] != peers:
            raise MalformedMessage(client, self.name, "not one box of shares per peer")
        if [item.party for item in dealt.commitments] != list(self.clients):
            raise MalformedMessage(client, self.name, "not one list of commitments per member")
        counts = {len(item.digests) for item in dealt.commitments}
        if counts != {1 + len(specs)} or len(dealt.seed_commitments) != len(specs):
            raise MalformedMessage(client, self.name, "not one commitment per secret")
        self.shares[client] = dealt

    def survivors(self) -> tuple[str, ...]:
        """Return who shared."""
        return tuple(sorted(self.shares))

    def finish(self) -> Phase:
        """Go on to the distances, or straight to the plan."""
        self.enough(self.survivors())
        setup = Setup(self.context, self.next_session, self.adverts, self.shares)
        if self.context.parameters.selects:
            return DistanceUploading(setup, self.survivors())
        from protocols.server_sums import MaskedInputs

        return MaskedInputs(setup, self.survivors(), {})


@dataclass(frozen=True)
class Setup:
    """The agreed session: advertisements and encrypted shares by client."""

    context: ServerContext
    session: bytes
    adverts: Mapping[str, Advertisement]
    shares: Mapping[str, EncryptedShares]


class DistanceUploading(Phase):
    """Collect the encrypted sketches."""

    name, reply_kind = "distance_upload", "distance_upload"

    def __init__(self, setup: Setup, clients: tuple[str, ...]) -> None:
        super().__init__(setup.context, clients, setup.session)
        self.setup = setup
        self.frames: dict[str, bytes] = {}

    def request(self, client: str) -> DistanceCall:
        """Return the call for the encrypted sketch."""
        return DistanceCall(session=self.session, sender=SERVER, recipient=client)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep the signed upload; the server never loads its ciphertexts."""
        expect(message, DistanceUpload, self.session, SERVER, self.name)
        self.frames[client] = frame

    def survivors(self) -> tuple[str, ...]:
        """Return who uploaded."""
        return tuple(sorted(self.frames))

    def finish(self) -> Phase:
        """Relay the uploads next."""
        self.enough(self.survivors())
        return DistanceReplying(self.setup, self.frames)


class DistanceReplying(Phase):
    """Relay the uploads, collect the replies."""

    name, reply_kind = "distance_reply", "distance_replies"

    def __init__(self, setup: Setup, uploads: dict[str, bytes]) -> None:
        super().__init__(setup.context, tuple(sorted(uploads)), setup.session)
        self.setup = setup
        self._uploads = uploads
        self.boxes: dict[str, dict[str, Box]] = {}

    def request(self, client: str) -> DistanceUploads:
        """Return the peers' signed uploads."""
        return DistanceUploads(
            session=self.session,
            sender=SERVER,
            recipient=client,
            uploads=tuple(self._uploads[name] for name in self.clients if name != client),
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one client's replies if there is one per peer."""
        replies = expect(message, DistanceReplies, self.session, SERVER, self.name)
        peers = [name for name in self.clients if name != client]
        if [box.party for box in replies.boxes] != peers:
            raise MalformedMessage(client, self.name, "not one reply per peer")
        self.boxes[client] = {box.party: box for box in replies.boxes}

    def survivors(self) -> tuple[str, ...]:
        """Return who replied."""
        return tuple(sorted(self.boxes))

    def finish(self) -> Phase:
        """Deliver the replies next."""
        self.enough(self.survivors())
        return Select(self.setup, self.boxes)


class Select(Phase):
    """Deliver the replies, collect the neighbour lists."""

    name, reply_kind = "select", "selection"

    def __init__(self, setup: Setup, boxes: dict[str, dict[str, Box]]) -> None:
        super().__init__(setup.context, tuple(sorted(boxes)), setup.session)
        self.setup = setup
        self._boxes = boxes
        self._asked = {peer for replies in boxes.values() for peer in replies} | set(boxes)
        self.selections: dict[str, Selection] = {}
        self.neighbours: dict[str, tuple[str, ...]] = {}

    def request(self, client: str) -> DistanceDelivery:
        """Return the replies that this client's peers made to it."""
        boxes = tuple(
            Box(party=peer, ciphertext=self._boxes[peer][client].ciphertext)
            for peer in self.clients
            if peer != client
        )
        return DistanceDelivery(session=self.session, sender=SERVER, recipient=client, boxes=boxes)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one neighbour list: in clear, or in boxes of one length for every peer."""
        selection = expect(message, Selection, self.session, SERVER, self.name)
        if self.context.parameters.neighbour_visibility == "visible":
            self.neighbours[client] = self._open_clear(client, selection)
        else:
            peers = sorted(self._asked - {client})
            if selection.clear or [box.party for box in selection.boxes] != peers:
                raise MalformedMessage(client, self.name, "not one box of its list per peer")
            if len({len(box.ciphertext) for box in selection.boxes}) > 1:
                raise BadSelection(client, self.name, "boxes of differing lengths")
        self.selections[client] = selection

    def _open_clear(self, client: str, selection: Selection) -> tuple[str, ...]:
        if selection.boxes:
            raise MalformedMessage(client, self.name, "boxes although lists are visible")
        message = open_frame(selection.clear, self.context.roster, client, self.name)
        listing = expect(message, NeighbourList, self.session, SERVER, self.name)
        minimum = self.context.parameters.min_contributors - 1
        if not minimum <= len(listing.neighbours) <= self.context.parameters.num_neighbours:
            raise BadSelection(client, self.name, f"a list of {len(listing.neighbours)}")
        if client in listing.neighbours or not set(listing.neighbours) <= set(self.setup.adverts):
            raise BadSelection(client, self.name, "it lists itself or a stranger")
        return listing.neighbours

    def survivors(self) -> tuple[str, ...]:
        """Return who selected."""
        return tuple(sorted(self.selections))

    def finish(self) -> Phase:
        """Plan the sums next."""
        from protocols.server_sums import MaskedInputs

        self.enough(self.survivors())
        return MaskedInputs(self.setup, self.survivors(), self.selections, self.neighbours)


def fault_text(error: PeerError) -> str:
    """Return how a fault is told in a report: its class and its sentence."""
    return f"{type(error).__name__}: {error}"
