"""Rosters, keys and sessions: substituted, reused, small-order and replayed."""

from __future__ import annotations

import pytest
from cheating import VICTIM, cheat_at, client_says, plain, read, server_says
from in_process import Federation, entropy_for

from protocols import SERVER, Identity, keys
from protocols.codec import encode
from protocols.errors import (
    BadKey,
    BadSignature,
    MalformedMessage,
    WrongSession,
)
from protocols.frame import open_relayed, seal
from protocols.keys import SMALL_ORDER_KEYS, KeyPair, UnusableKey
from protocols.messages import Advertisement


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
    error = federation.errors[VICTIM]
    assert isinstance(error, BadSignature) and error.party == SERVER, "client-01 signed nothing"
    assert "a frame of client-01, as relayed by the server" in str(error)


def test_an_old_advertisement_that_the_server_replays_is_the_servers_fault() -> None:
    """Its signature is right, of another round: who sent it then did nothing wrong."""
    federation = plain().run(until="share")
    old = read(federation, SERVER, federation.server.request(VICTIM)).advertisements
    federation.start(round=2)

    def replay(message):
        return {"advertisements": (old[0], *message.advertisements[1:])}

    federation.run(on_request=cheat_at(federation, "share", VICTIM, replay))
    error = federation.errors[VICTIM]
    assert isinstance(error, WrongSession) and error.party == SERVER


def test_a_peer_that_signs_a_malformed_advertisement_is_named_for_it() -> None:
    federation = plain()
    signer = federation.identities["client-01"]
    federation.run(on_request=forged_advert(federation, signer, mask_key=b"short"))
    error = federation.errors[VICTIM]
    assert isinstance(error, MalformedMessage) and error.party == "client-01"


@pytest.mark.parametrize("frame", [bytes(65), bytes(5000), b"\0" * 64 + b"\xa1\x66sender\x01"])
def test_relayed_bytes_that_are_no_message_are_the_servers_fault(frame: bytes) -> None:
    with pytest.raises(MalformedMessage, match="server: a relayed frame"):
        open_relayed(frame, Advertisement, bytes(32), plain().roster, "share", 4096)


def test_a_claimed_sender_longer_than_any_name_is_not_repeated_in_the_error() -> None:
    frame = bytes(64) + encode({"sender": "x" * 3000})
    with pytest.raises(MalformedMessage) as told:
        open_relayed(frame, Advertisement, bytes(32), plain().roster, "share", 4096)
    assert len(str(told.value)) < 100


@pytest.mark.parametrize("key", sorted(SMALL_ORDER_KEYS))
@pytest.mark.parametrize("usage", ["share_key", "mask_key", "recipient_key"])
def test_small_order_keys_are_refused(key: bytes, usage: str) -> None:
    federation = plain(3, max_colluders=0, min_contributors=2)
    signer = federation.identities["client-01"]
    federation.run(on_request=forged_advert(federation, signer, **{usage: key}))
    assert isinstance(federation.errors[VICTIM], BadKey)
    assert federation.errors[VICTIM].party == "client-01"


PRIME = 2**255 - 19


@pytest.mark.parametrize(
    "value", [PRIME, PRIME + 1, PRIME + 9, 2**255 - 1, 2**255 + 9, 2**256 - 1], ids=hex
)
def test_keys_that_are_not_canonical_are_refused_by_all(value: int) -> None:
    """They are other encodings of keys below p (PRIME + 9 and 2^255 + 9 of the base point 9)."""
    key = value.to_bytes(32, "little")
    federation = plain()
    signer = federation.identities["client-01"]
    federation.run(on_request=forged_advert(federation, signer, mask_key=key))
    error = federation.errors[VICTIM]
    assert isinstance(error, BadKey) and "not canonical" in str(error)
    with pytest.raises(UnusableKey, match="not canonical"):
        KeyPair(bytes(31) + b"\x01").exchange(key)

    def send_it(phase: str, name: str, frame: bytes) -> bytes:
        cheats = (phase, name) == ("advertise", "client-02")
        return client_says(federation, name, frame, share_key=key) if cheats else frame

    federation = plain()
    assert "not canonical" in federation.run(on_reply=send_it).server.report.faults["client-02"]


def test_another_encoding_of_a_peers_key_would_have_passed_for_a_new_key(monkeypatch) -> None:
    """The counter-measure taken out: X25519 ignores the top bit, so one key has two encodings."""
    pair, other = KeyPair(bytes(31) + b"\x01"), KeyPair(bytes(31) + b"\x02")
    again = pair.public[:31] + bytes([pair.public[31] | 0x80])
    monkeypatch.setattr(keys, "check_public_key", lambda _key: None)
    assert again != pair.public and other.exchange(again) == other.exchange(pair.public)


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
