"""The server's middle phases under peer trust, and the neighbour lists in both trust models."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from protocols.distance_lengths import (
    distance_reply_bytes,
    distance_upload_bytes,
    measured_length,
    padded_list_bytes,
)
from protocols.distance_messages import (
    DistanceCall,
    DistanceDelivery,
    DistanceReplies,
    DistanceUpload,
    DistanceUploads,
    Selection,
)
from protocols.errors import BadDistance, BadSelection, MalformedMessage
from protocols.frame import expect
from protocols.identity import SERVER
from protocols.messages import Box, Message
from protocols.server_masking import MaskedInputs
from protocols.server_phase import Phase, Setup, check_boxes


class DistanceUploading(Phase):
    """Collect the encrypted sketches."""

    name, reply_kind = "distance_upload", "distance_upload"

    def __init__(self, setup: Setup, clients: tuple[str, ...]) -> None:
        super().__init__(setup.context, clients, setup.session)
        self.setup = setup
        self.frames: dict[str, bytes] = {}
        self._seen: set[bytes] = set()

    def request(self, client: str) -> DistanceCall:
        """Return the call for the encrypted sketch."""
        return DistanceCall(session=self.session, sender=SERVER, recipient=client)

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep the signed upload if peers can answer it; none of its ciphertexts is loaded."""
        from protocols.distances import check_upload

        parameters = self.context.parameters
        upload = expect(message, DistanceUpload, self.session, SERVER, self.name)
        if len(upload.upload) != distance_upload_bytes(parameters):
            raise BadDistance(client, self.name, f"an upload of {len(upload.upload)} bytes")
        name, length = parameters.distance_parameter_set, measured_length(parameters)
        check_upload(upload.upload, name, length, client)
        if upload.upload in self._seen:
            raise BadDistance(client, self.name, "the upload of another client")
        self._seen.add(upload.upload)
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
        length = distance_reply_bytes(self.context.parameters)
        check_boxes(client, self.name, replies.boxes, length)
        self.boxes[client] = {box.party: box for box in replies.boxes}

    def survivors(self) -> tuple[str, ...]:
        """Return who replied."""
        return tuple(sorted(self.boxes))

    def finish(self) -> Phase:
        """Deliver the replies next."""
        self.enough(self.survivors())
        return SelectByReplies(self.setup, self.boxes)


class Select(Phase):
    """Tell each client its distances, collect the neighbour lists.

    ``measured`` are those whose uploads all clients know of: each list goes to all of them.
    """

    name, reply_kind = "select", "selection"

    def __init__(self, setup: Setup, clients: tuple[str, ...], measured: Collection[str]) -> None:
        super().__init__(setup.context, clients, setup.session)
        self.setup = setup
        self._measured = frozenset(measured)
        self.selections: dict[str, Selection] = {}
        self.neighbours: dict[str, tuple[str, ...]] = {}

    def take(self, client: str, message: Message, frame: bytes) -> None:
        """Keep one neighbour list: boxes of one length for every peer, and names if visible."""
        selection = expect(message, Selection, self.session, SERVER, self.name)
        if [box.party for box in selection.boxes] != sorted(self._measured - {client}):
            raise MalformedMessage(client, self.name, "not one box of its list per peer")
        length = padded_list_bytes(self.context.parameters.most_neighbours)
        check_boxes(client, self.name, selection.boxes, length)
        if self.context.parameters.neighbour_visibility == "visible":
            self._check_names(client, selection.neighbours)
            self.neighbours[client] = selection.neighbours
        elif selection.neighbours:
            raise BadSelection(client, self.name, "names although lists are hidden")
        self.selections[client] = selection

    def _check_names(self, client: str, names: tuple[str, ...]) -> None:
        """Refuse names that the peers would refuse too, before they cost a plan."""
        parameters = self.context.parameters
        if not parameters.min_contributors - 1 <= len(names) <= parameters.most_neighbours:
            raise BadSelection(client, self.name, f"a list of {len(names)}")
        if client in names or not set(names) <= set(self.setup.adverts):
            raise BadSelection(client, self.name, "it lists itself or a stranger")

    def survivors(self) -> tuple[str, ...]:
        """Return who selected."""
        return tuple(sorted(self.selections))

    def finish(self) -> Phase:
        """Plan the sums next."""
        self.enough(self.survivors())
        return MaskedInputs(self.setup, self.survivors(), self.selections, self.neighbours)


class SelectByReplies(Select):
    """Peer trust: a client's distances are the replies that its peers made to it."""

    def __init__(self, setup: Setup, boxes: Mapping[str, Mapping[str, Box]]) -> None:
        measured = {peer for replies in boxes.values() for peer in replies} | set(boxes)
        super().__init__(setup, tuple(sorted(boxes)), measured)
        self._boxes = boxes

    def request(self, client: str) -> DistanceDelivery:
        """Return the replies that this client's peers made to it."""
        boxes = tuple(
            Box(party=peer, ciphertext=self._boxes[peer][client].ciphertext)
            for peer in self.clients
            if peer != client
        )
        return DistanceDelivery(session=self.session, sender=SERVER, recipient=client, boxes=boxes)
