"""The server's first phases: relay fresh keys, collect encrypted shares.

The server decides nothing that clients do not recompute; what it refuses here it refuses to keep
one faulty client from spoiling the round for the others.
"""

from __future__ import annotations

from collections import Counter

from protocols.client_setup import blinding_bytes, check_new_keys
from protocols.errors import AttemptAborted, MalformedMessage
from protocols.frame import expect, frame_hash
from protocols.graph import peers_of
from protocols.identity import KEY_HOLDER, SERVER
from protocols.messages import (
    Advertisement,
    AdvertisementDigest,
    Advertisements,
    AdvertiseRequest,
    EncryptedShares,
    Message,
)
from protocols.plan import session_id
from protocols.server_holder import BlindedUploading, HolderHeard, hear_holder, there
from protocols.server_masking import MaskedInputs
from protocols.server_phase import Phase, ServerContext, Setup, check_boxes
from protocols.server_select import DistanceUploading
from protocols.shares import SECRET_BYTES


class Advertise(Phase):
    """Collect signed fresh keys."""

    name, reply_kind = "advertise", "advertisement"

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context, context.parameters.cohort, context.parameters.digest())
        self.adverts: dict[str, Advertisement] = {}
        self.frames: dict[str, bytes] = {}
        self._keys: dict[bytes, str] = {}

    def request(self, client: str) -> AdvertiseRequest:
        """Return the call to begin."""
        return AdvertiseRequest(session=self.session, sender=SERVER, recipient=client)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one advertisement unless its keys are unusable or someone else's."""
        advert = expect(message, Advertisement, self.session, SERVER, self.name)
        check_new_keys(client, advert, self._keys, self.name)
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
    """Relay the advertisements, collect encrypted shares, and a key holder's keys."""

    name, reply_kind = "share", "encrypted_shares"

    def __init__(self, advertise: Advertise, next_session: bytes) -> None:
        super().__init__(advertise.context, advertise.survivors(), advertise.session)
        self.adverts, self.next_session = advertise.adverts, next_session
        self._frames = advertise.frames
        self._hashes = {name: frame_hash(frame) for name, frame in self._frames.items()}
        self.shares: dict[str, EncryptedShares] = {}
        self.holder: HolderHeard | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """All who advertised, and the key holder, if there is one."""
        holds = self.context.parameters.distances == "key_holder"
        return (*self.clients, KEY_HOLDER) if holds else self.clients

    def request(self, client: str) -> Advertisements:
        """Return the peers' advertisements, its own, and the hashes of all others."""
        everybody = client == KEY_HOLDER
        shown = set(self.clients) if everybody else {client, *self._peers(client)}
        return Advertisements(
            session=self.session,
            sender=SERVER,
            recipient=client,
            advertisements=tuple(self._frames[name] for name in sorted(shown)),
            others=tuple(
                AdvertisementDigest(party=name, digest=self._hashes[name])
                for name in self.clients
                if name not in shown
            ),
        )

    def due(self, client: str) -> str:
        """Return the kind of message that this party is to reply with."""
        return "holder_keys" if client == KEY_HOLDER else self.reply_kind

    def _peers(self, client: str) -> tuple[str, ...]:
        return peers_of(self.context.parameters, self.next_session, self.clients, client)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one client's shares if there is one box and one list per member."""
        if client == KEY_HOLDER:
            self.holder = hear_holder(self.context, self.next_session, message, frame)
            return
        dealt = expect(message, EncryptedShares, self.next_session, SERVER, self.name)
        specs = self.context.parameters.sums_of(client)
        peers = self._peers(client)
        if tuple(box.party for box in dealt.boxes) != peers:
            raise MalformedMessage(client, self.name, "not one box of shares per peer")
        if [item.party for item in dealt.commitments] != sorted({client, *peers}):
            raise MalformedMessage(client, self.name, "not one list of commitments per member")
        counts = {len(item.digests) for item in dealt.commitments}
        if counts != {1 + len(specs)} or len(dealt.seed_commitments) != len(specs):
            raise MalformedMessage(client, self.name, "not one commitment per secret")
        length = SECRET_BYTES * (1 + len(specs)) + blinding_bytes(self.context.parameters)
        check_boxes(client, self.name, dealt.boxes, length)
        self.shares[client] = dealt

    def survivors(self) -> tuple[str, ...]:
        """Return who shared, and the key holder if it was heard."""
        return (*sorted(self.shares), *((KEY_HOLDER,) if self.holder else ()))

    def finish(self) -> Phase:
        """Go on to the distances, or straight to the plan."""
        clients = self.enough(tuple(sorted(self.shares)))
        setup = Setup(self.context, self.next_session, self.adverts, self.shares)
        match self.context.parameters.distances:
            case "none":
                return MaskedInputs(setup, clients, {})
            case "peer":
                return DistanceUploading(setup, clients)
            case "key_holder":
                return BlindedUploading(setup, clients, there(self.holder, self.name))
