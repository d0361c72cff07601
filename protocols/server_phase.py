"""What all phases of the server have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from protocols.errors import AttemptAborted, MalformedMessage
from protocols.graph import peers_of
from protocols.identity import Identity, Roster
from protocols.keys import TAG_BYTES
from protocols.messages import Advertisement, Box, EncryptedShares, Message
from protocols.pair_jobs import PairWorkers
from protocols.parameters import AggregationParameters
from protocols.storage import Allocate


@dataclass(frozen=True)
class ServerContext:
    """What does not change during an attempt.

    At most ``uploads_at_once`` clients are in the middle of an upload that goes in parts.
    """

    parameters: AggregationParameters
    identity: Identity = field(repr=False)
    roster: Roster
    allocate: Allocate
    pair_workers: PairWorkers | None = None
    uploads_at_once: int | None = None


class Phase(ABC):
    """One exchange with the clients that are still there, or with the key holder.

    ``faults`` is for what shows only when all replies are in: {party: what was wrong}. A phase in
    which long vectors go in parts is an exchange for each of them, numbered by ``part``.
    """

    name: ClassVar[str]
    reply_kind: ClassVar[str]

    def __init__(self, context: ServerContext, clients: tuple[str, ...], session: bytes) -> None:
        self.context = context
        self.clients = clients
        self.session = session
        self.faults: dict[str, str] = {}
        self.part = 0

    @property
    def asked(self) -> tuple[str, ...]:
        """Who gets a request: the clients, where no phase says otherwise."""
        return self.clients

    @abstractmethod
    def request(self, client: str) -> Message:
        """Return the request for one client."""

    def due(self, _client: str) -> str:
        """Return the kind of message that this party is to reply with."""
        return self.reply_kind

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
        """Return the next phase, itself for another part, or None after the last.

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


def check_boxes(client: str, phase: str, boxes: Iterable[Box], content_bytes: int) -> None:
    """Refuse a client's boxes unless each is as long as encrypted contents of this length.

    Raises:
        MalformedMessage: a box that every peer would have to refuse.
    """
    for box in boxes:
        if len(box.ciphertext) != content_bytes + TAG_BYTES:
            raise MalformedMessage(client, phase, f"a box of {len(box.ciphertext)} bytes")


@dataclass(frozen=True)
class Setup:
    """The agreed session: advertisements and encrypted shares by client."""

    context: ServerContext
    session: bytes
    adverts: Mapping[str, Advertisement]
    shares: Mapping[str, EncryptedShares]

    def peers(self, client: str) -> tuple[str, ...]:
        """Return a client's peers in the sharing graph over all who advertised."""
        return peers_of(self.context.parameters, self.session, self._members, client)

    @cached_property
    def _members(self) -> tuple[str, ...]:
        return tuple(sorted(self.adverts))
