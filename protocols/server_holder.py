"""The server's middle phases under key-holder trust: it computes on what it cannot read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocols.distance_lengths import distance_upload_bytes, holder_keys_bytes, measured_length
from protocols.distance_messages import (
    BlindedCall,
    BlindedUpload,
    DistanceRelease,
    DistanceTable,
    HolderKeys,
    PairResult,
    ReleaseRequest,
    RowDelivery,
)
from protocols.distance_table import Pair, num_pairs, row_bytes
from protocols.errors import AttemptAborted, BadDistance, MalformedMessage
from protocols.frame import expect, frame_hash, open_frame
from protocols.identity import KEY_HOLDER, SERVER
from protocols.messages import Box, Message
from protocols.server_phase import Phase, ServerContext, Setup, check_boxes
from protocols.server_select import Select

if TYPE_CHECKING:
    from protocols.key_holder import DistanceServer


@dataclass(frozen=True)
class HolderHeard:
    """The key holder's signed keys, and what computes under them."""

    frame: bytes = field(repr=False)
    distances: DistanceServer


def hear_holder(
    context: ServerContext, session: bytes, message: Message, frame: bytes
) -> HolderHeard:
    """Return the key holder's keys, loaded.

    Raises:
        PeerError: keys of another session or length, or not canonical.
    """
    from protocols.key_holder import DistanceServer

    phase, parameters = "share", context.parameters
    keys = expect(message, HolderKeys, session, SERVER, phase)
    if len(keys.keys) != holder_keys_bytes(parameters):
        raise BadDistance(KEY_HOLDER, phase, f"keys of {len(keys.keys)} bytes")
    name, length = parameters.distance_parameter_set, measured_length(parameters)
    server = DistanceServer(name, length, keys.keys, context.pair_workers)
    return HolderHeard(frame, server)


def there(heard: HolderHeard | None, phase: str) -> HolderHeard:
    """Return the key holder's keys.

    Raises:
        AttemptAborted: it did not answer, or not with usable keys.
    """
    if heard is None:
        raise AttemptAborted(f"{phase}: the key holder is missing, without which no distance opens")
    return heard


class BlindedUploading(Phase):
    """Relay the holder's keys and one client's blinding secret, collect the blinded sketches."""

    name, reply_kind = "distance_upload", "blinded_upload"

    def __init__(self, setup: Setup, clients: tuple[str, ...], holder: HolderHeard) -> None:
        super().__init__(setup.context, clients, setup.session)
        self.setup, self._holder = setup, holder
        # Another dealer in every attempt: one that deals unequal secrets stops one attempt only.
        self.dealer = clients[setup.context.parameters.attempt % len(clients)]
        self._dealt = {box.party: box for box in setup.shares[self.dealer].boxes}
        self._frames: dict[str, bytes] = {}
        self._uploads: dict[str, BlindedUpload] = {}
        self._seen: set[bytes] = set()

    def request(self, client: str) -> BlindedCall:
        """Return the holder's keys and the dealer's share box for this client."""
        ciphertext = b"" if client == self.dealer else self._dealt[client].ciphertext
        return BlindedCall(
            session=self.session,
            sender=SERVER,
            recipient=client,
            keys=self._holder.frame,
            dealt=Box(party=self.dealer, ciphertext=ciphertext),
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep a signed upload that can be evaluated."""
        upload = expect(message, BlindedUpload, self.session, SERVER, self.name)
        if len(upload.upload) != distance_upload_bytes(self.context.parameters):
            raise BadDistance(client, self.name, f"an upload of {len(upload.upload)} bytes")
        if upload.upload in self._seen:
            raise BadDistance(client, self.name, "the upload of another client")
        self._holder.distances.check(upload.upload, client)
        self._seen.add(upload.upload)
        self._frames[client], self._uploads[client] = frame, upload

    def survivors(self) -> tuple[str, ...]:
        """Return who uploaded, blinded as most did."""
        told = Counter(upload.blinding for upload in self._uploads.values())
        common = told.most_common(1)[0][0] if told else b""
        return tuple(sorted(n for n, u in self._uploads.items() if u.blinding == common))

    def finish(self) -> Phase:
        """Compute every pair's encrypted distance, and ask the holder for their release next."""
        clients = self.survivors()
        for odd in sorted(set(self._uploads) - set(clients)):
            self.faults[odd] = (
                f"BadDistance: {self.name}: {odd}: blinded otherwise than most, or {self.dealer} "
                "dealt it another secret"
            )
        self.enough(clients)
        uploads = {name: self._uploads[name].upload for name in clients}
        digests = self._holder.distances.digests(uploads)
        frames = {name: self._frames[name] for name in clients}
        return Releasing(self.setup, frames, digests)


class Releasing(Phase):
    """Have the key holder release the distances, to each client its own row."""

    name, reply_kind = "distance_release", "distance_release"

    def __init__(
        self,
        setup: Setup,
        uploads: Mapping[str, bytes],
        digests: Mapping[Pair, bytes],
    ) -> None:
        super().__init__(setup.context, tuple(sorted(uploads)), setup.session)
        self.setup, self._uploads, self._digests = setup, uploads, digests
        self._release: DistanceRelease | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The key holder alone."""
        return (KEY_HOLDER,)

    def request(self, client: str) -> ReleaseRequest:
        """Return the signed uploads, and the hash of each encrypted distance computed from them."""
        return ReleaseRequest(
            session=self.session,
            sender=SERVER,
            recipient=client,
            uploads=tuple(self._uploads[name] for name in self.clients),
            results=tuple(
                PairResult(one=one, other=other, digest=digest)
                for (one, other), digest in sorted(self._digests.items())
            ),
        )

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep the release if it is of just these uploads, with a row for each client."""
        release = expect(message, DistanceRelease, self.session, SERVER, self.name)
        opened = open_frame(release.table, self.context.roster, KEY_HOLDER, self.name)
        table = expect(opened, DistanceTable, self.session, SERVER, self.name)
        measured = {item.party: item.digest for item in table.uploads}
        if measured != {name: frame_hash(upload) for name, upload in self._uploads.items()}:
            raise BadDistance(KEY_HOLDER, self.name, "distances of other uploads")
        if len(table.commitments) != num_pairs(len(self.clients)):
            raise MalformedMessage(KEY_HOLDER, self.name, "not one commitment per pair")
        if tuple(box.party for box in release.rows) != self.clients:
            raise MalformedMessage(KEY_HOLDER, self.name, "not one row per client")
        check_boxes(KEY_HOLDER, self.name, release.rows, row_bytes(len(self.clients)))
        self._release = release

    def survivors(self) -> tuple[str, ...]:
        """Return the key holder, if it released."""
        return () if self._release is None else (KEY_HOLDER,)

    def finish(self) -> Phase:
        """Deliver the rows next."""
        if self._release is None:
            raise AttemptAborted(f"{self.name}: the key holder released no distances")
        return SelectByRows(self.setup, self._release)


class SelectByRows(Select):
    """Key-holder trust: a client's distances are its row of the holder's table."""

    def __init__(self, setup: Setup, release: DistanceRelease) -> None:
        clients = tuple(box.party for box in release.rows)
        super().__init__(setup, clients, clients)
        self._table = release.table
        self._rows = {box.party: box.ciphertext for box in release.rows}

    def request(self, client: str) -> RowDelivery:
        """Return the table and this client's row."""
        return RowDelivery(
            session=self.session,
            sender=SERVER,
            recipient=client,
            table=self._table,
            row=self._rows[client],
        )
