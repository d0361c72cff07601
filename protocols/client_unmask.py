"""A client's part in opening the sums: agree on the survivors, reveal shares."""

from __future__ import annotations

from protocols.client_states import (
    Answered,
    Confirmed,
    Context,
    Uploaded,
)
from protocols.errors import AttemptRefused, BadSurvivors
from protocols.frame import seal
from protocols.graph import sharing_threshold
from protocols.identity import SERVER, sha256
from protocols.messages import (
    Consistency,
    KeyShare,
    SeedShare,
    SurvivorSet,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.plan import lists_digest, may_open, statement


def on_survivor_set(
    context: Context, state: Uploaded, message: SurvivorSet
) -> tuple[Confirmed, bytes]:
    """Sign the survivor set, the plan, the neighbour lists and all upload hashes.

    Raises:
        BadSurvivors: without us, with strangers, below the threshold, or with another upload
            than ours.
    """
    phase, survivors = "consistency", message.survivors
    if context.name not in survivors:
        raise BadSurvivors(SERVER, phase, "we uploaded and are not among the survivors")
    if not set(survivors) <= set(state.agreement.participants):
        raise BadSurvivors(SERVER, phase, "survivors that did not take part")
    if len(survivors) < context.parameters.threshold:
        raise BadSurvivors(SERVER, phase, f"{len(survivors)} survivors, below the threshold")
    if len(message.upload_hashes) != len(survivors):
        raise BadSurvivors(SERVER, phase, "not one upload hash per survivor")
    uploads = dict(zip(survivors, message.upload_hashes, strict=True))
    if uploads[context.name] != state.upload_hash:
        raise BadSurvivors(SERVER, phase, "the upload hash of ours is not that of our upload")
    agreement = state.agreement
    lists = lists_digest(agreement.list_hashes)
    claim = statement(state.session.id, agreement.plan, lists, uploads)
    reply = Consistency(
        session=state.session.id,
        sender=context.name,
        recipient=SERVER,
        lists=lists,
        signature=context.identity.sign(claim),
    )
    return Confirmed(state, survivors, claim), seal(reply, context.identity)


def on_unmask_request(
    context: Context, state: Confirmed, message: UnmaskRequest
) -> tuple[Answered, bytes]:
    """Reveal shares: of a survivor its seeds, of a drop-out its mask key, never both.

    The guard has persisted the answer before any share is looked up: from then on this client
    refuses every other attempt on the same updates.

    Raises:
        BadSurvivors: lists other than the agreed ones, or too few signatures of our statement.
        AttemptRefused: an unmasking of these updates was answered before.
    """
    check_unmask_request(context, state, message)
    claim_answer(context, state)
    held, agreement = state.uploaded.held_shares, state.uploaded.agreement
    neighbours = {name: chosen.neighbours for name, chosen in agreement.lists.items()}
    openable = [
        planned
        for planned in agreement.sums
        if may_open(context.parameters, planned, state.survivors, neighbours)
    ]
    seed_shares = []
    for owner in (name for name in state.survivors if name in held):
        places = {s.id: i for i, s in enumerate(context.parameters.sums_of(owner), start=1)}
        for planned in openable:
            if owner in planned.contributors:
                share = held[owner][places[planned.id]]
                seed_shares.append(SeedShare(owner=owner, sum_id=planned.id, share=share))
    reply = UnmaskShares(
        session=state.uploaded.session.id,
        sender=context.name,
        recipient=SERVER,
        seed_shares=tuple(seed_shares),
        key_shares=tuple(
            KeyShare(owner=name, share=held[name][0]) for name in message.dropouts if name in held
        ),
    )
    return Answered(state.uploaded, state.survivors), seal(reply, context.identity)


def claim_answer(context: Context, state: Confirmed) -> None:
    """Persist that this statement's unmasking is answered, and no other's.

    Raises:
        AttemptRefused: another one of these updates was answered before.
    """
    label = context.parameters.attempt_label
    if not context.guard.claim(f"{label}/answered", sha256(state.statement)):
        raise AttemptRefused(f"{context.name}: an unmasking of {label} was answered before")


def check_unmask_request(context: Context, state: Confirmed, message: UnmaskRequest) -> None:
    """Refuse lists other than the signed ones, and signatures that do not carry the threshold.

    A server that verifies and compares never asks with fewer, so the fault is its own.

    Raises:
        BadSurvivors: see :func:`on_unmask_request`.
    """
    phase, participants = "unmask", state.uploaded.agreement.participants
    if context.name in message.dropouts:
        raise BadSurvivors(SERVER, phase, "we are asked to declare ourselves dropped out")
    both = set(message.survivors) & set(message.dropouts)
    if both:
        raise BadSurvivors(SERVER, phase, f"both shares of {sorted(both)} are asked for")
    if message.survivors != state.survivors:
        raise BadSurvivors(SERVER, phase, "survivors other than those that were signed")
    if set(message.dropouts) != set(participants) - set(state.survivors):
        raise BadSurvivors(SERVER, phase, "drop-outs other than the participants that are missing")
    signers = [item.party for item in message.signatures]
    heard = set(state.survivors) & set(state.uploaded.session.adverts)
    if len(set(signers)) != len(signers) or not set(signers) <= heard:
        raise BadSurvivors(SERVER, phase, "signatures of strangers or repeated ones")
    others = [
        item.party
        for item in message.signatures
        if not context.roster.signed(item.party, item.signature, state.statement)
    ]
    agreeing, needed = len(signers) - len(others), sharing_threshold(context.parameters)
    if agreeing < needed:
        reason = f"{agreeing} of {len(signers)} signatures agree with ours, {needed} needed"
        reason += f"; not those of {', '.join(others)}, as relayed" if others else ""
        raise BadSurvivors(SERVER, phase, reason)
