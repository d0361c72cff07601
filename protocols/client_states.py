"""What a client holds in each state: just the secrets that the next phases need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.entropy import Entropy
from protocols.identity import Identity, Roster
from protocols.keys import Channel, EphemeralKeys, KeyPair
from protocols.masks import MaskKey
from protocols.messages import Advertisement, PlannedSum
from protocols.parameters import AggregationParameters
from protocols.parts import Part
from protocols.ring import FixedPoint
from protocols.selection import Chosen


class AnswerGuard(Protocol):
    """A party's memory of what it joined, answered or released. It outlives the process.

    Under one label (see ``AggregationParameters``) one content is claimed for good: two openings
    over the same updates, or over overlapping cohorts, would difference out a client.
    """

    def claim(self, label: str, content: bytes) -> bool:
        """Atomically persist ``content`` under a free label; return whether it is what is there.

        It must be on the disk when this returns. What cannot be read counts as another content.
        """

    def claimed(self, label: str) -> bool:
        """Return whether anything was ever claimed under ``label``."""


class MemoryGuard:
    """A guard for tests and benchmarks: it forgets when the process ends."""

    def __init__(self) -> None:
        self._claims: dict[str, bytes] = {}

    def claim(self, label: str, content: bytes) -> bool:
        """Keep ``content`` if the label is free; return whether it is what is there."""
        return self._claims.setdefault(label, content) == content

    def claimed(self, label: str) -> bool:
        """Return whether anything was claimed under ``label``."""
        return label in self._claims


@dataclass(frozen=True)
class ClientInputs:
    """A client's own data. Secrecy: this client.

    ``vectors`` maps a vector's name to its named float32 tensors, in the order in which they are
    laid out; ``num_samples`` is its weight n_k; ``previous_results`` the hash that the previous
    aggregation's result gave (zeros in the first).
    """

    vectors: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(repr=False)
    num_samples: int = field(repr=False)
    previous_results: bytes = bytes(32)


MAX_ANSWERS = 2


@dataclass(frozen=True)
class Context:
    """What does not change during an attempt.

    ``max_answers`` bounds how often distance queries about the same updates are answered.
    """

    parameters: AggregationParameters
    identity: Identity
    roster: Roster
    inputs: ClientInputs = field(repr=False)
    entropy: Entropy
    guard: AnswerGuard
    max_answers: int = MAX_ANSWERS

    @property
    def name(self) -> str:
        """This client's name."""
        return self.identity.name


@dataclass(frozen=True)
class Idle:
    """Nothing has happened."""

    label = "idle"


@dataclass(frozen=True)
class Advertised:
    """Fresh keys are made and announced."""

    keys: EphemeralKeys
    frame: bytes = field(repr=False)
    label = "advertised"


@dataclass(frozen=True)
class Session:
    """The agreed members and this client's secrets.

    ``adverts`` holds the keys of this client and of its peers in the sharing graph (everybody's
    when it is complete); ``seeds`` maps sum ids to self-mask seeds; ``blinding`` is the secret that
    this client deals under key-holder trust.
    """

    id: bytes
    members: tuple[str, ...]
    adverts: Mapping[str, Advertisement] = field(repr=False)
    keys: EphemeralKeys
    seeds: Mapping[str, bytes] = field(repr=False)
    own_shares: tuple[bytes, ...] = field(repr=False)
    blinding: bytes = field(default=b"", repr=False)

    _secrets: dict[tuple[str, str], bytes] = field(default_factory=dict, repr=False)

    def _secret(self, usage: str, pair: KeyPair, peer: str, public_key: bytes) -> bytes:
        if (usage, peer) not in self._secrets:
            self._secrets[usage, peer] = pair.exchange(public_key)
        return self._secrets[usage, peer]

    def channel(self, peer: str) -> Channel:
        """Return the encrypted channel with another member."""
        key = self.adverts[peer].share_key
        return Channel(self._secret("share", self.keys.share, peer, key), self.id)

    def mask_secret(self, peer: str) -> bytes:
        """Return the X25519 secret of the pairwise masks with another member."""
        return self._secret("mask", self.keys.mask, peer, self.adverts[peer].mask_key)

    def recipient_secret(self, peer: str) -> bytes:
        """Return the X25519 secret of the recipient masks with another member."""
        key = self.adverts[peer].recipient_key
        return self._secret("recipient", self.keys.recipient, peer, key)


@dataclass(frozen=True)
class Shared:
    """Shares are out; without distances the plan comes next."""

    session: Session
    label = "shared"


class DistanceMachine(Protocol):
    """What the aggregation needs of a client's side of the encrypted distances."""

    def upload(self) -> bytes:
        """Return the public key and the encrypted sketch."""

    def reply(self, upload: bytes) -> bytes:
        """Return one encrypted squared distance to the owner of ``upload``."""

    def open(self, reply: bytes) -> float:
        """Return the squared distance that a peer's reply holds."""


@dataclass(frozen=True)
class Sketched:
    """The encrypted sketch is uploaded."""

    session: Session
    distances: DistanceMachine = field(repr=False)
    label = "sketched"


@dataclass(frozen=True)
class Replied:
    """Every peer that uploaded has got its one reply."""

    session: Session
    distances: DistanceMachine = field(repr=False)
    peers: tuple[str, ...]
    label = "replied"


class BlindedMachine(Protocol):
    """What the aggregation needs of a client's side of distances under key-holder trust."""

    def upload(self, keys: bytes) -> bytes:
        """Return the blinded sketch, encrypted under the holder's keys."""

    def accept(self, squared: float) -> float:
        """Return a squared distance that the holder gave, checked against the own norm."""


@dataclass(frozen=True)
class Blinded:
    """The blinded sketch is uploaded. ``row_key`` is the key holder's, for this client's row."""

    session: Session
    distances: BlindedMachine = field(repr=False)
    row_key: bytes
    upload_hash: bytes
    label = "blinded"


@dataclass(frozen=True)
class Selected:
    """The own row is known and the signed neighbour list is out.

    ``table`` is the frame by which a key holder committed to all distances (else empty).
    """

    session: Session
    row: Mapping[str, float] = field(repr=False)
    chosen: Chosen = field(repr=False)
    frame: bytes = field(repr=False)
    table: bytes = field(default=b"", repr=False)
    label = "selected"


@dataclass(frozen=True)
class Contribution:
    """What a client chose and applied, fixed by its upload: for reports on what sums reveal.

    ``weights`` are the u it applied, by recipient; ``num_distances`` counts the
    distances it knows: those to its peers, and the peers' scales. Secrecy: this client; only a
    simulator has everybody's.
    """

    weights: Mapping[str, float] = field(repr=False)
    num_distances: int


@dataclass(frozen=True)
class Agreement:
    """The plan and the neighbour lists as this client saw and checked them."""

    participants: tuple[str, ...]
    sums: tuple[PlannedSum, ...]
    plan: bytes
    lists: Mapping[str, Chosen] = field(repr=False)
    list_hashes: Mapping[str, bytes]


@dataclass(frozen=True)
class MaskedTerm:
    """One term to encode and mask, whole or in parts. Secrecy: this client."""

    sum_id: str
    vector: str
    fixed_point: FixedPoint
    weight: float
    masks: tuple[MaskKey, ...] = field(repr=False)
    scalars: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class Uploading:
    """Some parts of the masked input are out: ``sent`` are the hashes of their frames, in order.

    ``held_shares``: owner -> its shares, mask key's first; ``weights`` by recipient.
    """

    session: Session
    agreement: Agreement
    held_shares: Mapping[str, tuple[bytes, ...]] = field(repr=False)
    row: Mapping[str, float] = field(repr=False)
    weights: Mapping[str, float] = field(repr=False)
    terms: tuple[MaskedTerm, ...] = field(repr=False)
    parts: tuple[Part, ...]
    sent: tuple[bytes, ...] = ()
    clip_counts: Mapping[str, int] = field(default_factory=dict, repr=False)
    label = "uploading"


@dataclass(frozen=True)
class Uploaded:
    """The whole masked input is out; its last frame's hash is the upload's."""

    session: Session
    agreement: Agreement
    held_shares: Mapping[str, tuple[bytes, ...]] = field(repr=False)
    upload_hash: bytes
    row: Mapping[str, float] = field(repr=False)
    weights: Mapping[str, float] = field(repr=False)
    clip_counts: Mapping[str, int] = field(repr=False)
    label = "uploaded"

    @property
    def num_distances(self) -> int:
        """The distances this client knows: its row, and the peers' scales, one distance each."""
        return len(self.row) + max(0, len(self.agreement.lists) - 1)


@dataclass(frozen=True)
class Confirmed:
    """The survivor set is signed; ``statement`` is what was signed."""

    uploaded: Uploaded
    survivors: tuple[str, ...]
    statement: bytes
    label = "confirmed"


@dataclass(frozen=True)
class Answered:
    """Shares are revealed: no other attempt of these updates from here on."""

    uploaded: Uploaded
    survivors: tuple[str, ...]
    label = "answered"


@dataclass(frozen=True)
class ReceivedSum:
    """A sum of a delivery as far as it has come: ``vector`` [D] float32 is decoded up to ``end``.

    ``masks`` take the recipient masks off a sealed sum. Secrecy: this client.
    """

    planned: PlannedSum
    vector: NDArray[np.float32] = field(repr=False)
    masks: tuple[MaskKey, ...] = field(repr=False)
    end: int = 0


@dataclass(frozen=True)
class Receiving:
    """So many parts of the delivery have come, with these sums."""

    uploaded: Uploaded
    survivors: tuple[str, ...]
    parts: int
    sums: Mapping[str, ReceivedSum] = field(repr=False)
    label = "receiving"


@dataclass(frozen=True)
class SealedSum:
    """A client's own sealed sum over the neighbours that survived. Secrecy: this client.

    ``vector_sum`` is the float32 sum of n_j u_j x_j; the scalars are its denominators.
    """

    vector_sum: NDArray[np.float32] = field(repr=False)
    sum_nu: float = field(repr=False)
    sum_u: float = field(repr=False)
    sum_n: int = field(repr=False)
    num_contributors: int


@dataclass(frozen=True)
class AggregationResult:
    """What a client takes home from one aggregation.

    ``means`` maps each sum for everybody to its mean (None: below its minimum, keep the previous
    one); ``sealed_fault`` says why a sealed sum that came was not accepted; ``results_hash`` goes
    into the next aggregation's inputs. ``row`` is this client's own distances, ``weights`` the u it
    applied as a contributor, by recipient.
    """

    means: Mapping[str, NDArray[np.float32] | None] = field(repr=False)
    sealed: SealedSum | None
    survivors: tuple[str, ...]
    row: Mapping[str, float] = field(repr=False)
    neighbours: tuple[str, ...] = field(repr=False)
    scale: float = field(repr=False)
    weights: Mapping[str, float] = field(repr=False)
    clip_counts: Mapping[str, int] = field(repr=False)
    results_hash: bytes
    session: bytes
    sealed_fault: str | None = None
    num_distances: int = 0


@dataclass(frozen=True)
class Finished:
    """The result is accepted and the receipt is out."""

    result: AggregationResult
    label = "finished"


@dataclass(frozen=True)
class Failed:
    """A rule was broken; this attempt is over for this client."""

    reason: str
    label = "failed"


State = (
    Idle
    | Advertised
    | Shared
    | Sketched
    | Replied
    | Blinded
    | Selected
    | Uploading
    | Uploaded
    | Confirmed
    | Answered
    | Receiving
    | Finished
    | Failed
)
