"""All kinds of messages together: what a frame may hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from protocols.distance_messages import (
    BlindedCall,
    BlindedUpload,
    DistanceCall,
    DistanceDelivery,
    DistanceRelease,
    DistanceReplies,
    DistanceTable,
    DistanceUpload,
    DistanceUploads,
    HolderKeys,
    NeighbourList,
    ReleaseRequest,
    RowDelivery,
    Selection,
)
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
    PartRequest,
    PartTaken,
    Plan,
    Receipt,
    SurvivorSet,
    UnmaskRequest,
    UnmaskShares,
)

Kinds = (
    AdvertiseRequest
    | Advertisement
    | Advertisements
    | EncryptedShares
    | HolderKeys
    | DistanceCall
    | DistanceUpload
    | DistanceUploads
    | DistanceReplies
    | DistanceDelivery
    | BlindedCall
    | BlindedUpload
    | ReleaseRequest
    | DistanceTable
    | DistanceRelease
    | RowDelivery
    | NeighbourList
    | Selection
    | Plan
    | MaskedPart
    | PartRequest
    | MaskedInput
    | SurvivorSet
    | Consistency
    | UnmaskRequest
    | UnmaskShares
    | DeliveryPart
    | PartTaken
    | Delivery
    | Receipt
)
"""In the order in which they are first sent."""

AnyMessage = Annotated[Kinds, Field(discriminator="kind")]
ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)
