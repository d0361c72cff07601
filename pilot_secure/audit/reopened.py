"""What an escrow opens: every upload without its masks, every hidden list, every sum again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import open_entry
from pilot_secure.audit.spans import SentVector, Words, whole_vectors
from protocols.client_select import SELECTION_USAGE
from protocols.codec import CodecError, decode
from protocols.distance_lengths import padded_list_bytes
from protocols.distance_messages import NeighbourList, Selection
from protocols.escrow import Escrow, draw_secrets, escrowed_entropy
from protocols.identity import SERVER, SIGNATURE_BYTES
from protocols.keys import (
    Channel,
    EphemeralKeys,
    derive,
    pairwise_mask_key,
    recipient_mask_key,
    self_mask_key,
)
from protocols.masks import MaskKey, MaskStream, mask_scalars
from protocols.messages import Message, PlannedSum, scalars_from_wire
from protocols.parameters import AggregationParameters
from protocols.results import fixed_point_of
from protocols.ring import CHUNK, WEIGHT_STEP
from protocols.selection import Chosen
from protocols.sketch import sketch
from protocols.transcript import TranscriptRecord

SentTerm = tuple[Words, tuple[int, ...]]


@dataclass(frozen=True)
class Term:
    """One client's term of one sum without its masks, and where it was sent.

    ``words`` are the encodings mod 2^b, [D]; ``scalars`` n, u and n u as the protocol counts them.
    """

    client: str
    planned: PlannedSum
    seq: int
    words: Words
    scalars: tuple[int, ...]


class Secrets:
    """What the clients of one attempt drew, repeated from the escrow."""

    def __init__(self, attempt: Attempt, escrow: Escrow) -> None:
        assert attempt.parameters is not None
        self.attempt, self.parameters = attempt, attempt.parameters
        self.session = bytes.fromhex(attempt.session or attempt.digest)
        self.keys: dict[str, EphemeralKeys] = {}
        self.seeds: dict[str, dict[str, bytes]] = {}
        for name in attempt.adverts:
            entropy = escrowed_entropy(escrow.master, name, self.parameters)
            self.keys[name], self.seeds[name] = draw_secrets(entropy, self.parameters, name)

    def strangers(self) -> list[str]:
        """Who advertised other keys than the escrow gives."""
        found = []
        for name, advert in self.attempt.adverts.items():
            keys = self.keys[name]
            drawn = (keys.share.public, keys.mask.public, keys.recipient.public)
            if drawn != (advert.share_key, advert.mask_key, advert.recipient_key):
                found.append(name)
        return sorted(found)

    def masks(self, client: str, planned: PlannedSum) -> list[MaskKey]:
        """The masks that the specification puts on a client's term, to be taken off."""
        session, own = self.session, self.keys[client]
        seed = self.seeds[client][planned.id]
        masks = [MaskKey(self_mask_key(seed, session, planned.id, client), -1)]
        peers = set(self.attempt.peers(client))
        for peer in planned.contributors:
            if peer != client and peer in peers:
                secret = own.mask.exchange(self.attempt.adverts[peer].mask_key)
                key = pairwise_mask_key(secret, session, planned.id, client, peer)
                masks.append(MaskKey(key, -1 if client < peer else 1))
        if planned.recipient != SERVER:
            masks.append(self.recipient_mask(client, planned, -1))
        return masks

    def recipient_mask(self, client: str, planned: PlannedSum, sign: int) -> MaskKey:
        """The mask that only the recipient can take off a sealed sum."""
        public = self.attempt.adverts[planned.recipient].recipient_key
        secret = self.keys[client].recipient.exchange(public)
        arguments = (secret, self.session, planned.id, client, planned.recipient)
        return MaskKey(recipient_mask_key(*arguments), sign)

    def channel(self, one: str, other: str) -> Channel:
        """The encrypted channel between two clients."""
        secret = self.keys[one].share.exchange(self.attempt.adverts[other].share_key)
        return Channel(secret, self.session)


def unmasked(bits: int, sent: SentVector, masks: Sequence[MaskKey]) -> SentTerm:
    """Take masks off a vector, whose words it changes; the words are mod 2^b."""
    stream, words = MaskStream(masks), sent.words
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK]
        stream.mask_chunk(part)
        part &= np.uint32((1 << bits) - 1)
    return words, mask_scalars(masks, scalars_from_wire(sent.scalars))


def terms(bundle: Bundle, attempt: Attempt, secrets: Secrets, client: str) -> Iterator[Term]:
    """Every term that a client uploaded, without its masks."""
    p, planned = secrets.parameters, {item.id: item for item in attempt.plan}
    last = attempt.kept.get((client, "masked_input"))
    if last is None:
        return
    records = [*attempt.sent_parts.get(client, []), last]
    sent = whole_vectors(p, (read_again(bundle, record) for record in records))
    for sum_id, vector in sorted(sent.items()):
        item = planned.get(sum_id)
        if item is None or client not in item.contributors:
            continue
        words, scalars = unmasked(p.ring_bits, vector, secrets.masks(client, item))
        yield Term(client, item, last.seq, words, scalars)


def delivered(bundle: Bundle, attempt: Attempt, client: str) -> Mapping[str, SentVector]:
    """Every sum that a client was delivered whole."""
    assert attempt.parameters is not None
    last = attempt.kept.get((client, "delivery"))
    records = [*attempt.told_parts.get(client, []), *([] if last is None else [last])]
    return whole_vectors(attempt.parameters, (read_again(bundle, record) for record in records))


def reread(bundle: Bundle, attempt: Attempt, client: str, kind: str) -> Message | None:
    """One of a client's messages again, from its payload."""
    record = attempt.kept.get((client, kind))
    return None if record is None else read_again(bundle, record)


def read_again(bundle: Bundle, record: TranscriptRecord) -> Message | None:
    """The message of a record, from its payload."""
    frame, _damage = bundle.frame(record)
    return open_entry(record, frame, None, bundle.roster).protocol_message


@dataclass
class Reopened:
    """What the terms of an attempt come to, gathered client by client.

    ``samples`` and ``weights`` are the private n_k and u of each term; ``sketches`` what distances
    were measured on, up to rounding; ``step`` the rounding of each client's vector.
    """

    samples: dict[str, int] = field(default_factory=dict)
    weights: dict[tuple[str, str], float] = field(default_factory=dict)
    sums: dict[str, Words] = field(default_factory=dict)
    scalars: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lists: dict[str, Chosen] = field(default_factory=dict)
    sketches: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    norm_errors: dict[str, float] = field(default_factory=dict)


def signed_words(words: Words, bits: int) -> NDArray[np.int32]:
    """The words of [D] mod 2^bits as signed numbers."""
    signed: NDArray[np.int32] = (words << np.uint32(32 - bits)).view(np.int32) >> (32 - bits)
    return signed


def decoded(parameters: AggregationParameters, term: Term) -> tuple[NDArray[np.float64], float]:
    """A client's vector from its term, [D], and the largest error of a coordinate."""
    point = fixed_point_of(parameters, term.planned)
    weight = term.scalars[2] * WEIGHT_STEP
    step = point.max_weight / (point.scale * weight)
    vector: NDArray[np.float64] = signed_words(term.words, parameters.ring_bits) * np.float64(step)
    return vector, step / 2


def sketched(
    parameters: AggregationParameters, session: bytes, vector: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The sketch of a decoded vector, with the map of this session."""
    seed = derive(session, session, "sketch")
    return sketch(vector.astype(np.float32), seed, parameters.sketch_size)


def hidden_lists(bundle: Bundle, attempt: Attempt, secrets: Secrets) -> dict[str, Chosen]:
    """Each client's neighbour list as its first peer opens it."""
    lists = {}
    for client in attempt.members:
        message = reread(bundle, attempt, client, "selection")
        if not isinstance(message, Selection) or not message.boxes:
            continue
        box = message.boxes[0]
        try:
            channel = secrets.channel(client, box.party)
            padded = channel.open(SELECTION_USAGE, client, box.party, box.ciphertext)
            frame = padded[4 : 4 + int.from_bytes(padded[:4], "big")]
            body = decode(frame[SIGNATURE_BYTES:])
            listing = NeighbourList.model_validate(body)
        except (ValueError, CodecError, KeyError):
            continue
        if len(padded) == padded_list_bytes(secrets.parameters.most_neighbours):
            lists[client] = Chosen(listing.neighbours, listing.scale)
    return lists
