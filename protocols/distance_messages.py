"""The messages of encrypted distances and of the choice of neighbours, in both trust models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from protocols.identity import Name
from protocols.messages import (
    MAX_BOX_BYTES,
    Box,
    Digest,
    Message,
    Names,
    PublicKey,
    Wire,
)
from protocols.parameters import MAX_CLIENTS

MAX_DISTANCE_BYTES = 1 << 32
MAX_PAIRS = MAX_CLIENTS * (MAX_CLIENTS - 1) // 2
MAX_TABLE_BYTES = 1 << 29

Encrypted = Annotated[bytes, Field(max_length=MAX_DISTANCE_BYTES, repr=False)]
Frames = Annotated[
    tuple[Annotated[bytes, Field(max_length=MAX_DISTANCE_BYTES)], ...],
    Field(max_length=MAX_CLIENTS, repr=False),
]
Row = Annotated[bytes, Field(max_length=MAX_BOX_BYTES, repr=False)]
TableFrame = Annotated[bytes, Field(min_length=65, max_length=MAX_TABLE_BYTES, repr=False)]


class DistanceCall(Message):
    """Server: send the encrypted sketch."""

    kind: Literal["distance_call"] = "distance_call"


class DistanceUpload(Message):
    """Client: its public key and encrypted sketch, the same bytes for every peer."""

    bulky: ClassVar[bool] = True
    kind: Literal["distance_upload"] = "distance_upload"
    upload: Encrypted


class DistanceUploads(Message):
    """Server: the signed uploads of the recipient's peers."""

    bulky: ClassVar[bool] = True
    kind: Literal["distance_uploads"] = "distance_uploads"
    uploads: Frames


class DistanceReplies(Message):
    """Client: one encrypted distance for each peer that uploaded."""

    bulky: ClassVar[bool] = True
    kind: Literal["distance_replies"] = "distance_replies"
    boxes: Annotated[tuple[Box, ...], Field(max_length=MAX_CLIENTS)]


class DistanceDelivery(Message):
    """Server: the replies of its peers to this client."""

    bulky: ClassVar[bool] = True
    kind: Literal["distance_delivery"] = "distance_delivery"
    boxes: Annotated[tuple[Box, ...], Field(max_length=MAX_CLIENTS)]


class HolderKeys(Message):
    """Key holder: its fresh CKKS keys, and the X25519 key that rows are encrypted under."""

    bulky: ClassVar[bool] = True
    kind: Literal["holder_keys"] = "holder_keys"
    row_key: PublicKey
    keys: Encrypted


class BlindedCall(Message):
    """Server: blind the sketch and encrypt it under these keys.

    ``keys`` is the key holder's signed frame; ``dealt`` the share box of the client that deals the
    blinding secret, as that client made it for the recipient (empty for the dealer itself).
    """

    bulky: ClassVar[bool] = True
    kind: Literal["blinded_call"] = "blinded_call"
    keys: Encrypted
    dealt: Box


class BlindedUpload(Message):
    """Client: its blinded and encrypted sketch, and the hash of the blinding secret."""

    bulky: ClassVar[bool] = True
    kind: Literal["blinded_upload"] = "blinded_upload"
    upload: Encrypted
    blinding: Digest


class PairResult(Wire):
    """The hash of the server's encrypted distance of two clients, ``one`` before ``other``."""

    one: Name
    other: Name
    digest: Digest


class ReleaseRequest(Message):
    """Server: release the distances of these signed uploads; ``results`` has every pair.

    The holder evaluates the uploads itself, so that no ciphertext of the server's making has a
    place here; by the hashes it refuses where server and holder evaluate differently.
    """

    bulky: ClassVar[bool] = True
    kind: Literal["release_request"] = "release_request"
    uploads: Frames
    results: Annotated[tuple[PairResult, ...], Field(max_length=MAX_PAIRS, repr=False)]


class MeasuredUpload(Wire):
    """The hash of an upload frame that distances were computed from."""

    party: Name
    digest: Digest


class DistanceTable(Message):
    """Key holder: whose uploads were measured, and a commitment to each pair's distance.

    Pairs are in ascending order. One frame for all, so that all hold rows of one matrix.
    """

    bulky: ClassVar[bool] = True
    kind: Literal["distance_table"] = "distance_table"
    uploads: Annotated[tuple[MeasuredUpload, ...], Field(max_length=MAX_CLIENTS)]
    commitments: Annotated[tuple[Digest, ...], Field(max_length=MAX_PAIRS)]


class DistanceRelease(Message):
    """Key holder: the signed table, and each client's row, encrypted to it."""

    bulky: ClassVar[bool] = True
    kind: Literal["distance_release"] = "distance_release"
    table: TableFrame
    rows: Annotated[tuple[Box, ...], Field(max_length=MAX_CLIENTS)]


class RowDelivery(Message):
    """Server: the key holder's table and the recipient's row."""

    bulky: ClassVar[bool] = True
    kind: Literal["row_delivery"] = "row_delivery"
    table: TableFrame
    row: Row


class NeighbourList(Message):
    """Client: its selected neighbours and its scale (its smallest distance)."""

    kind: Literal["neighbour_list"] = "neighbour_list"
    neighbours: Annotated[Names, Field(repr=False)]
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False, repr=False)]


class Selection(Message):
    """Client: its signed neighbour list, encrypted to each peer.

    ``neighbours`` tells the server the list if it is visible (else it is empty); the scale, which
    is a distance, it never sees.
    """

    kind: Literal["selection"] = "selection"
    boxes: Annotated[tuple[Box, ...], Field(max_length=MAX_CLIENTS)]
    neighbours: Names
