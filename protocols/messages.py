"""The messages of the masked sums: frozen, strict models, told apart by ``kind``.

Every message names its protocol version, session, sender and recipient. Before the session id
exists (advertising), ``session`` is the digest of the parameters. Lists of parties are in
ascending order without repetition, so that one set has one encoding. Messages of the distances
are in :mod:`protocols.distance_messages`, all kinds together in :mod:`protocols.any_message`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from protocols.identity import Name
from protocols.parameters import MAX_CLIENTS, MAX_PARTS

MAX_SUMS = 2 * MAX_CLIENTS
MAX_FRAME = 4096
MAX_VECTOR_BYTES = 1 << 33
MAX_BOX_BYTES = 1 << 24
NUM_SCALARS = 3


def _ascending(names: tuple[str, ...]) -> tuple[str, ...]:
    if any(a >= b for a, b in zip(names, names[1:], strict=False)):
        raise ValueError("names must be in ascending order, each once")
    return names


Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, Field(min_length=32, max_length=32)]
Share = Annotated[bytes, Field(min_length=32, max_length=32, repr=False)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
SmallFrame = Annotated[bytes, Field(min_length=65, max_length=MAX_FRAME)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_CLIENTS), AfterValidator(_ascending)]
Scalar = Annotated[bytes, Field(min_length=8, max_length=8)]
Scalars = Annotated[tuple[Scalar, ...], Field(min_length=NUM_SCALARS, max_length=NUM_SCALARS)]
Packed = Annotated[bytes, Field(max_length=MAX_VECTOR_BYTES, repr=False)]
PartNumber = Annotated[int, Field(ge=0, lt=MAX_PARTS)]


class Wire(BaseModel):
    """What every model on the wire has in common."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Message(Wire):
    """The header of every message; each kind narrows ``kind`` to its own name.

    ``bulky`` messages hold vectors, which are hashed and sent without copying them once more.
    """

    bulky: ClassVar[bool] = False
    kind: str
    version: Literal[1] = 1
    session: Digest
    sender: Name
    recipient: Name


class Box(Wire):
    """A ciphertext for or from ``party``. Secrecy: the two ends of the channel."""

    party: Name
    ciphertext: Annotated[bytes, Field(max_length=MAX_BOX_BYTES, repr=False)]


class ShareCommitments(Wire):
    """Commitments to the shares that ``party`` holds: the mask key's, then one per sum's seed."""

    party: Name
    digests: Annotated[tuple[Digest, ...], Field(max_length=MAX_SUMS + 1)]


class AdvertiseRequest(Message):
    """Server: begin this attempt."""

    kind: Literal["advertise_request"] = "advertise_request"


class Advertisement(Message):
    """Client: three fresh X25519 keys, and the hash of the last results it accepted."""

    kind: Literal["advertisement"] = "advertisement"
    share_key: PublicKey
    mask_key: PublicKey
    recipient_key: PublicKey
    previous_results: Digest


class AdvertisementDigest(Wire):
    """The hash of a member's signed advertisement that is not sent along."""

    party: Name
    digest: Digest


class Advertisements(Message):
    """Server: the signed advertisements of the recipient's peers and its own.

    With a regular graph, ``others`` has the hash of everybody else's, so that all agree on the
    session; with the complete graph it is empty.
    """

    kind: Literal["advertisements"] = "advertisements"
    advertisements: Annotated[tuple[SmallFrame, ...], Field(max_length=MAX_CLIENTS)]
    others: Annotated[tuple[AdvertisementDigest, ...], Field(max_length=MAX_CLIENTS)]


class EncryptedShares(Message):
    """Client: its shares for each peer, with commitments to every share and seed."""

    kind: Literal["encrypted_shares"] = "encrypted_shares"
    boxes: Annotated[tuple[Box, ...], Field(max_length=MAX_CLIENTS)]
    commitments: Annotated[tuple[ShareCommitments, ...], Field(max_length=MAX_CLIENTS)]
    seed_commitments: Annotated[tuple[Digest, ...], Field(max_length=MAX_SUMS)]


class PlannedSum(Wire):
    """One sum of the plan: who contributes, and for whom."""

    id: Name
    recipient: Name
    contributors: Names


class SharesFrom(Wire):
    """The shares that ``party`` made for the recipient, with the commitments to them."""

    party: Name
    ciphertext: Annotated[bytes, Field(max_length=MAX_BOX_BYTES, repr=False)]
    digests: Annotated[tuple[Digest, ...], Field(max_length=MAX_SUMS + 1)]


class Plan(Message):
    """Server: who takes part from here on, the sums, and the peers' shares and selections."""

    kind: Literal["plan"] = "plan"
    participants: Names
    sums: Annotated[tuple[PlannedSum, ...], Field(max_length=MAX_SUMS)]
    shares: Annotated[tuple[SharesFrom, ...], Field(max_length=MAX_CLIENTS)]
    selections: Annotated[tuple[Box, ...], Field(max_length=MAX_CLIENTS)]


class VectorSpan(Wire):
    """The packed words of some coordinates of one sum's vector, those that are due in a part."""

    sum_id: Name
    packed: Packed


class MaskedPart(Message):
    """Client: a part of an upload that is too long for one frame, and not its last."""

    bulky: ClassVar[bool] = True
    kind: Literal["masked_part"] = "masked_part"
    part: PartNumber
    spans: Annotated[tuple[VectorSpan, ...], Field(max_length=MAX_SUMS)]


class PartRequest(Message):
    """Server: the part of the upload with this number, counted from 0."""

    kind: Literal["part_request"] = "part_request"
    part: PartNumber


class MaskedVector(Wire):
    """One client's masked term of one sum: its last span, and its scalars."""

    sum_id: Name
    packed: Packed
    scalars: Scalars


class MaskedInput(Message):
    """Client: all its terms of all its sums, or the last part of them.

    ``parts`` are the hashes of the frames of the earlier parts, in order: this frame's hash is that
    of the whole upload.
    """

    bulky: ClassVar[bool] = True
    kind: Literal["masked_input"] = "masked_input"
    inputs: Annotated[tuple[MaskedVector, ...], Field(max_length=MAX_SUMS)]
    parts: Annotated[tuple[Digest, ...], Field(max_length=MAX_PARTS)]


class SurvivorSet(Message):
    """Server: whose uploads came, with the hash of each upload."""

    kind: Literal["survivor_set"] = "survivor_set"
    survivors: Names
    upload_hashes: Annotated[tuple[Digest, ...], Field(max_length=MAX_CLIENTS)]


class Consistency(Message):
    """Client: its signature of the statement on plan, neighbour lists, survivors and uploads.

    ``lists`` is the hash of the neighbour lists it saw; the rest of the statement is public.
    """

    kind: Literal["consistency"] = "consistency"
    lists: Digest
    signature: Signature


class SignedBy(Wire):
    """One party's consistency signature."""

    party: Name
    signature: Signature


class UnmaskRequest(Message):
    """Server: reveal seed shares of the survivors and mask-key shares of the drop-outs."""

    kind: Literal["unmask_request"] = "unmask_request"
    survivors: Names
    dropouts: Names
    signatures: Annotated[tuple[SignedBy, ...], Field(max_length=MAX_CLIENTS)]


class SeedShare(Wire):
    """A share of ``owner``'s self-mask seed for one sum."""

    owner: Name
    sum_id: Name
    share: Share


class KeyShare(Wire):
    """A share of a drop-out's mask key."""

    owner: Name
    share: Share


class UnmaskShares(Message):
    """Client: the shares it may reveal."""

    kind: Literal["unmask_shares"] = "unmask_shares"
    seed_shares: Annotated[tuple[SeedShare, ...], Field(max_length=1 << 22, repr=False)]
    key_shares: Annotated[tuple[KeyShare, ...], Field(max_length=MAX_CLIENTS, repr=False)]


class DeliveryPart(Message):
    """Server: a part of a delivery that is too long for one frame, and not its last."""

    bulky: ClassVar[bool] = True
    kind: Literal["delivery_part"] = "delivery_part"
    part: PartNumber
    spans: Annotated[tuple[VectorSpan, ...], Field(max_length=MAX_SUMS)]


class PartTaken(Message):
    """Client: the part of the delivery with this number has come, the next one may."""

    kind: Literal["part_taken"] = "part_taken"
    part: PartNumber


class OpenedSum(Wire):
    """A sum without self and pairwise masks; a sealed one still wears its recipient masks.

    ``packed`` is its last span where earlier ones came in parts.
    """

    sum_id: Name
    packed: Packed
    scalars: Scalars


class Delivery(Message):
    """Server: the sums opened for all and the recipient's own sealed sum, or the last part."""

    bulky: ClassVar[bool] = True
    kind: Literal["delivery"] = "delivery"
    opened: Annotated[tuple[OpenedSum, ...], Field(max_length=MAX_SUMS)]
    sealed: OpenedSum | None


class Receipt(Message):
    """Client: the running hash of every frame it sent and received in this attempt."""

    kind: Literal["receipt"] = "receipt"
    transcript: Digest


def scalars_to_wire(scalars: Sequence[int]) -> tuple[bytes, ...]:
    """Return 64-bit ring elements as little-endian bytes."""
    return tuple(value.to_bytes(8, "little") for value in scalars)


def scalars_from_wire(scalars: Sequence[bytes]) -> tuple[int, ...]:
    """Return the 64-bit ring elements of their bytes."""
    return tuple(int.from_bytes(value, "little") for value in scalars)
