"""K01, K02: keys are fresh in every attempt, of a usable form, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Options, Rule
from protocols.distance_frames import HEADER_BYTES, SEED_BYTES, Kind, closing_hash, digest, header
from protocols.distance_lengths import distance_upload_bytes, holder_keys_bytes, measured_length
from protocols.distance_messages import BlindedUpload, DistanceUpload, HolderKeys
from protocols.errors import ParameterError
from protocols.keys import UnusableKey, check_public_key
from protocols.messages import Advertisement
from protocols.parameter_sets import PARAMETER_SETS
from protocols.parameters import AggregationParameters

FIELDS = ("share_key", "mask_key", "recipient_key")


class K01FreshKeys(Rule):
    """No ephemeral key of one attempt appears in another."""

    id = "K01"
    title = "ephemeral keys never reused"
    evidence = ()

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._seen: dict[bytes, tuple[int, int]] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at the keys of an advertisement, and at the CKKS key's seed of an upload."""
        if attempt is None or entry.from_server:
            return
        if entry.frame is None and entry.record.phase in ("advertise", "distance_upload"):
            self.lack("payloads of advertisements and distance uploads")
        message = entry.message
        if isinstance(message, Advertisement):
            for field in FIELDS:
                self._look(entry, attempt, getattr(message, field), field)
        elif isinstance(message, DistanceUpload):
            self._look(entry, attempt, _seed(message.upload), "the seed of its CKKS key")
        elif isinstance(message, HolderKeys):
            self._look(entry, attempt, message.row_key, "row_key")
            self._look(entry, attempt, _seed(message.keys), "the seed of its CKKS keys")

    def _look(self, entry: Entry, attempt: Attempt, key: bytes, what: str) -> None:
        self.checked += 1
        before = self._seen.setdefault(key, (attempt.place, entry.record.seq))
        if before[0] != attempt.place:
            found = f"{what} {key.hex()[:12]}… stands in entry {before[1]} already"
            self.fail_at(entry, attempt, found, "a key of its own for every attempt")


def _seed(encrypted: bytes) -> bytes:
    return encrypted[HEADER_BYTES : HEADER_BYTES + SEED_BYTES]


class K02UsableKeys(Rule):
    """No key of small order, no key twice, no identity key; CKKS keys in seed-compressed form."""

    id = "K02"
    title = "no small-order, duplicate or identity keys; seed-compressed CKKS keys"
    evidence = ()

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        roster = bundle.roster
        self._identities = {entry.public_key: entry.name for entry in roster.entries()}
        self._seen: dict[tuple[int, bytes], str] = {}

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at the keys of an advertisement, and at the form of an upload."""
        if attempt is None or entry.from_server:
            return
        if entry.frame is None and entry.record.phase in ("advertise", "distance_upload"):
            self.lack("payloads of advertisements and distance uploads")
        message = entry.message
        if isinstance(message, Advertisement):
            for field in FIELDS:
                self._check(entry, attempt, getattr(message, field), field)
        p = attempt.parameters
        if p is None:
            return
        match message:
            case DistanceUpload():
                self._form(entry, attempt, message.upload, distance_upload_bytes, Kind.UPLOAD)
            case BlindedUpload():
                size, kind = distance_upload_bytes, Kind.HOLDER_UPLOAD
                self._form(entry, attempt, message.upload, size, kind)
            case HolderKeys():
                self._check(entry, attempt, message.row_key, "row_key")
                self._form(entry, attempt, message.keys, holder_keys_bytes, Kind.HOLDER_KEYS)

    def _form(
        self,
        entry: Entry,
        attempt: Attempt,
        encrypted: bytes,
        size: Callable[[AggregationParameters], int],
        kind: Kind,
    ) -> None:
        """Keys and ciphertexts have the header and the length of the seed-compressed form."""
        assert attempt.parameters is not None
        wrong = form_problem(encrypted, attempt.parameters, size, kind)
        self.checked += 1
        if wrong is not None:
            self.fail_at(entry, attempt, wrong, "seed-compressed keys of the public length")

    def _check(self, entry: Entry, attempt: Attempt, key: bytes, field: str) -> None:
        self.checked += 1
        try:
            check_public_key(key)
        except UnusableKey as error:
            self.fail_at(entry, attempt, f"{field}: {error}", "a key of which a secret follows")
            return
        if key in self._identities:
            found = f"{field} is the identity key of {self._identities[key]}"
            self.fail_at(entry, attempt, found, "a fresh key")
        owner = f"{field} of {entry.client}"
        before = self._seen.setdefault((attempt.place, key), owner)
        if before != owner:
            self.fail_at(entry, attempt, f"{field} is {before} too", "a key of its own")


def form_problem(
    encrypted: bytes,
    parameters: AggregationParameters,
    size: Callable[[AggregationParameters], int],
    kind: Kind,
) -> str | None:
    """What is wrong with the form of encrypted distances or their keys, if anything."""
    known = PARAMETER_SETS.get(parameters.distance_parameter_set)
    if known is None:
        return None  # H01 tells
    try:
        expected = size(parameters)
    except ParameterError:
        return None
    if len(encrypted) != expected:
        return f"{len(encrypted)} bytes, {expected} are public"
    if not encrypted.startswith(header(kind, known, measured_length(parameters))):
        return "another header"
    if digest(memoryview(encrypted)[:-SEED_BYTES]) != closing_hash(encrypted):
        return "a closing hash that does not fit"
    return None
