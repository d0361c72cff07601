"""Messages of the federation around the aggregation: training, scoring, the clear exchange.

The secure aggregation's own messages live in ``protocols.messages``. All of them are frozen,
strict pydantic models, and cross between parties as frames: a 64-byte Ed25519 signature, then
the deterministic CBOR of the message.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from protocols.codec import CodecError, decode, encode
from protocols.errors import BadSignature
from protocols.identity import SIGNATURE_BYTES, Identity, Name, Roster, sha256

MAX_VECTOR_BYTES = 1 << 31

Means = dict[Name, Annotated[bytes, Field(max_length=MAX_VECTOR_BYTES)] | None]


class FederationMessage(BaseModel):
    """The header of every message: protocol version, run, place in the run, and the two ends."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    version: Literal[1] = 1
    run_id: Name
    round: int = Field(ge=0, lt=1 << 31)
    stage: int = Field(ge=0, le=2)
    sender: Name
    recipient: Name


class CatchUp(BaseModel):
    """The means of one aggregation, for a client that was not there to accept them.

    They are no secret: everybody who was there has them, and compares them in the next
    aggregation. ``session`` is the 32-byte id of the session they come from.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    round: int = Field(ge=0, lt=1 << 31)
    stage: int = Field(ge=0, le=2)
    session: Annotated[bytes, Field(min_length=32, max_length=32)]
    means: Means


Missed = Annotated[tuple[CatchUp, ...], Field(max_length=4096)]
"""Every aggregation that a client has not confirmed, oldest first."""


class TrainRequest(FederationMessage):
    """The server asks a client to train one stage, and says with whom it will aggregate."""

    kind: Literal["train"] = "train"
    cohort: tuple[Name, ...] = Field(min_length=1, max_length=4096)
    catch_up: Missed = ()


class EvaluateRequest(FederationMessage):
    """The server asks a client to score its model; the score stays with the client.

    A client takes home first every aggregation that it has not confirmed.
    """

    kind: Literal["evaluate"] = "evaluate"
    point: Literal["before", "after_local", "after_aggregation"]
    catch_up: Missed = ()


class Convene(FederationMessage):
    """The server tells the key holder whose distances an attempt will ask for."""

    kind: Literal["convene"] = "convene"
    attempt: int = Field(ge=0, lt=1 << 16)
    cohort: tuple[Name, ...] = Field(min_length=1, max_length=4096)


class Enrol(FederationMessage):
    """The server calls the parties together, who live where it does not; to all of them alike.

    ``agreed`` is the hash of configuration, roster and terms, which each party has of its own.
    """

    kind: Literal["enrol"] = "enrol"
    agreed: Annotated[bytes, Field(min_length=32, max_length=32)]


class Done(FederationMessage):
    """A party has done what it was asked for."""

    kind: Literal["done"] = "done"


class Refusal(FederationMessage):
    """A party takes no further part in this attempt, and says why in one sentence."""

    kind: Literal["refusal"] = "refusal"
    reason: str = Field(max_length=1000)


class ClearCall(FederationMessage):
    """The server asks for an update in the clear (no secure aggregation)."""

    kind: Literal["clear_call"] = "clear_call"


class ClearUpdate(FederationMessage):
    """A client's update in the clear: little-endian float32 vectors and its sample count."""

    kind: Literal["clear_update"] = "clear_update"
    num_samples: int = Field(ge=1)
    vectors: dict[Name, Annotated[bytes, Field(max_length=MAX_VECTOR_BYTES)]]


class ClearSum(BaseModel):
    """One client's personal sum in the clear; the fields are those of ``protocols.SealedSum``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    vector_sum: Annotated[bytes, Field(max_length=MAX_VECTOR_BYTES)]
    sum_nu: float
    sum_u: float
    sum_n: int
    num_contributors: int


class ClearDelivery(FederationMessage):
    """What the server computed for one client from the clear updates.

    ``means`` maps a sum to its mean, or to None where too few contributed; ``row``, ``neighbours``
    and ``weights`` are the recipient's distances, its neighbours and the weights of its own
    adapter in the others' sums.
    """

    kind: Literal["clear_delivery"] = "clear_delivery"
    means: Means
    personal: ClearSum | None
    row: dict[Name, float]
    neighbours: tuple[Name, ...]
    weights: dict[Name, float]


AnyFederationMessage = Annotated[
    TrainRequest
    | EvaluateRequest
    | Convene
    | Enrol
    | Done
    | Refusal
    | ClearCall
    | ClearUpdate
    | ClearDelivery,
    Field(discriminator="kind"),
]
ADAPTER: TypeAdapter[AnyFederationMessage] = TypeAdapter(AnyFederationMessage)


LABEL = b"pilot-secure federation frame\x01"


class FederationMessageError(ValueError):
    """A frame that is not a message of the federation from the party it should be from."""


def seal(message: FederationMessage, identity: Identity) -> bytes:
    """Return the signed frame of a message."""
    body = encode(message.model_dump())
    return identity.sign(LABEL + sha256(body)) + body


def open_frame(frame: bytes, roster: Roster, sender: str, run_id: str) -> AnyFederationMessage:
    """Return the message of a frame that ``sender`` signed for this run.

    Raises: FederationMessageError naming the sender: signature, encoding, schema, sender or run.
    """
    body = frame[SIGNATURE_BYTES:]
    try:
        roster.verify(sender, frame[:SIGNATURE_BYTES], LABEL + sha256(body), "federation")
        message = ADAPTER.validate_python(decode(body))
    except (BadSignature, CodecError, ValidationError) as error:
        raise FederationMessageError(f"{sender}: {str(error).splitlines()[0]}") from None
    if (message.sender, message.run_id) != (sender, run_id):
        raise FederationMessageError(
            f"{sender}: a message of {message.sender} in run {message.run_id}: expected {sender} "
            f"in run {run_id}"
        )
    return message


def run_of(frame: bytes) -> str:
    """Return the run that a frame says it belongs to, which nobody has verified yet.

    Raises: FederationMessageError if it says nothing of the kind.
    """
    try:
        return str(ADAPTER.validate_python(decode(frame[SIGNATURE_BYTES:])).run_id)
    except (CodecError, ValidationError) as error:
        raise FederationMessageError(f"a frame of no run: {str(error).splitlines()[0]}") from None


def vector_bytes(vector: np.ndarray) -> bytes:
    """Encode a vector as little-endian float32."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def vector_from_bytes(data: bytes) -> np.ndarray:
    """Decode little-endian float32; shape ``[len / 4]``."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def means_from_wire(means: Means) -> dict[str, np.ndarray | None]:
    """Decode means by sum id."""
    return {k: None if v is None else vector_from_bytes(v) for k, v in means.items()}
