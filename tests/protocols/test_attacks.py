"""An active server, or malicious clients, really carry out each attack; the victim refuses."""

from __future__ import annotations

import clear_distances
import numpy as np
import pytest
from cheating import cheat_at, client_says, read, server_says
from in_process import Federation, entropy_for, names, plain_sum

from protocols import SERVER, Identity, MemoryGuard, client_unmask
from protocols.errors import (
    AttemptRefused,
    BadDelivery,
    BadDistance,
    BadKey,
    BadPlan,
    BadSelection,
    BadShare,
    BadSignature,
    BadSurvivors,
    LocalProtocolError,
    MalformedMessage,
    ParameterError,
    UnexpectedMessage,
    WrongSession,
)
from protocols.frame import seal
from protocols.keys import SMALL_ORDER_KEYS, KeyPair, pairwise_mask_key, self_mask_key
from protocols.masks import MaskKey, MaskStream
from protocols.messages import SignedBy, scalars_from_wire, scalars_to_wire
from protocols.results import fixed_point_of
from protocols.ring import Packed
from protocols.shares import combine

VICTIM = "client-03"


def plain(count: int = 5, **options: object) -> Federation:
    return Federation(count=count, plain=True, options=options)


def pilot(monkeypatch, **options: object) -> Federation:
    clear_distances.install(monkeypatch)
    return Federation(options=options)


# --- the survivor set and the unmasking ---------------------------------------------------------


def unmask_with(federation: Federation, victim: str = VICTIM, **changes: object) -> None:
    federation.run(until="unmask")
    request = server_says(federation, federation.server.request(victim), **changes)
    federation.clients[victim].handle(request)


def test_both_shares_of_one_client_are_refused() -> None:
    with pytest.raises(BadSurvivors, match="both shares of \\['client-02'\\]"):
        unmask_with(plain(), dropouts=("client-02",))


def test_both_shares_would_have_opened_the_victims_upload(monkeypatch) -> None:
    """The counter-measure taken out: with seed and key the server reads one client's vector."""
    monkeypatch.setattr(client_unmask, "check_unmask_request", lambda *_: None)
    federation, uploads = plain(), {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        uploads.setdefault(phase, {})[name] = frame
        return frame

    federation.run(until="unmask", on_reply=keep)
    seeds, keys = {}, {}
    for name in federation.cohort:
        request = server_says(federation, federation.server.request(name), dropouts=(VICTIM,))
        answer = read(federation, name, federation.clients[name].handle(request))
        place = federation.roster.coordinate(name)
        seeds[place] = next(s.share for s in answer.seed_shares if s.owner == VICTIM)
        keys[place] = next(s.share for s in answer.key_shares if s.owner == VICTIM)
    session, mask_key = federation.server.report.session, KeyPair(combine(keys))
    masks = [MaskKey(self_mask_key(combine(seeds), session, "all", VICTIM), -1)]
    for peer in federation.cohort:
        if peer != VICTIM:
            advert = read(federation, peer, uploads["advertise"][peer])
            secret = mask_key.exchange(advert.mask_key)
            key = pairwise_mask_key(secret, session, "all", VICTIM, peer)
            masks.append(MaskKey(key, -1 if peer > VICTIM else 1))
    upload = read(federation, VICTIM, uploads["masked_input"][VICTIM])
    words = np.zeros(301, np.uint32)
    Packed(20, 301, upload.inputs[0].packed).add_to(0, words)
    MaskStream(masks).mask_chunk(words)
    stolen = np.empty(301, np.float32)
    fixed_point_of(federation.parameters, federation.server.report.plan[0]).decode(words, stolen)
    stolen /= federation.inputs[VICTIM].num_samples
    assert np.abs(stolen - federation.flat(VICTIM, "task_adapter")).max() < 1e-5


def test_own_id_among_the_dead_is_refused() -> None:
    others = ("client-01", "client-02", "client-04", "client-05")
    with pytest.raises(BadSurvivors, match="declare ourselves"):
        unmask_with(plain(), survivors=others, dropouts=(VICTIM,))


@pytest.mark.parametrize(
    "changes",
    [
        {"survivors": ("client-02", "client-03", "client-04", "client-05")},
        {
            "survivors": ("client-02", "client-03", "client-04", "client-05"),
            "dropouts": ("client-01",),
        },
        {"dropouts": ("client-06",)},
        {"dropouts": ("stranger",)},
    ],
)
def test_other_lists_than_those_signed_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadSurvivors):
        unmask_with(plain(), **changes)


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(MalformedMessage, match="ascending"):
        unmask_with(plain(), dropouts=("client-01", "client-01"))


def test_different_survivor_sets_for_different_clients_collect_too_few_signatures() -> None:
    """Two clients hear of a smaller set; nobody then sees a threshold of equal signatures."""
    federation = plain()
    smaller = ("client-01", "client-02", "client-03", "client-05")

    def split(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "consistency" or name not in ("client-01", "client-02"):
            return frame
        message = read(federation, SERVER, frame)
        hashes = dict(zip(message.survivors, message.upload_hashes, strict=True))
        return server_says(
            federation,
            frame,
            survivors=smaller,
            upload_hashes=tuple(hashes[name] for name in smaller),
        )

    federation.run(until="consistency")
    signatures = {}
    for name in federation.cohort:
        request = split("consistency", name, federation.server.request(name))
        reply = federation.clients[name].handle(request)
        signatures[name] = read(federation, name, reply).signature
    claim = tuple(SignedBy(party=n, signature=s) for n, s in sorted(signatures.items()))
    for name, theirs in (("client-03", federation.cohort), ("client-01", smaller)):
        signed = tuple(item for item in claim if item.party in theirs)
        dead = tuple(n for n in federation.cohort if n not in theirs)
        request = unmask_request(federation, name, theirs, dead, signed)
        with pytest.raises(BadSurvivors, match="agree with ours, 4 needed"):
            federation.clients[name].handle(request)


def unmask_request(federation, name, survivors, dropouts, signatures) -> bytes:
    from protocols.messages import UnmaskRequest

    message = UnmaskRequest(
        session=federation.server.report.session,
        sender=SERVER,
        recipient=name,
        survivors=survivors,
        dropouts=dropouts,
        signatures=signatures,
    )
    return seal(message, federation.server_identity)


def test_signatures_below_the_threshold_or_repeated_are_refused() -> None:
    federation = plain().run(until="unmask")
    request = read(federation, SERVER, federation.server.request(VICTIM))
    few = request.signatures[:3]
    with pytest.raises(BadSurvivors, match="3 of 3 signatures"):
        federation.clients[VICTIM].handle(
            server_says(federation, federation.server.request(VICTIM), signatures=few)
        )
    with pytest.raises(BadSurvivors, match="repeated"):
        unmask_with(plain(), signatures=(*few, few[0], few[1]))


def test_a_survivor_set_that_leaves_out_an_uploader_is_refused_by_it() -> None:
    federation = plain()
    others = ("client-01", "client-02", "client-04", "client-05")

    def change(message):
        hashes = dict(zip(message.survivors, message.upload_hashes, strict=True))
        return {"survivors": others, "upload_hashes": tuple(hashes[n] for n in others)}

    federation.run(on_request=cheat_at(federation, "consistency", VICTIM, change))
    assert isinstance(federation.errors[VICTIM], BadSurvivors)


def test_another_upload_than_ours_is_not_confirmed() -> None:
    federation = plain()

    def change(message):
        hashes = message.upload_hashes
        return {"upload_hashes": (*hashes[:2], bytes(32), *hashes[3:])}

    federation.run(on_request=cheat_at(federation, "consistency", VICTIM, change))
    assert "upload hash of ours" in str(federation.errors[VICTIM])


# --- rosters, keys, sessions --------------------------------------------------------------------


def test_a_smaller_roster_for_one_client_strands_that_client_alone() -> None:
    """Its session differs, so nothing it says or hears fits; the others never notice it."""
    federation = plain()

    def change(message):
        return {"advertisements": message.advertisements[:4]}

    federation.run(on_request=cheat_at(federation, "share", VICTIM, change))
    assert federation.server.report.faults[VICTIM].startswith("WrongSession: share: client-03")
    assert VICTIM not in federation.server.report.survivors["share"]
    assert federation.clients[VICTIM].result is None


def test_a_roster_below_the_threshold_is_refused() -> None:
    federation = plain()

    def change(message):
        return {"advertisements": message.advertisements[1:4]}

    federation.run(on_request=cheat_at(federation, "share", VICTIM, change))
    assert "3 members, below 4" in str(federation.errors[VICTIM])


def forged_advert(federation: Federation, signer: Identity, **keys: bytes):
    """An interference that replaces client-01's advertisement in what the victim sees."""

    def change(message):
        first = read(federation, "client-01", message.advertisements[0])
        forged = seal(first.model_copy(update=keys), signer)
        return {"advertisements": (forged, *message.advertisements[1:])}

    return cheat_at(federation, "share", VICTIM, change)


def test_a_substituted_key_is_refused() -> None:
    federation = plain()
    mallory = Identity.generate("client-01", entropy_for("mallory"))
    own = KeyPair(bytes(31) + b"\x07").public
    federation.run(on_request=forged_advert(federation, mallory, mask_key=own))
    assert isinstance(federation.errors[VICTIM], BadSignature)
    assert federation.errors[VICTIM].party == "client-01"


@pytest.mark.parametrize("key", sorted(SMALL_ORDER_KEYS))
@pytest.mark.parametrize("usage", ["share_key", "mask_key", "recipient_key"])
def test_small_order_keys_are_refused(key: bytes, usage: str) -> None:
    federation = plain(3, max_colluders=0, min_contributors=2)
    signer = federation.identities["client-01"]
    federation.run(on_request=forged_advert(federation, signer, **{usage: key}))
    assert isinstance(federation.errors[VICTIM], BadKey)
    with_top_bit = key[:31] + bytes([key[31] | 0x80])
    with pytest.raises(ValueError, match="small order"):
        KeyPair(bytes(31) + b"\x01").exchange(with_top_bit)


def test_a_reused_key_is_refused() -> None:
    federation = plain().run(until="share")
    request = read(federation, SERVER, federation.server.request(VICTIM))
    theirs = read(federation, "client-02", request.advertisements[1]).mask_key
    change = forged_advert(federation, federation.identities["client-01"], mask_key=theirs)
    with pytest.raises(BadKey, match="client-01 advertises too"):
        federation.clients[VICTIM].handle(
            change("share", VICTIM, federation.server.request(VICTIM))
        )


def test_the_server_too_refuses_small_order_and_copied_keys() -> None:
    federation = plain()

    def copy_key(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("advertise", "client-02"):
            return frame
        return client_says(federation, name, frame, mask_key=min(SMALL_ORDER_KEYS))

    federation.run(on_reply=copy_key)
    assert federation.server.report.faults["client-02"].startswith("BadKey: advertise: client-02")
    assert "client-02" not in federation.server.report.opened["all"]


def test_our_own_advertisement_cannot_be_replaced() -> None:
    federation = plain().run(until="share")
    message = read(federation, SERVER, federation.server.request(VICTIM))
    older = federation.clients[VICTIM]
    federation.start(attempt=0)
    federation.seed = "other"
    federation.start(attempt=0)
    federation.run(until="share")
    request = server_says(
        federation, federation.server.request(VICTIM), advertisements=message.advertisements
    )
    with pytest.raises(BadKey, match="our own advertisement"):
        federation.clients[VICTIM].handle(request)
    assert older.state == "advertised"


@pytest.mark.parametrize(
    "changes", [{"round": 2}, {"stage": 2}, {"attempt": 1}, {"run_id": "run-2"}]
)
def test_replay_across_rounds_stages_attempts_and_runs_is_refused(changes) -> None:
    recorded: dict[tuple[str, str], bytes] = {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        recorded[phase, name] = frame
        return frame

    old = plain().run(on_request=keep)
    new = plain()
    new.start(**changes)
    refused = []

    def replay(phase: str, name: str, frame: bytes) -> bytes:
        if name == VICTIM:
            with pytest.raises(WrongSession):
                new.clients[name].handle(recorded[phase, name])
            refused.append(phase)
        return frame

    new.run(on_request=replay)
    assert refused == list(old.server.report.survivors)
    assert new.server.report.aborted is None, "a replay must not disturb the attempt either"


def test_a_clients_reply_of_another_session_is_refused_by_the_server() -> None:
    old_replies: dict[tuple[str, str], bytes] = {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        old_replies[phase, name] = frame
        return frame

    plain().run(on_reply=keep)
    new = plain()
    new.start(round=2)

    def replay(phase: str, name: str, frame: bytes) -> bytes:
        replayed = phase == "masked_input" and name == VICTIM
        return old_replies[phase, name] if replayed else frame

    new.run(on_reply=replay)
    assert new.server.report.faults[VICTIM].startswith("WrongSession: masked_input: client-03")
    assert VICTIM not in new.server.report.opened["all"]


# --- order and attempts -------------------------------------------------------------------------


def test_masked_input_before_shares_is_refused() -> None:
    federation = plain().run(until="masked_input")
    early = plain().run(until="share")
    with pytest.raises(WrongSession):
        early.clients[VICTIM].handle(federation.server.request(VICTIM))
    plan = server_says(federation, federation.server.request(VICTIM), shares=())
    with pytest.raises(BadPlan, match="shares are not those"):
        federation.clients[VICTIM].handle(plan)


def test_no_request_is_answered_twice() -> None:
    federation = plain()

    def repeat(phase: str, name: str, frame: bytes) -> bytes:
        client = federation.clients[name]
        if name == VICTIM and client.state != "idle" and previous:
            with pytest.raises((UnexpectedMessage, WrongSession)):
                client.handle(previous[-1])
        if name == VICTIM:
            previous.append(frame)
        return frame

    previous: list[bytes] = []
    federation.run(on_request=repeat)
    assert len(previous) == 6
    assert federation.server.report.aborted is None


def test_a_second_attempt_after_an_answered_unmask_is_refused() -> None:
    federation = plain().run(drop_before={"deliver": set(plain().cohort)})
    federation.start(attempt=1)
    federation.run()
    assert all(isinstance(error, AttemptRefused) for error in federation.errors.values())
    assert len(federation.errors) == 5


def test_a_second_attempt_would_have_differenced_out_a_client() -> None:
    """The counter-measure taken out: forgetful guards, one client fewer, subtract."""
    federation = plain().run()
    first, report = federation.server.report.means["all"], federation.server.report
    everybody = sum(inputs.num_samples for inputs in federation.inputs.values())
    federation.guards = {name: MemoryGuard() for name in federation.cohort}
    federation.start(attempt=1)
    federation.run(drop_before={"masked_input": {VICTIM}})
    second = federation.server.report.means["all"]
    assert report.opened["all"] == federation.cohort
    n = federation.inputs[VICTIM].num_samples
    stolen = (first * everybody - second * (everybody - n)) / n
    assert np.abs(stolen - federation.flat(VICTIM, "task_adapter")).max() < 1e-4


def test_an_attempt_that_overtakes_another_is_refused_at_its_unmasking() -> None:
    """Two attempts run side by side; the guard lets the client answer one of them only."""
    federation = plain().run(until="unmask")
    first, first_server = federation.clients[VICTIM], federation.server
    federation.start(attempt=1)
    federation.run(until="unmask")
    federation.clients[VICTIM].handle(federation.server.request(VICTIM))
    with pytest.raises(AttemptRefused):
        first.handle(first_server.request(VICTIM))


# --- shares -------------------------------------------------------------------------------------


def test_a_flipped_share_is_refused_by_its_holder() -> None:
    federation = plain()

    def change(message):
        first = message.shares[0]
        flipped = bytes([first.ciphertext[0] ^ 1]) + first.ciphertext[1:]
        return {"shares": (first.model_copy(update={"ciphertext": flipped}), *message.shares[1:])}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, change))
    assert isinstance(federation.errors[VICTIM], BadShare)
    assert federation.errors[VICTIM].party == "client-01"


def test_a_share_that_its_dealer_did_not_commit_to_is_refused() -> None:
    federation = plain()

    def other_commitment(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("share", "client-01"):
            return frame
        lists = read(federation, name, frame).commitments
        wrong = lists[2].model_copy(update={"digests": (bytes(32), *lists[2].digests[1:])})
        return client_says(federation, name, frame, commitments=(*lists[:2], wrong, *lists[3:]))

    federation.run(on_reply=other_commitment)
    assert isinstance(federation.errors[VICTIM], BadShare)
    assert federation.errors[VICTIM].party == "client-01"


@pytest.mark.parametrize("kind", ["seed_shares", "key_shares"])
def test_a_flipped_share_at_the_unmasking_names_its_holder_and_the_sum_is_right(kind) -> None:
    federation = plain(6)

    def flip(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("unmask", VICTIM):
            return frame
        revealed = getattr(read(federation, name, frame), kind)
        wrong = revealed[0].model_copy(update={"share": bytes(32)})
        return client_says(federation, name, frame, **{kind: (wrong, *revealed[1:])})

    federation.run(on_reply=flip, drop_before={"masked_input": {"client-06"}})
    report = federation.server.report
    assert report.faults[VICTIM].startswith("BadShare: unmask: client-03")
    left = federation.cohort[:5]
    total = sum(federation.inputs[n].num_samples for n in left)
    mean = sum(federation.inputs[n].num_samples * federation.flat(n, "task_adapter") for n in left)
    assert np.abs(report.means["all"] - mean / total).max() < 1e-5


def test_a_dealer_whose_shares_do_not_fit_together_spoils_no_sum_silently() -> None:
    """It commits to shares of another seed than it masks with: the sum stays closed."""
    federation = plain()
    honest = federation.clients["client-02"]
    federation.run(until="masked_input")
    state = honest._state
    object.__setattr__(state.session, "seeds", {"all": bytes(32)})
    federation.run()
    assert federation.server.report.means == {}
    assert federation.server.report.skipped["all"].startswith("its terms do not fit together")


# --- plans, selections, distances ---------------------------------------------------------------


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_a_plan_with_other_contributors_is_refused(visibility: str, monkeypatch) -> None:
    federation = pilot(monkeypatch, neighbour_visibility=visibility)

    def pair_only(message):
        first = message.sums[0].model_copy(update={"contributors": ("client-01", VICTIM)})
        return {"sums": (first, *message.sums[1:])}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, pair_only))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_a_sealed_sum_redirected_to_another_recipient_is_refused(monkeypatch) -> None:
    federation = pilot(monkeypatch)

    def redirect(message):
        last = message.sums[-1].model_copy(update={"recipient": "client-01"})
        return {"sums": (*message.sums[:-1], last)}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, redirect))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_a_task_below_the_minimum_gets_no_terms_from_its_members(monkeypatch) -> None:
    """The server insists on a sum of two; the members' own rules leave it out of the plan."""
    federation = pilot(monkeypatch).run(until="masked_input", drop_before={"select": {"client-09"}})
    from protocols.messages import PlannedSum

    def insist(message):
        pair = PlannedSum(id="task-2", recipient=SERVER, contributors=("client-03", "client-06"))
        return {"sums": tuple(sorted([*message.sums, pair], key=lambda s: s.id))}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, insist))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_different_plans_for_different_clients_are_refused(monkeypatch) -> None:
    federation = pilot(monkeypatch)

    def fewer(message):
        keep = tuple(n for n in message.participants if n != "client-09")
        return {"participants": keep}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, fewer))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def crafted_list(federation: Federation, owner: str, victim: str, **changes: object):
    """An interference on owner's reply: another signed neighbour list for one peer."""
    from protocols.client_select import hide_list
    from protocols.distance_messages import NeighbourList, Selection

    def interfere(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", owner):
            return frame
        state = federation.clients[owner]._state
        listing = NeighbourList(
            session=state.session.id,
            sender=owner,
            recipient=SERVER,
            neighbours=state.chosen.neighbours,
            scale=state.chosen.scale,
        ).model_copy(update=changes)
        other = seal(listing, federation.identities[owner])
        selection = read(federation, owner, frame)
        assert isinstance(selection, Selection)
        peers = tuple(box.party for box in selection.boxes)
        hidden = hide_list(federation.clients[owner]._context, state.session, peers, other)
        crafted = {box.party: box for box in hidden}
        boxes = tuple(crafted[b.party] if b.party == victim else b for b in selection.boxes)
        return client_says(federation, owner, frame, boxes=boxes)

    return interfere


@pytest.mark.parametrize(
    "neighbours",
    [
        ("client-03",),
        ("client-01", "client-02", "client-03"),
        tuple(f"client-0{i}" for i in range(2, 10)),
        ("client-02", "client-03", "nobody"),
    ],
    ids=["below the minimum", "itself", "too many", "a stranger"],
)
def test_a_neighbour_list_that_breaks_the_rules_is_refused(neighbours, monkeypatch) -> None:
    federation = pilot(monkeypatch)
    cheat = crafted_list(federation, "client-01", VICTIM, neighbours=neighbours)
    federation.run(on_reply=cheat)
    assert isinstance(federation.errors[VICTIM], BadSelection)
    assert federation.errors[VICTIM].party == "client-01"


def test_different_neighbour_lists_for_different_clients_never_open(monkeypatch) -> None:
    """A recipient gives its list to half the cohort and another list to the other half."""
    federation = pilot(monkeypatch)
    other = ("client-02", "client-03", "client-04", "client-05", "client-06", "client-07")

    def cheat(phase: str, name: str, frame: bytes) -> bytes:
        for victim in ("client-02", "client-03", "client-04", "client-05"):
            frame = crafted_list(federation, "client-01", victim, neighbours=other, scale=0.1)(
                phase, name, frame
            )
        return frame

    federation.run(on_reply=cheat)
    refused = [e for e in federation.errors.values() if isinstance(e, BadSurvivors)]
    assert len(refused) == 9
    assert federation.server.report.aborted.startswith("unmask: 0 clients left")


def test_a_visible_list_below_the_minimum_is_refused_by_the_server_too(monkeypatch) -> None:
    federation = pilot(monkeypatch, neighbour_visibility="visible")

    def short(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", "client-01"):
            return frame
        return client_says(federation, name, frame, neighbours=(VICTIM,))

    federation.run(on_reply=short)
    assert federation.server.report.faults["client-01"].startswith("BadSelection")
    assert "client-01" not in federation.server.report.survivors["select"]


def test_weights_in_a_neighbour_list_are_an_unknown_field(monkeypatch) -> None:
    from protocols.client_select import hide_list
    from protocols.codec import decode, encode
    from protocols.frame import LABEL
    from protocols.identity import sha256

    federation = pilot(monkeypatch)

    def with_weights(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", "client-01"):
            return frame
        state = federation.clients[name]._state
        body = decode(state.frame[64:])
        body["weights"] = (0.99, 0.01)
        raw = encode(body)
        forged = federation.identities[name].sign(LABEL + sha256(raw)) + raw
        peers = tuple(n for n in federation.cohort if n != name)
        boxes = hide_list(federation.clients[name]._context, state.session, peers, forged)
        return client_says(federation, name, frame, boxes=boxes)

    federation.run(on_reply=with_weights)
    error = federation.errors[VICTIM]
    assert isinstance(error, MalformedMessage) and error.party == "client-01"
    assert "weights: Extra inputs" in str(error)


def test_a_visible_list_other_than_the_encrypted_one_is_refused(monkeypatch) -> None:
    """The recipient tells the server other neighbours than its peers: no term is sent for it."""
    federation = pilot(monkeypatch, neighbour_visibility="visible")

    def other(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", "client-01"):
            return frame
        told = read(federation, name, frame).neighbours
        missing = next(n for n in federation.cohort[1:] if n not in told)
        lie = tuple(sorted({*told[1:], missing}))
        return client_says(federation, name, frame, neighbours=lie)

    federation.run(on_reply=other)
    assert len(federation.errors) == 9
    assert all(isinstance(error, BadPlan) for error in federation.errors.values())
    assert federation.server.report.aborted.startswith("masked_input: 0 clients left")


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_the_server_sees_no_distance_and_the_graph_only_if_visible(visibility, monkeypatch) -> None:
    """What a selection shows the server: names or nothing; the scale is in no clear byte."""
    import struct

    federation = pilot(monkeypatch, neighbour_visibility=visibility)
    selections: dict[str, bytes] = {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "select":
            selections[name] = frame
        return frame

    federation.run(on_reply=keep)
    for name, frame in selections.items():
        result = federation.clients[name].result
        shown = read(federation, name, frame).neighbours
        assert shown == (result.neighbours if visibility == "visible" else ())
        assert struct.pack(">d", result.scale) not in frame


def test_a_recipient_cannot_single_out_a_victim_by_its_scale() -> None:
    from protocols.selection import weight

    distances = [0.5, 1.0, 1.1, 1.2, 1.3]
    for scale in np.geomspace(1e-9, 1e9, 200):
        weights = [weight(float(scale), d) for d in distances]
        assert max(weights) / min(weights) <= 4.0


def test_a_recipient_declared_dead_does_not_open_its_sum(monkeypatch) -> None:
    """Its sum is in the plan and all others answer: none reveals a seed share for it."""
    federation = pilot(monkeypatch)
    revealed: list[str] = []

    def watch(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "unmask":
            answer = read(federation, name, frame)
            revealed.extend(share.sum_id for share in answer.seed_shares)
        return frame

    federation.run(drop_before={"masked_input": {VICTIM}}, on_reply=watch)
    assert f"text-{VICTIM}" in {planned.id for planned in federation.server.report.plan}
    assert f"text-{VICTIM}" not in revealed
    assert "text-client-01" in revealed
    assert f"text-{VICTIM}" in federation.server.report.skipped


def test_a_real_upload_forwarded_as_a_distance_is_refused() -> None:
    """With the real encrypted distances: a peer returns a ciphertext of its choice."""
    federation = Federation(count=5, num_tasks=1)
    federation.run(until="select")
    victim = federation.clients[VICTIM]._state
    mallory = federation.clients["client-01"]._state
    for forged in (mallory.distances.upload(), victim.distances.upload(), b"", bytes(100)):
        box = mallory.session.channel(VICTIM).seal("distance-reply", "client-01", VICTIM, forged)

        def change(message, ciphertext=box):
            first = message.boxes[0].model_copy(update={"ciphertext": ciphertext})
            return {"boxes": (first, *message.boxes[1:])}

        from protocols.client_select import open_row

        forged_frame = cheat_at(federation, "select", VICTIM, change)(
            "select", VICTIM, federation.server.request(VICTIM)
        )
        with pytest.raises(BadDistance) as refused:
            open_row(
                federation.clients[VICTIM]._context, victim, read(federation, SERVER, forged_frame)
            )
        assert refused.value.party == "client-01"


def test_an_upload_with_a_chosen_public_key_or_other_length_is_refused() -> None:
    federation = Federation(count=5, num_tasks=1)

    def longer(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "distance_reply" or name == "client-01":
            return frame
        uploads = read(federation, SERVER, frame).uploads
        upload = read(federation, "client-01", uploads[0]).upload + bytes(65536)
        forged = client_says(federation, "client-01", uploads[0], upload=upload)
        return server_says(federation, frame, uploads=(forged, *uploads[1:]))

    federation.run(on_request=longer)
    errors = [e for e in federation.errors.values() if isinstance(e, BadDistance)]
    assert len(errors) == 4 and {e.party for e in errors} == {"client-01"}


# --- delivery -----------------------------------------------------------------------------------


def test_a_sealed_sum_for_somebody_else_is_refused(monkeypatch) -> None:
    federation = pilot(monkeypatch).run(until="deliver")
    theirs = read(federation, SERVER, federation.server.request("client-01")).sealed
    with pytest.raises(BadDelivery, match="not ours"):
        federation.clients[VICTIM].handle(
            server_says(federation, federation.server.request(VICTIM), sealed=theirs)
        )


def test_a_sealed_sum_in_the_wrong_hands_is_noise(monkeypatch) -> None:
    """What the server holds of a sealed sum tells neither it nor another client anything."""
    federation = pilot(monkeypatch).run(until="deliver")
    sealed = read(federation, SERVER, federation.server.request(VICTIM)).sealed
    words = np.zeros(202, np.uint32)
    Packed(20, 202, sealed.packed).add_to(0, words)
    middle = np.mean((words > 2**17) & (words < 2**20 - 2**17))
    assert middle > 0.6


def test_means_that_differ_between_clients_abort_the_next_aggregation() -> None:
    federation = plain()

    def other_mean(message):
        opened = message.opened[0]
        flipped = bytes([opened.packed[0] ^ 1]) + opened.packed[1:]
        return {"opened": (opened.model_copy(update={"packed": flipped}),)}

    federation.run(on_request=cheat_at(federation, "deliver", VICTIM, other_mean))
    hashes = {n: c.result.results_hash for n, c in federation.clients.items()}
    assert len(set(hashes.values())) == 2
    for name in federation.cohort:
        inputs = federation.inputs[name]
        federation.inputs[name] = type(inputs)(inputs.vectors, inputs.num_samples, hashes[name])
    federation.start(round=2)
    federation.run()
    assert federation.server.report.aborted.startswith("advertise: ['client-03'] accepted other")


def test_a_client_too_notices_that_a_peer_accepted_other_results() -> None:
    federation = plain()
    inputs = federation.inputs["client-01"]
    federation.inputs["client-01"] = type(inputs)(inputs.vectors, inputs.num_samples, b"\x01" * 32)
    federation.start(round=2)
    federation.run(until="advertise")
    frames = {}
    for name in federation.cohort:
        frames[name] = federation.clients[name].handle(federation.server.request(name))
    from protocols.messages import Advertisements

    request = seal(
        Advertisements(
            session=federation.parameters.digest(),
            sender=SERVER,
            recipient=VICTIM,
            advertisements=tuple(frames[n] for n in federation.cohort),
            others=(),
        ),
        federation.server_identity,
    )
    with pytest.raises(WrongSession, match="client-01: it accepted other results"):
        federation.clients[VICTIM].handle(request)


# --- masks and parameters -----------------------------------------------------------------------


def test_masks_differ_between_rounds_even_under_one_key() -> None:
    secret = KeyPair(bytes(31) + b"\x01").exchange(KeyPair(bytes(31) + b"\x02").public)
    keys = {
        pairwise_mask_key(secret, session, sum_id, "client-01", "client-02")
        for session in (bytes(32), b"\x01" * 32)
        for sum_id in ("one", "two")
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": 3}, "two survivor sets"),
        ({"threshold": 6}, "more than the cohort"),
        ({"min_contributors": 2}, "honest client alone"),
    ],
)
def test_unsafe_parameters_are_refused(options, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        plain(5, **options)


def test_a_ring_without_headroom_for_its_cohort_is_refused() -> None:
    cohort = names(4096)
    with pytest.raises(ParameterError, match="16 leaves 7 levels to 4096 contributors"):
        plain().parameters_for(cohort=cohort, sums=plain_sum(cohort), threshold=2050, ring_bits=16)


def test_a_caught_server_gets_nothing_more_from_that_client() -> None:
    """After a broken rule the honest request comes too late: the secrets are gone."""
    federation = plain().run(until="unmask")
    honest = federation.server.request(VICTIM)
    client = federation.clients[VICTIM]
    with pytest.raises(BadSurvivors):
        client.handle(server_says(federation, honest, dropouts=("client-02",)))
    assert client.state == "failed"
    with pytest.raises(LocalProtocolError, match="ended with BadSurvivors"):
        client.handle(honest)
    assert not hasattr(client._state, "uploaded")


@pytest.mark.parametrize("bound", [1e-13, 1e-45, 1e13, 1e300])
def test_bounds_that_float32_cannot_scale_are_refused(bound: float) -> None:
    with pytest.raises(ParameterError, match="clip of task_adapter: .* is outside"):
        plain(5, clip={"task_adapter": bound})
    with pytest.raises(ParameterError, match="distance_norm_bound: .* is outside"):
        plain(5, distance_norm_bound=bound)


@pytest.mark.parametrize("bound", [1e-12, 1e12])
def test_at_both_ends_of_the_clip_means_are_right(bound: float) -> None:
    federation = plain(5, clip={"task_adapter": bound})
    for name in federation.cohort:
        federation.inputs[name].vectors["task_adapter"]["first"][:] = bound / 2
    mean = federation.run().server.report.means["all"]
    assert np.abs(mean[:150] / bound - 0.5).max() < 1e-3


@pytest.mark.parametrize("shift", [1 << 40, -(1 << 40), 1 << 23, -(1 << 23)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sealed_sum_with_shifted_scalars_is_refused(monkeypatch, place: int, shift: int) -> None:
    shift *= 128 if place == 2 else 1
    federation = pilot(monkeypatch).run(until="deliver")
    request = federation.server.request(VICTIM)
    sealed = read(federation, SERVER, request).sealed
    words = list(scalars_from_wire(sealed.scalars))
    words[place] = (words[place] + shift) % (1 << 64)
    shifted = sealed.model_copy(update={"scalars": scalars_to_wire(tuple(words))})
    with pytest.raises(BadDelivery, match="scalars are impossible"):
        federation.clients[VICTIM].handle(server_says(federation, request, sealed=shifted))


@pytest.mark.parametrize(
    ("phase", "change"),
    [
        ("share", "short"),
        ("share", "long"),
        ("distance_upload", "short"),
        ("distance_reply", "short"),
        ("distance_reply", "long"),
        ("select", "short"),
        ("select", "long"),
    ],
)
def test_a_message_of_the_wrong_length_costs_its_sender_alone(monkeypatch, phase, change) -> None:
    """The server drops the client instead of letting every peer abort over its message."""

    def resized(data: bytes) -> bytes:
        return data[:-1] if change == "short" else data + b"\0"

    def interfere(present: str, name: str, frame: bytes) -> bytes:
        if (present, name) != (phase, VICTIM):
            return frame
        message = read(federation, name, frame)
        if phase == "distance_upload":
            return client_says(federation, name, frame, upload=resized(message.upload))
        boxes = tuple(
            box.model_copy(update={"ciphertext": resized(box.ciphertext)}) for box in message.boxes
        )
        return client_says(federation, name, frame, boxes=boxes)

    federation = pilot(monkeypatch)
    federation.run(on_reply=interfere)
    report = federation.server.report
    assert f"{phase}: {VICTIM}: a" in report.faults[VICTIM] and len(report.faults) == 1
    assert report.aborted is None
    assert all(VICTIM not in members for members in report.opened.values())
    assert len([name for name in report.opened if name.startswith("text-")]) == 8
