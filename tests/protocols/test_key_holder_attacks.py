"""Key-holder trust in the phases: whole attempts, drop-outs, and attacks really carried out."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable

import numpy as np
import pytest
from cheating import cheat_at, client_says, read, server_says
from in_process import KEY_HOLDER_TRUST, Federation
from test_aggregation import assert_equals_reference

from protocols import (
    KEY_HOLDER,
    SERVER,
    AggregationKeyHolder,
    Entropy,
    Identity,
    MemoryGuard,
    Roster,
    client_blinded,
)
from protocols import holder as holder_module
from protocols.blinding import blind
from protocols.codec import decode, encode
from protocols.distance_frames import closing_hash
from protocols.distance_messages import MeasuredUpload, PairResult
from protocols.distance_table import SALT_BYTES
from protocols.errors import (
    AttemptAborted,
    AttemptRefused,
    BadDistance,
    BadKey,
    BadPlan,
    BadShare,
    BadSignature,
    BadSurvivors,
    LocalProtocolError,
    MalformedMessage,
    ParameterError,
    PeerError,
    UnexpectedMessage,
    WrongSession,
)
from protocols.frame import LABEL, open_frame, seal
from protocols.frame_sizes import largest_frame
from protocols.identity import sha256
from protocols.key_holder import KeyHolder
from protocols.messages import Box
from protocols.server_unmask import Consistent

VICTIM = "client-03"
Change = Callable[..., dict[str, object]]


def four(**options: object) -> Federation:
    """Four clients with three neighbours, threshold 3."""
    options = {"num_neighbours": 3, **KEY_HOLDER_TRUST, **options}
    return Federation(count=4, num_tasks=1, options=options)


# --- whole attempts -----------------------------------------------------------------------------


@pytest.mark.parametrize("visibility", ["hidden", pytest.param("visible", marks=pytest.mark.slow)])
def test_nine_clients_get_the_distances_and_sums_of_the_reference(visibility: str) -> None:
    options = {"neighbour_visibility": visibility, **KEY_HOLDER_TRUST}
    federation = Federation(options=options).run()
    report = federation.server.report
    assert (report.aborted, report.faults, federation.errors) == (None, {}, {})
    assert set(report.opened) == {spec.id for spec in federation.parameters.sums}
    assert_equals_reference(federation)
    for name in federation.cohort:
        own = federation.flat(name, "text_adapter")
        for peer, distance in federation.clients[name].result.row.items():
            exact = np.linalg.norm(own - federation.flat(peer, "text_adapter"))
            assert distance == pytest.approx(exact, rel=1e-4)


def test_a_sketch_is_measured_too() -> None:
    federation = four(sketch_size=64).run()
    assert federation.server.report.aborted is None
    row = federation.clients[VICTIM].result.row
    assert {peer: federation.clients[peer].result.row[VICTIM] for peer in row} == row


@pytest.mark.parametrize("phase", ["advertise", "share", "distance_upload", "select", "deliver"])
def test_a_missing_client_is_no_candidate(phase: str) -> None:
    """The dealer of the blinding secret, gone before any phase, takes nobody with it."""
    options = {"num_neighbours": 3, **KEY_HOLDER_TRUST}
    federation = Federation(count=6, num_tasks=1, options=options)
    federation.run(drop_before={phase: {"client-01"}})
    report = federation.server.report
    assert report.aborted is None and federation.errors == {}
    measured = phase in ("select", "deliver")
    for name in federation.cohort[1:]:
        assert ("client-01" in federation.clients[name].result.row) == measured
    if phase != "deliver":
        assert all("client-01" not in contributors for contributors in report.opened.values())


@pytest.mark.parametrize("phase", ["share", "distance_release"])
def test_a_missing_holder_aborts_the_attempt_with_the_reason(phase: str) -> None:
    federation = four().run(drop_before={phase: {KEY_HOLDER}})
    report = federation.server.report
    assert report.aborted.startswith(f"{phase}: the key holder")
    assert report.dropouts[phase] == (KEY_HOLDER,)
    assert report.opened == {}
    assert all(client.result is None for client in federation.clients.values())
    federation.start(attempt=1)
    assert federation.run().server.report.aborted is None


def test_another_client_deals_in_the_next_attempt() -> None:
    federation = four().run(until="distance_upload")
    first = federation.server._phase.dealer
    federation.start(attempt=1)
    assert federation.run(until="distance_upload").server._phase.dealer != first


def test_without_selected_sums_nobody_asks_a_key_holder() -> None:
    federation = Federation(count=4, plain=True, options=KEY_HOLDER_TRUST).run()
    assert federation.server.report.aborted is None
    assert "distance_release" not in federation.server.report.survivors


def test_parameters_and_roster_must_name_a_key_holder() -> None:
    federation = four()
    with pytest.raises(ParameterError, match="is for key_holder trust, not peer"):
        federation.parameters_for(distance_trust="peer")
    with pytest.raises(ParameterError, match="unknown CKKS parameter set 'holder-1'"):
        federation.parameters_for(distance_parameter_set="holder-1")
    without = Roster.of(federation.server_identity, list(federation.identities.values()))
    federation.roster = without
    with pytest.raises(ParameterError, match="needs a key holder in the roster"):
        federation.start()
    with pytest.raises(ValueError, match="no client can be called"):
        Roster.of(federation.server_identity, [Identity.generate(KEY_HOLDER, Entropy())])


# --- the server against the holder --------------------------------------------------------------


def release_with(change: Change) -> tuple[Federation, PeerError]:
    """Run until the holder is asked, and ask it something else."""
    federation = four()
    federation.run(on_request=cheat_at(federation, "distance_release", KEY_HOLDER, change))
    assert federation.server.report.aborted.startswith("distance_release: the key holder released")
    assert federation.server.report.opened == {}
    with pytest.raises(LocalProtocolError):
        federation.holder.handle(b"")
    return federation, federation.errors[KEY_HOLDER]


def test_a_swapped_ciphertext_is_refused() -> None:
    """The server computes with client-01's ciphertext in the victim's place."""

    def swap(message):
        results = {(r.one, r.other): r.digest for r in message.results}
        victim, other = ("client-01", "client-03"), ("client-01", "client-02")
        results[victim] = results[other]
        return {
            "results": tuple(PairResult(one=a, other=b, digest=d) for (a, b), d in results.items())
        }

    _, error = release_with(swap)
    assert isinstance(error, BadDistance) and error.party == SERVER
    assert "is not the evaluation of the signed uploads" in error.reason


def test_an_upload_that_the_server_made_is_refused() -> None:
    def forge(message):
        frame = message.uploads[2]
        return {"uploads": (*message.uploads[:2], bytes(64) + frame[64:], message.uploads[3])}

    _, error = release_with(forge)
    assert isinstance(error, BadSignature) and error.party == SERVER, "client-03 signed nothing"


def test_left_out_uploads_leave_too_few() -> None:
    def leave_out(message):
        kept = {"client-01", "client-02"}
        results = [r for r in message.results if {r.one, r.other} <= kept]
        return {"uploads": message.uploads[:2], "results": tuple(results)}

    _, error = release_with(leave_out)
    assert isinstance(error, BadPlan) and "2 uploads, below the threshold" in error.reason


def test_a_result_left_out_or_given_twice_is_refused() -> None:
    for change in (
        lambda message: {"results": message.results[1:]},
        lambda message: {"results": (*message.results, message.results[0])},
    ):
        _, error = release_with(change)
        assert isinstance(error, BadDistance) and error.party == SERVER


def test_a_repeated_upload_is_refused() -> None:
    _, error = release_with(lambda message: {"uploads": (message.uploads[0], *message.uploads[:3])})
    assert isinstance(error, BadPlan)


def test_an_upload_of_an_earlier_attempt_is_refused() -> None:
    """Replayed towards the holder: signed by the victim, for another session."""
    federation, old = four(), {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "distance_upload":
            old[name] = frame
        return frame

    federation.run(until="distance_release", on_reply=keep)
    federation.start(attempt=1)

    def replay(message):
        return {"uploads": (*message.uploads[:2], old[VICTIM], message.uploads[3])}

    federation.run(on_request=cheat_at(federation, "distance_release", KEY_HOLDER, replay))
    error = federation.errors[KEY_HOLDER]
    assert isinstance(error, WrongSession) and error.party == SERVER


def test_the_holder_is_no_decryption_oracle() -> None:
    """Ciphertexts have no place in the request; the hash of another one opens nothing."""

    def other_hash(message):
        forged = message.results[0].model_copy(update={"digest": sha256(message.uploads[0])})
        return {"results": (forged, *message.results[1:])}

    _, error = release_with(other_hash)
    assert "is not the evaluation" in error.reason

    def ciphertext(message):
        forged = message.results[0].model_copy(update={"digest": message.uploads[0]})
        return {"results": (forged, *message.results[1:])}

    federation = four().run(until="distance_release")
    request = federation.server.request(KEY_HOLDER)
    message = read(federation, SERVER, request)
    with pytest.raises(MalformedMessage, match="results|above"):
        federation.holder.handle(
            seal(message.model_copy(update=ciphertext(message)), federation.server_identity)
        )
    assert federation.holder.state == "keyed"


def test_the_request_grows_with_the_uploads_not_with_the_pairs() -> None:
    """A hundred clients have 4950 encrypted distances of 66 KB, of which 32 bytes each are sent."""
    federation = four().run(until="distance_release")
    request = federation.server.request(KEY_HOLDER)
    uploads = read(federation, SERVER, request).uploads
    assert len(request) < sum(map(len, uploads)) + 6 * 128 + 512


def test_a_second_release_is_refused() -> None:
    federation = four().run(until="distance_release")
    request = federation.server.request(KEY_HOLDER)
    federation.holder.handle(request)
    assert federation.holder.state == "released"
    with pytest.raises(MalformedMessage, match="released: server: a frame of .* above"):
        federation.holder.handle(request)
    with pytest.raises(UnexpectedMessage, match="release_request in state released"):
        federation.holder.handle(server_says(federation, request, uploads=(), results=()))


def test_a_server_that_begins_again_and_again_gets_two_releases() -> None:
    """It drops every attempt once it has the release: more of them average the flooding away."""
    federation = four()
    for attempt in range(3):
        federation.start(attempt=attempt)
        federation.run(until="select")
    assert federation.server.report.aborted.startswith("distance_release: the key holder released")
    assert isinstance(federation.errors[KEY_HOLDER], AttemptRefused)
    assert "released 2 times" in str(federation.errors[KEY_HOLDER])
    federation.start(attempt=0, stage=2)
    assert federation.run(until="select").errors == {}, "other updates"


def test_a_refused_request_costs_no_release() -> None:
    federation = four().run(until="distance_release")
    request = federation.server.request(KEY_HOLDER)
    with pytest.raises(BadPlan):
        federation.holder.handle(server_says(federation, request, uploads=()))
    label = f"{federation.parameters.attempt_label}/released/0"
    assert not federation.guards[KEY_HOLDER].claimed(label)
    federation.start(attempt=1)
    federation.run(until="select")
    assert federation.guards[KEY_HOLDER].claimed(label)


def test_requests_of_others_or_out_of_turn_change_nothing() -> None:
    federation = four().run(until="share")
    advertisements = federation.server.request(KEY_HOLDER)
    stranger = seal(read(federation, SERVER, advertisements), federation.identities["client-01"])
    with pytest.raises(BadSignature):
        federation.holder.handle(stranger)
    with pytest.raises(UnexpectedMessage, match="a request to client-01"):
        federation.holder.handle(federation.server.request("client-01"))
    assert federation.holder.state == "idle"
    federation.holder.handle(advertisements)
    with pytest.raises(WrongSession):
        federation.holder.handle(advertisements)
    assert federation.holder.state == "keyed"


def test_another_cohort_is_another_session_for_the_holder() -> None:
    """The server shows the holder fewer advertisements: its keys fit nobody else's session."""

    def fewer(message):
        return {"advertisements": message.advertisements[:3]}

    federation = four()
    federation.run(on_request=cheat_at(federation, "share", KEY_HOLDER, fewer))
    assert "WrongSession" in federation.server.report.faults[KEY_HOLDER]
    assert federation.server.report.aborted.startswith("share: the key holder is missing")


# --- somebody else in the holder's place --------------------------------------------------------


def other_holder(federation: Federation, identity: Identity) -> bytes:
    """Keys for the very session, by a holder of the attacker's making."""
    holder = AggregationKeyHolder(
        federation.parameters,
        federation.holder_identity,
        Entropy(),
        roster=federation.roster,
        guard=MemoryGuard(),
        max_releases=1,
    )
    holder._identity = identity
    return holder.handle(federation.server.request(KEY_HOLDER))


@pytest.mark.parametrize("who", ["a forged holder", "the server", "client-01"])
def test_nobody_else_gives_keys(who: str) -> None:
    """To the server it is a fault; a server that is in the plot fails at the clients."""
    federation = four().run(until="share")
    identity = {
        "a forged holder": Identity.generate(KEY_HOLDER, Entropy()),
        "the server": federation.server_identity,
        "client-01": federation.identities["client-01"],
    }[who]
    forged = other_holder(federation, identity)
    with pytest.raises(BadSignature):
        federation.server.accept(KEY_HOLDER, forged)
    federation = four().run(until="share")
    forged = other_holder(federation, identity)
    federation.run(until="distance_upload")
    with pytest.raises(BadSignature, match="key-holder"):
        federation.clients[VICTIM].handle(
            server_says(federation, federation.server.request(VICTIM), keys=forged)
        )


def test_keys_of_another_session_are_refused() -> None:
    federation = four().run(until="distance_upload")
    old = read(federation, SERVER, federation.server.request(VICTIM)).keys
    federation.start(attempt=1)
    federation.run(until="distance_upload")
    with pytest.raises(WrongSession):
        federation.clients[VICTIM].handle(
            server_says(federation, federation.server.request(VICTIM), keys=old)
        )


# --- the holder against the clients -------------------------------------------------------------


def holder_keys_with(change: Change) -> tuple[Federation, PeerError]:
    """Keys that the holder itself signs, given to the server and to a client behind its back."""
    federation = four().run(until="share")
    frame = federation.holder.handle(federation.server.request(KEY_HOLDER))
    changed = client_says(
        federation, KEY_HOLDER, frame, **change(read(federation, KEY_HOLDER, frame))
    )
    honest = four().run(until="share")
    with pytest.raises(PeerError) as refused:
        honest.server._phase.take(KEY_HOLDER, read(federation, KEY_HOLDER, changed), changed)
    assert refused.value.party == KEY_HOLDER
    federation.start()
    federation.run(until="distance_upload")
    with pytest.raises(PeerError) as caught:
        request = federation.server.request(VICTIM)
        federation.clients[VICTIM].handle(server_says(federation, request, keys=changed))
    return federation, caught.value


def with_hash(content: bytes) -> bytes:
    return content + sha256(content)


def test_keys_under_other_parameters_are_refused() -> None:
    def other_set(message):
        content = bytearray(message.keys[:-32])
        content[5] ^= 3
        return {"keys": with_hash(bytes(content))}

    _, error = holder_keys_with(other_set)
    assert isinstance(error, BadDistance) and error.party == KEY_HOLDER
    assert "other parameters" in error.reason


def test_a_chosen_second_half_of_the_key_has_no_place() -> None:
    """A key sent whole, its second half zero, is longer than the seeded form: refused by length."""

    def chosen(message):
        content = message.keys[:-32]
        return {"keys": with_hash(content + bytes(3 * 8 * 8192))}

    _, error = holder_keys_with(chosen)
    assert isinstance(error, MalformedMessage) and "above" in error.reason


def test_the_same_first_half_over_another_seed_is_another_key() -> None:
    """What clients encrypt under is expanded from the seed; the holder cannot state it."""
    from protocols.ckks_check import ring_for
    from protocols.key_holder import _PublicKeys
    from protocols.parameter_sets import PARAMETER_SETS

    ring = ring_for(PARAMETER_SETS["holder-8192"])
    keys = KeyHolder("holder-8192", 202, 1.0, Entropy()).keys()
    reseeded = with_hash(keys[:10] + bytes(32) + keys[42:-32])
    halves = []
    for seeded in (keys, reseeded):
        loaded = _PublicKeys(ring, seeded, 202)  # keep it: data() is a view into it
        halves.append(ring.residues(loaded.public.data(), 1, 3, first=1)[0])
    assert np.mean(halves[0] == halves[1]) < 0.01
    assert all(abs(half.mean() / 2**60 - 0.5) < 0.05 for half in halves)


def test_a_small_order_row_key_is_refused() -> None:
    federation = four().run(until="share")
    frame = federation.holder.handle(federation.server.request(KEY_HOLDER))
    bad = client_says(federation, KEY_HOLDER, frame, row_key=bytes(32))
    federation.start()
    federation.run(until="distance_upload")
    with pytest.raises(BadKey, match="small order"):
        federation.clients[VICTIM].handle(
            server_says(federation, federation.server.request(VICTIM), keys=bad)
        )


def released() -> tuple[Federation, bytes]:
    federation = four().run(until="distance_release")
    return federation, federation.holder.handle(federation.server.request(KEY_HOLDER))


def select_with(federation: Federation, victim: str = VICTIM, **changes: object) -> None:
    request = server_says(federation, federation.server.request(victim), **changes)
    federation.clients[victim].handle(request)


def at_select() -> Federation:
    return four().run(until="select")


def resigned_table(federation: Federation, **changes: object) -> bytes:
    frame = read(federation, SERVER, federation.server.request(VICTIM)).table
    return client_says(federation, KEY_HOLDER, frame, **changes)


def test_a_row_other_than_the_committed_one_is_refused(monkeypatch) -> None:
    """The holder commits to one matrix and tells the victim another distance."""
    pack = holder_module.pack_row

    def lie(entries, name, names):
        row = bytearray(pack(entries, name, names))
        if name == VICTIM:
            row[6] ^= 1
        return bytes(row)

    monkeypatch.setattr(holder_module, "pack_row", lie)
    federation = four().run()
    assert isinstance(federation.errors[VICTIM], BadDistance)
    assert federation.errors[VICTIM].party == KEY_HOLDER
    assert "not the one that was committed to" in str(federation.errors[VICTIM])
    assert federation.server.report.dropouts["select"] == (VICTIM,)


def test_the_hash_of_the_tables_frame_is_signed_with_the_lists() -> None:
    federation = at_select()
    table = read(federation, SERVER, federation.server.request(VICTIM)).table
    federation.run(until="consistency")
    hashes = federation.clients[VICTIM]._state.agreement.list_hashes
    assert hashes[KEY_HOLDER] == sha256(table)


def test_two_tables_for_two_clients_open_nothing(monkeypatch) -> None:
    """Holder and server together: the victim gets a matrix of its own, properly committed to."""
    federation = at_select()
    request = read(federation, SERVER, federation.server.request(VICTIM))
    table = read(federation, KEY_HOLDER, request.table)
    count = len(table.commitments) - 1  # of a pair that the victim is not in
    others = (sha256(b"another"), *table.commitments[1:])
    assert count and table.uploads[0].party == "client-01"
    frame = resigned_table(federation, commitments=others)

    def split(phase: str, name: str, sent: bytes) -> bytes:
        if phase == "select" and name == VICTIM:
            return server_says(federation, sent, table=frame)
        return sent

    monkeypatch.setattr(Consistent, "survivors", lambda self: tuple(sorted(self.signatures)))
    federation.run(on_request=split)
    assert isinstance(federation.errors[VICTIM], BadSurvivors)
    assert "signatures agree with ours" in str(federation.errors[VICTIM])


def test_an_impossible_distance_is_refused(monkeypatch) -> None:
    """Committed to, told to both, and longer than the norm bound allows."""
    make = holder_module.make_entries

    def lie(squared, entropy):
        return make({pair: 9.0 for pair in squared}, entropy)

    monkeypatch.setattr(holder_module, "make_entries", lie)
    federation = four().run()
    assert "impossible under the norm bound" in str(federation.errors[VICTIM])
    assert federation.server.report.opened == {}


def test_tables_without_us_or_with_strangers_are_refused() -> None:
    federation = at_select()
    table = read(
        federation, KEY_HOLDER, read(federation, SERVER, federation.server.request(VICTIM)).table
    )
    swapped = tuple(
        MeasuredUpload(party=item.party, digest=bytes(32) if item.party == VICTIM else item.digest)
        for item in table.uploads
    )
    stranger = (*table.uploads[:3], MeasuredUpload(party="stranger", digest=bytes(32)))
    for changes, expected in (
        ({"uploads": swapped}, BadDistance),
        ({"uploads": stranger}, BadPlan),
        ({"uploads": table.uploads[::-1]}, BadPlan),
        ({"uploads": table.uploads[1:3]}, BadPlan),
        ({"commitments": table.commitments[1:]}, BadDistance),
    ):
        federation = at_select()
        with pytest.raises(expected) as refused:
            select_with(federation, table=resigned_table(federation, **changes))
        assert refused.value.party == KEY_HOLDER


def test_another_clients_row_does_not_open() -> None:
    federation = at_select()
    row = read(federation, SERVER, federation.server.request("client-01")).row
    with pytest.raises(BadDistance, match="does not open"):
        select_with(federation, row=row)


def test_rows_are_of_one_length_and_show_no_distance() -> None:
    federation = at_select()
    frames = [federation.server.request(name) for name in federation.cohort]
    rows = [read(federation, SERVER, frame).row for frame in frames]
    assert {len(row) for row in rows} == {3 * (8 + SALT_BYTES) + 16}
    federation.run()
    for name in federation.cohort:
        for distance in federation.clients[name].result.row.values():
            grid = 2.0**-17  # norm bound 1: released squares lie on the set's resolution
            squared = round(distance**2 / grid) * grid
            assert not any(struct.pack("<d", squared) in frame for frame in frames)


# --- the blinding secret ------------------------------------------------------------------------


def test_clients_blind_alike_and_others_cannot() -> None:
    """All clients open one secret; no frame that server or holder sees carries it."""
    federation, frames = four(), []

    def keep(_phase: str, _name: str, frame: bytes) -> bytes:
        frames.append(frame)
        return frame

    secrets = []
    original = client_blinded.dealt_secret

    def noted(*arguments):
        secrets.append(original(*arguments))
        return secrets[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_blinded, "dealt_secret", noted)
        federation.run(on_request=keep, on_reply=keep)
    assert len(secrets) == 4 and len(set(secrets)) == 1
    session = federation.server.report.session
    for secret in (secrets[0], client_blinded.blinding_key(session, secrets[0])):
        assert not any(secret in frame for frame in frames)
    one, other = (client_blinded.blinding_key(session, s) for s in (secrets[0], bytes(32)))
    vector = np.arange(64.0)
    assert abs(np.corrcoef(blind(vector, one), blind(vector, other))[0, 1]) < 0.5


def test_a_dealer_that_deals_unequal_secrets_leaves_the_odd_one_out(monkeypatch) -> None:
    """client-01 seals another secret to the victim: whose distances would be to noise."""
    from protocols import client_setup

    seal_shares = client_setup._seal_shares

    def unequal(context, session, peer, held):
        if (context.name, peer) == ("client-01", VICTIM):
            from dataclasses import replace

            session = replace(session, blinding=bytes(32))
        return seal_shares(context, session, peer, held)

    monkeypatch.setattr(client_setup, "_seal_shares", unequal)
    federation = four().run()
    report = federation.server.report
    assert "client-01 dealt it another secret" in report.faults[VICTIM]
    assert report.aborted is None
    assert VICTIM not in federation.clients["client-02"].result.row


def test_the_holder_refuses_unequal_blinding_too() -> None:
    """A server that passes uploads on as if they were alike."""
    federation = four()

    def other_digest(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("distance_upload", VICTIM):
            return frame
        return client_says(federation, name, frame, blinding=bytes(32))

    federation.run(until="distance_upload")
    phase = federation.server._phase
    for name in federation.cohort:
        reply = federation.clients[name].handle(federation.server.request(name))
        reply = other_digest("distance_upload", name, reply)
        federation.server.accept(name, reply)
    frames = phase._frames
    uploads = {n: u.upload for n, u in phase._uploads.items()}
    digests = phase._holder.distances.digests(uploads)
    from protocols.server_holder import Releasing

    request = Releasing(phase.setup, frames, digests).request(KEY_HOLDER)
    with pytest.raises(BadDistance, match="different blinding secrets"):
        federation.holder.handle(seal(request, federation.server_identity))


def test_a_secret_of_a_stranger_or_for_somebody_else_is_refused() -> None:
    federation = four().run(until="distance_upload")
    request = federation.server.request(VICTIM)
    for dealt, expected in (
        (Box(party="stranger", ciphertext=b""), BadPlan),
        (
            Box(party="client-02", ciphertext=read(federation, SERVER, request).dealt.ciphertext),
            BadShare,
        ),
        (Box(party="client-01", ciphertext=b"short"), BadShare),
    ):
        federation = four().run(until="distance_upload")
        request = federation.server.request(VICTIM)
        with pytest.raises(expected):
            federation.clients[VICTIM].handle(server_says(federation, request, dealt=dealt))


# --- hostile bytes ------------------------------------------------------------------------------


@functools.cache
def recorded() -> tuple[Federation, dict[str, tuple[str, bytes]]]:
    """{kind: (sender, frame)} of every message that only this trust model has."""
    federation, frames = four(), {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        for sender in (SERVER, name):
            try:
                message = read(federation, sender, frame)
            except PeerError:
                continue
            frames.setdefault(message.kind, (sender, frame))
            if message.kind == "distance_release":
                frames["distance_table"] = (KEY_HOLDER, message.table)
        return frame

    federation.run(on_request=keep, on_reply=keep)
    return federation, frames


KINDS = [
    "holder_keys",
    "blinded_call",
    "blinded_upload",
    "release_request",
    "distance_release",
    "distance_table",
    "row_delivery",
]


@pytest.mark.parametrize("kind", KINDS)
def test_flips_and_cuts_are_refused_before_anything_is_parsed(kind: str) -> None:
    federation, frames = recorded()
    sender, frame = frames[kind]
    for place in range(0, len(frame), max(1, len(frame) // 12)):
        flipped = frame[:place] + bytes([frame[place] ^ (1 << place % 8)]) + frame[place + 1 :]
        for bad in (flipped, frame[:place]):
            with pytest.raises((BadSignature, MalformedMessage)) as refused:
                open_frame(bad, federation.roster, sender, "test")
            assert refused.value.party == sender
    limit = largest_frame(federation.parameters, kind)
    assert len(frame) <= limit
    with pytest.raises(MalformedMessage, match="above"):
        open_frame(bytes(limit + 1), federation.roster, sender, "test", limit)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_message_of_another_form_is_refused(kind: str) -> None:
    federation, frames = recorded()
    sender, frame = frames[kind]
    body = decode(frame[64:])
    variants = [{**body, "extra": b"x"}, {**body, "version": 2}, {**body, "session": b"short"}]
    for field in body:
        variants.append({key: value for key, value in body.items() if key != field})
        variants += [{**body, field: wrong} for wrong in (None, -1, 1.5, {"a": 1}, "\0", (None,))]
    for variant in variants:
        raw = encode(variant)
        signed = federation.identity(sender).sign(LABEL + sha256(raw)) + raw
        with pytest.raises((MalformedMessage, BadSignature)) as refused:
            open_frame(signed, federation.roster, sender, "test")
        assert refused.value.party == sender


def test_uploads_that_seal_must_not_see_name_their_sender() -> None:
    """Signed, of the right length, not canonical: the client is left out, the attempt goes on."""
    federation = four()

    def corrupt(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("distance_upload", VICTIM):
            return frame
        upload = read(federation, name, frame).upload
        content = bytearray(upload[:-32])
        content[50:58] = b"\xff" * 8
        bad = with_hash(bytes(content))
        assert closing_hash(bad) != closing_hash(upload)
        return client_says(federation, name, frame, upload=bad)

    report = federation.run(on_reply=corrupt).server.report
    assert "a residue is not below its prime" in report.faults[VICTIM]
    assert report.aborted is None


@pytest.mark.parametrize("kind", ["the upload of another", "zeros", "a zero half", "disjoint"])
def test_uploads_without_a_distance_cost_their_sender_alone(kind: str) -> None:
    """Of canonical form, and so that a product of ciphertexts is visibly zero, which SEAL refuses.

    Disjoint: the halves have no residue in common where both are other than zero.
    """
    federation, seen = four(), dict[str, bytes]()

    def spoil(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "distance_upload":
            return frame
        seen[name] = upload = read(federation, name, frame).upload
        if name != VICTIM:
            return frame
        if kind == "the upload of another":
            return client_says(federation, name, frame, upload=seen["client-01"])
        head, body = upload[:42], np.frombuffer(upload[42:-32], np.uint8).reshape(2, -1, 8).copy()
        if kind == "disjoint":  # conjugation turns the order of a polynomial's residues round
            body[0, ::2] = body[1, ::2] = 0
        else:
            body[1] = 0
            body[0] *= kind != "zeros"
        return client_says(federation, name, frame, upload=with_hash(head + body.tobytes()))

    report = federation.run(on_reply=spoil).server.report
    assert re.match(f"BadDistance: distance(s|_upload): {VICTIM}: ", report.faults[VICTIM])
    assert report.aborted is None and federation.errors == {}


def test_equal_uploads_end_no_party_that_evaluates_them() -> None:
    """A server that lets them pass: it and the holder abort the attempt, and name nobody."""
    federation = four().run(until="distance_upload")
    first, second, *_ = federation.cohort
    frame = federation.clients[first].handle(federation.server.request(first))
    uploads = dict.fromkeys((first, second), read(federation, first, frame).upload)
    distances = federation.server._phase._holder.distances
    with pytest.raises(AttemptAborted, match="client-01 and client-02 have no encrypted distance"):
        distances.digests(uploads)
    with pytest.raises(AttemptAborted):
        federation.holder._state.distances.release(uploads, {(first, second): bytes(32)})


def test_a_release_that_does_not_fit_the_uploads_is_refused_by_the_server() -> None:
    federation, release = released()
    message = read(federation, KEY_HOLDER, release)
    for changes in (
        {"rows": message.rows[1:]},
        {"rows": tuple(Box(party=b.party, ciphertext=b.ciphertext + b"x") for b in message.rows)},
        {"table": message.table[:-1]},
    ):
        bad = client_says(federation, KEY_HOLDER, release, **changes)
        with pytest.raises(PeerError) as refused:
            federation.server._phase.take(KEY_HOLDER, read(federation, KEY_HOLDER, bad), bad)
        assert refused.value.party == KEY_HOLDER
