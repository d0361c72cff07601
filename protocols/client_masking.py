"""A client's masked input: check the plan, and settle which terms go into which sums."""

from __future__ import annotations

from collections.abc import Mapping

from protocols.client_select import open_list
from protocols.client_setup import MASK_KEY, open_share_box, share_commitments
from protocols.client_states import (
    Agreement,
    Context,
    MaskedTerm,
    Selected,
    Session,
    Shared,
    Uploaded,
    Uploading,
)
from protocols.client_upload import send_part
from protocols.errors import BadPlan, BadShare
from protocols.frame import frame_hash
from protocols.graph import sharing_threshold
from protocols.identity import KEY_HOLDER, SERVER
from protocols.keys import pairwise_mask_key, recipient_mask_key, self_mask_key
from protocols.masks import MaskKey
from protocols.messages import Plan, PlannedSum, SharesFrom
from protocols.parameters import AggregationParameters
from protocols.parts import cut
from protocols.plan import plan_digest, plan_sums
from protocols.results import fixed_point_of
from protocols.ring import WEIGHT_STEP
from protocols.selection import Chosen, weight


def on_plan(
    context: Context, state: Shared | Selected, message: Plan
) -> tuple[Uploading | Uploaded, bytes]:
    """Check plan, shares and neighbour lists, then upload the masked terms or their first part."""
    session = state.session
    held = open_shares(context, session, message)
    agreement = check_plan(context, state, message)
    row = state.row if isinstance(state, Selected) else {}
    weights = own_weights(context, agreement, row)
    terms = tuple(
        _term(context, session, planned, weights.get(planned.id, 1.0))
        for planned in agreement.sums
        if context.name in planned.contributors
    )
    applied = {item.recipient: weights[item.id] for item in agreement.sums if item.id in weights}
    parts = cut(context.parameters, [term.sum_id for term in terms])
    return send_part(
        context, Uploading(session, agreement, held, row, applied, terms=terms, parts=parts)
    )


def open_shares(context: Context, session: Session, message: Plan) -> dict[str, tuple[bytes, ...]]:
    """Return the peers' shares after comparing each with its commitment, and the own ones.

    Raises:
        BadShare: a share that does not open or does not match its commitment. The server is
            named: it relays both, unsigned, and only its own records tell if the owner lied.
        BadPlan: shares of strangers or repeated ones, or of fewer than the threshold.
    """
    phase, held = "masked_input", {context.name: session.own_shares}
    for delivery in message.shares:
        owner = delivery.party
        if owner in held or owner not in session.adverts:
            raise BadPlan(SERVER, phase, "shares of strangers or repeated ones")
        held[owner] = _open_shares_from(context, session, delivery)
    if set(held) != {context.name, *(n for n in message.participants if n in session.adverts)}:
        raise BadPlan(SERVER, phase, "the shares are not those of the participants")
    if len(held) < sharing_threshold(context.parameters):
        raise BadPlan(SERVER, phase, f"shares of {len(held)} members, below the threshold")
    return held


def _open_shares_from(
    context: Context, session: Session, delivery: SharesFrom
) -> tuple[bytes, ...]:
    owner, phase = delivery.party, "masked_input"
    names = [MASK_KEY, *(spec.id for spec in context.parameters.sums_of(owner))]
    held, _blinding = open_share_box(context, session, owner, delivery.ciphertext, phase)
    if share_commitments(session.id, owner, context.name, names, held) != delivery.digests:
        reason = f"a share of {owner} and its commitment, as relayed by the server, do not match"
        raise BadShare(SERVER, phase, reason)
    return held


def check_plan(context: Context, state: Shared | Selected, message: Plan) -> Agreement:
    """Return what is agreed on if the plan is the one that the rules give.

    Raises:
        BadPlan: participants, sums, contributors or lists other than the rules give.
    """
    phase, parameters, session = "masked_input", context.parameters, state.session
    participants = message.participants
    if context.name not in participants or not set(participants) <= set(session.members):
        raise BadPlan(SERVER, phase, "participants without us, or with strangers")
    if len(participants) < parameters.threshold:
        raise BadPlan(SERVER, phase, f"{len(participants)} participants, below the threshold")
    lists: dict[str, Chosen] = {}
    frames: dict[str, bytes] = {}
    if isinstance(state, Selected):
        lists[context.name], frames[context.name] = state.chosen, state.frame
        for box in message.selections:
            if box.party in lists or box.party not in participants:
                raise BadPlan(SERVER, phase, "neighbour lists of strangers or repeated ones")
            lists[box.party], frames[box.party] = open_list(
                context, session, box.party, box.ciphertext
            )
        if set(lists) != set(participants):
            raise BadPlan(SERVER, phase, "the neighbour lists are not those of the participants")
        if state.table:
            frames[KEY_HOLDER] = state.table
    expected = plan_sums(parameters, participants, visible_lists(parameters, lists))
    if message.sums != expected:
        raise BadPlan(SERVER, phase, "sums, contributors or recipients are not those of the rules")
    return Agreement(
        participants=participants,
        sums=expected,
        plan=plan_digest(participants, expected),
        lists=lists,
        list_hashes={name: frame_hash(frame) for name, frame in frames.items()},
    )


def visible_lists(
    parameters: AggregationParameters, lists: Mapping[str, Chosen]
) -> dict[str, tuple[str, ...]] | None:
    """Return the neighbour lists if the plan may depend on them, else None."""
    if parameters.neighbour_visibility == "hidden":
        return None
    return {name: chosen.neighbours for name, chosen in lists.items()}


def own_weights(
    context: Context, agreement: Agreement, row: Mapping[str, float]
) -> dict[str, float]:
    """Return this client's u for each selected sum it contributes to; zero for non-neighbours."""
    weights = {}
    for planned in agreement.sums:
        spec = context.parameters.sum(planned.id)
        if spec.contributors != "selected" or context.name not in planned.contributors:
            continue
        chosen = agreement.lists[planned.recipient]
        if context.name not in chosen.neighbours:
            weights[planned.id] = 0.0
        elif planned.recipient not in row:
            reason = f"{planned.recipient} selected us, and its distance was not delivered to us"
            raise BadPlan(SERVER, "masked_input", reason)
        else:
            weights[planned.id] = weight(chosen.scale, row[planned.recipient])
    return weights


def _term(
    context: Context, session: Session, planned: PlannedSum, applied_weight: float
) -> MaskedTerm:
    num_samples, steps = context.inputs.num_samples, round(applied_weight / WEIGHT_STEP)
    return MaskedTerm(
        sum_id=planned.id,
        vector=context.parameters.sum(planned.id).vector,
        fixed_point=fixed_point_of(context.parameters, planned),
        weight=num_samples * applied_weight,
        masks=tuple(mask_keys(context, session, planned)),
        scalars=(num_samples if steps else 0, steps, num_samples * steps),
    )


def mask_keys(context: Context, session: Session, planned: PlannedSum) -> list[MaskKey]:
    """Return the self mask, the pairwise masks, and the recipient mask of a sealed sum."""
    me = context.name
    masks = [MaskKey(self_mask_key(session.seeds[planned.id], session.id, planned.id, me), 1)]
    for peer in planned.contributors:
        if peer != me and peer in session.adverts:
            secret = session.mask_secret(peer)
            key = pairwise_mask_key(secret, session.id, planned.id, me, peer)
            masks.append(MaskKey(key, 1 if me < peer else -1))
    if planned.recipient != SERVER:
        secret = session.recipient_secret(planned.recipient)
        key = recipient_mask_key(secret, session.id, planned.id, me, planned.recipient)
        masks.append(MaskKey(key, 1))
    return masks
