"""The survivor set and the unmasking, attacked by an active server."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, cheat_at, client_says, pilot, plain, read, server_says
from in_process import Federation

from protocols import SERVER, client_unmask
from protocols.errors import (
    BadSurvivors,
    LocalProtocolError,
    MalformedMessage,
)
from protocols.frame import seal
from protocols.keys import KeyPair, pairwise_mask_key, self_mask_key
from protocols.masks import MaskKey, MaskStream
from protocols.messages import SignedBy, UnmaskRequest
from protocols.results import fixed_point_of
from protocols.ring import Packed
from protocols.shares import combine


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
        with pytest.raises(BadSurvivors, match="agree with ours, 4 needed; not those") as told:
            federation.clients[name].handle(request)
        assert told.value.party == SERVER


def unmask_request(federation, name, survivors, dropouts, signatures) -> bytes:
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


def junk_of(federation: Federation, *junkers: str, **junk: bytes):
    """An interference: these clients put junk into their consistency messages."""

    def interfere(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "consistency" or name not in junkers:
            return frame
        return client_says(federation, name, frame, **junk)

    return interfere


@pytest.mark.parametrize("kind", ["signature", "lists"])
def test_junk_confirmations_cost_their_sender_alone_and_nobody_accuses_the_server(
    kind: str, monkeypatch
) -> None:
    """Also when lists are hidden, and with as many clients left as the threshold needs."""
    federation = pilot(monkeypatch)
    junk = junk_of(federation, VICTIM, **{kind: b"junk" * (16 if kind == "signature" else 8)})
    drops = {"consistency": {"client-01", "client-02"}}
    report = federation.run(on_reply=junk, drop_before=drops).server.report
    assert federation.errors == {} and list(report.faults) == [VICTIM]
    assert report.faults[VICTIM].startswith("BadSignature: consistency: client-03")
    assert report.aborted is None and report.opened


def test_one_junk_confirmation_too_many_aborts_before_any_share_is_asked_for() -> None:
    federation = plain()
    junk = junk_of(federation, "client-01", VICTIM, signature=bytes(64))
    report = federation.run(on_reply=junk).server.report
    assert report.aborted.startswith("consistency: 3 clients left, 4 needed")
    assert sorted(report.faults) == ["client-01", VICTIM] and federation.errors == {}


def test_other_lists_that_a_client_signs_leave_it_out(monkeypatch) -> None:
    """It signs what it says it saw, and that is not what the others saw."""
    federation = pilot(monkeypatch).run(until="consistency")
    state = federation.clients[VICTIM]._state
    state.agreement.list_hashes["client-01"] = bytes(32)
    report = federation.run().server.report
    assert report.faults[VICTIM].startswith("BadSurvivors: consistency: client-03: it saw other")
    assert federation.errors == {} and report.aborted is None


def test_signatures_that_the_server_forges_are_its_own_fault() -> None:
    federation = plain().run(until="unmask")
    request = federation.server.request(VICTIM)
    signed = read(federation, SERVER, request).signatures
    forged = tuple(item.model_copy(update={"signature": bytes(64)}) for item in signed[:2])
    with pytest.raises(BadSurvivors, match="not those of client-01, client-02, as relayed") as told:
        federation.clients[VICTIM].handle(
            server_says(federation, request, signatures=(*forged, *signed[2:]))
        )
    assert told.value.party == SERVER


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
