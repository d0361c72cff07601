"""A client's first phases: advertise fresh keys, then share its secrets among the cohort."""

from __future__ import annotations

from collections.abc import Iterable

from protocols import shares
from protocols.client_states import Advertised, Context, Idle, Session, Shared
from protocols.errors import (
    AttemptRefused,
    BadKey,
    BadPlan,
    BadShare,
    WrongSession,
)
from protocols.frame import frame_hash, open_relayed, seal
from protocols.frame_sizes import largest_frame
from protocols.graph import peers_of, sharing_threshold
from protocols.identity import SERVER, Roster
from protocols.keys import EphemeralKeys, UnusableKey, check_public_key
from protocols.messages import (
    Advertisement,
    Advertisements,
    AdvertiseRequest,
    Box,
    EncryptedShares,
    ShareCommitments,
)
from protocols.parameters import AggregationParameters
from protocols.plan import session_id

MASK_KEY = "mask-key"
SHARES_USAGE = "shares"
BLINDING_BYTES = 32


def on_advertise_request(
    context: Context, _state: Idle, _message: AdvertiseRequest
) -> tuple[Advertised, bytes]:
    """Make fresh keys and advertise them, unless these updates were opened before.

    Raises:
        AttemptRefused: see :func:`join`.
    """
    join(context)
    keys = EphemeralKeys.generate(context.entropy)
    advert = Advertisement(
        session=context.parameters.digest(),
        sender=context.name,
        recipient=SERVER,
        share_key=keys.share.public,
        mask_key=keys.mask.public,
        recipient_key=keys.recipient.public,
        previous_results=context.inputs.previous_results,
    )
    frame = seal(advert, context.identity)
    return Advertised(keys, frame), frame


def join(context: Context) -> None:
    """Refuse what was opened before, and other parameters than those first joined with.

    Raises:
        AttemptRefused: an unmasking of these updates was answered before, or an earlier attempt
            on them had another cohort or other parameters.
    """
    label = context.parameters.attempt_label
    if context.guard.claimed(f"{label}/answered"):
        raise AttemptRefused(f"{context.name}: an unmasking of {label} was answered before")
    if not context.guard.claim(f"{label}/joined", context.parameters.updates_digest()):
        raise AttemptRefused(
            f"{context.name}: an earlier attempt of {label} had another cohort or other parameters"
        )


def read_advertisements(
    parameters: AggregationParameters, roster: Roster, message: Advertisements
) -> tuple[dict[str, Advertisement], dict[str, bytes]]:
    """Return the signed advertisements, and the hash of every member's, sent along or not.

    Raises:
        PeerError: of the server, who relays it, an advertisement that its sender did not sign for
            these parameters; of the sender, one that it signed and that is malformed.
        BadPlan: strangers or repetitions, or hashes where the graph is complete.
    """
    phase, adverts = "share", {}
    hashes = {item.party: item.digest for item in message.others}
    if len(hashes) != len(message.others) or (hashes and parameters.graph is None):
        raise BadPlan(SERVER, phase, "hashes of advertisements that are not to be left out")
    digest, limit = parameters.digest(), largest_frame(parameters, "advertisement")
    for frame in message.advertisements:
        advert = open_relayed(frame, Advertisement, digest, roster, phase, limit)
        if advert.sender not in parameters.cohort or advert.sender in hashes:
            raise BadPlan(SERVER, phase, "advertisements of strangers or repeated ones")
        adverts[advert.sender], hashes[advert.sender] = advert, frame_hash(frame)
    return adverts, hashes


def open_advertisements(
    context: Context, state: Advertised, message: Advertisements
) -> tuple[bytes, tuple[str, ...], dict[str, Advertisement]]:
    """Return the session id, its members, and the checked advertisements of self and peers.

    Raises:
        BadSignature: a frame that its sender did not sign; the server's fault, who relays it.
        BadKey: unusable or repeated keys, or own keys that were replaced.
        BadPlan: strangers, repetitions, too few members, or other peers than the graph gives.
        WrongSession: a peer accepted other results in the last aggregation.
    """
    phase, parameters = "share", context.parameters
    adverts, hashes = read_advertisements(parameters, context.roster, message)
    if context.name not in adverts or hashes[context.name] != frame_hash(state.frame):
        raise BadKey(SERVER, phase, "our own advertisement is missing or was replaced")
    members = enough_members(parameters, hashes)
    session = session_id(parameters, hashes)
    if set(adverts) != {context.name, *peers_of(parameters, session, members, context.name)}:
        raise BadPlan(SERVER, phase, "advertisements of others than our peers in the graph")
    check_keys(adverts, phase)
    for name, advert in adverts.items():
        if advert.previous_results != context.inputs.previous_results:
            reason = "it accepted other results in the last aggregation than we were told"
            raise WrongSession(name, phase, reason)
    return session, members, adverts


def enough_members(parameters: AggregationParameters, names: Iterable[str]) -> tuple[str, ...]:
    """Return the members in order.

    Raises:
        BadPlan: fewer than the threshold, or a stranger among them.
    """
    members = tuple(sorted(names))
    if len(members) < parameters.threshold or not set(members) <= set(parameters.cohort):
        raise BadPlan(SERVER, "share", f"{len(members)} members, below {parameters.threshold}")
    return members


def check_keys(adverts: dict[str, Advertisement], phase: str) -> None:
    """Refuse unusable keys and any key that appears twice among these members."""
    seen: dict[bytes, str] = {}
    for name, advert in adverts.items():
        check_new_keys(name, advert, seen, phase)


def check_new_keys(name: str, advert: Advertisement, seen: dict[bytes, str], phase: str) -> None:
    """Check one member's keys and add them to those ``seen`` (key -> owner).

    Raises:
        BadKey: a small-order or non-canonical key, or one seen before; then none is added.
    """
    keys = (advert.share_key, advert.mask_key, advert.recipient_key)
    for place, key in enumerate(keys):
        try:
            check_public_key(key)
        except UnusableKey as error:
            raise BadKey(name, phase, str(error)) from None
        if key in seen or key in keys[:place]:
            raise BadKey(name, phase, f"a key that {seen.get(key, name)} advertises too")
    seen.update(dict.fromkeys(keys, name))


def on_advertisements(
    context: Context, state: Advertised, message: Advertisements
) -> tuple[Shared, bytes]:
    """Fix the session and share the mask key and one self-mask seed per sum."""
    identity, members, adverts = open_advertisements(context, state, message)
    specs = context.parameters.sums_of(context.name)
    seeds = {spec.id: context.entropy.read(shares.SECRET_BYTES) for spec in specs}
    holders = sorted(adverts)
    by_holder = split_secrets(context, state.keys, seeds, holders)
    size = blinding_bytes(context.parameters)
    blinding = context.entropy.read(size) if size else b""
    own = by_holder[context.name]
    session = Session(identity, members, adverts, state.keys, seeds, own, blinding)
    names = [MASK_KEY, *seeds]
    reply = EncryptedShares(
        session=identity,
        sender=context.name,
        recipient=SERVER,
        boxes=tuple(
            Box(party=peer, ciphertext=_seal_shares(context, session, peer, by_holder[peer]))
            for peer in holders
            if peer != context.name
        ),
        commitments=tuple(
            ShareCommitments(
                party=peer,
                digests=share_commitments(identity, context.name, peer, names, by_holder[peer]),
            )
            for peer in holders
        ),
        seed_commitments=tuple(
            shares.commit_secret(identity, context.name, sum_id, seed)
            for sum_id, seed in seeds.items()
        ),
    )
    return Shared(session), seal(reply, context.identity)


def split_secrets(
    context: Context, keys: EphemeralKeys, seeds: dict[str, bytes], holders: list[str]
) -> dict[str, tuple[bytes, ...]]:
    """Return {holder: shares}, the mask key's first, then the seeds' in order of sum ids."""
    coordinates = {name: context.roster.coordinate(name) for name in holders}
    threshold = sharing_threshold(context.parameters)
    dealt = [
        shares.split(secret, threshold, coordinates.values(), context.entropy)
        for secret in (keys.mask.secret, *seeds.values())
    ]
    return {name: tuple(deal[x] for deal in dealt) for name, x in coordinates.items()}


def share_commitments(
    session: bytes, owner: str, holder: str, names: list[str], held: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """Return the commitments to one holder's shares, in the order of ``names``."""
    return tuple(
        shares.commit(session, owner, holder, name, share)
        for name, share in zip(names, held, strict=True)
    )


def blinding_bytes(parameters: AggregationParameters) -> int:
    """Return the bytes of the blinding secret in each share box: none but under key-holder trust.

    Every client deals one, so that whoever drops out, another's is there to be used.
    """
    return BLINDING_BYTES if parameters.distances == "key_holder" else 0


def _seal_shares(context: Context, session: Session, peer: str, held: tuple[bytes, ...]) -> bytes:
    try:
        channel = session.channel(peer)
    except ValueError:
        raise BadKey(peer, "share", "no secret follows from its key") from None
    content = b"".join(held) + session.blinding
    return channel.seal(SHARES_USAGE, context.name, peer, content)


def open_share_box(
    context: Context, session: Session, owner: str, ciphertext: bytes, phase: str
) -> tuple[tuple[bytes, ...], bytes]:
    """Return the shares that ``owner`` dealt us, its mask key's first, and its blinding secret.

    Raises:
        BadShare: of the server, who relays it, a box that does not open; of the owner, whose key
            opens it, one of another length.
    """
    size, count = shares.SECRET_BYTES, 1 + len(context.parameters.sums_of(owner))
    try:
        plain = session.channel(owner).open(SHARES_USAGE, owner, context.name, ciphertext)
    except ValueError as error:
        reason = f"the shares of {owner}, as relayed by the server: {error}"
        raise BadShare(SERVER, phase, reason) from None
    end = size * count
    expected = end + blinding_bytes(context.parameters)
    if len(plain) != expected:
        raise BadShare(owner, phase, f"{len(plain)} bytes of shares, not {expected}")
    return tuple(plain[place : place + size] for place in range(0, end, size)), plain[end:]
