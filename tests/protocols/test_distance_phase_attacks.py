"""The distance phases of an aggregation, attacked by peers and by the server."""

from __future__ import annotations

import clear_distances
import numpy as np
import pytest
from cheating import VICTIM, cheat_at, client_says, pilot, read, server_says
from in_process import Federation

from protocols import SERVER
from protocols.codec import decode, encode
from protocols.errors import (
    AttemptRefused,
    BadDistance,
    BadPlan,
    MalformedMessage,
)
from protocols.frame import LABEL
from protocols.identity import sha256


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_distance_that_is_no_number_is_the_peers_fault(monkeypatch, value: float) -> None:
    federation = pilot(monkeypatch)

    def lie(machine: clear_distances.ClearDistances, _upload: bytes) -> bytes:
        return np.float64(value).tobytes()

    federation.run(until="distance_reply")
    liar = federation.clients["client-01"]._state.distances
    monkeypatch.setattr(liar, "reply", lie.__get__(liar), raising=False)
    federation.run()
    assert [type(error) for error in federation.errors.values()] == [BadDistance] * 8
    assert {error.party for error in federation.errors.values()} == {"client-01"}


@pytest.mark.parametrize("phase", ["distance_reply", "select", "masked_input"])
def test_what_the_server_flips_in_relayed_boxes_is_its_own_fault(monkeypatch, phase: str) -> None:
    """An upload, an encrypted distance and an encrypted list of a peer that did nothing wrong."""
    federation = pilot(monkeypatch)

    def flip(message):
        if phase == "distance_reply":
            first, *rest = message.uploads
            return {"uploads": (first[:10] + bytes([first[10] ^ 1]) + first[11:], *rest)}
        field = "boxes" if phase == "select" else "selections"
        first, *rest = getattr(message, field)
        data = bytes([first.ciphertext[0] ^ 1]) + first.ciphertext[1:]
        return {field: (first.model_copy(update={"ciphertext": data}), *rest)}

    federation.run(on_request=cheat_at(federation, phase, VICTIM, flip))
    assert list(federation.errors) == [VICTIM]
    assert federation.errors[VICTIM].party == SERVER
    assert "client-01, as relayed by the server" in str(federation.errors[VICTIM])


def test_a_distance_that_the_server_withheld_is_its_own_fault(monkeypatch) -> None:
    """client-01 selects the victim, which never got client-01's reply."""
    federation = pilot(monkeypatch, num_neighbours=8)

    def withhold(message):
        return {"boxes": tuple(box for box in message.boxes if box.party != "client-01")}

    federation.run(on_request=cheat_at(federation, "select", VICTIM, withhold))
    error = federation.errors[VICTIM]
    assert isinstance(error, BadPlan) and error.party == SERVER
    assert "client-01 selected us, and its distance was not delivered" in str(error)


def test_a_secret_key_has_no_place_in_a_message() -> None:
    """As a field of its own; in place of the upload; and there again at the upload's length."""
    federation = Federation(count=4, num_tasks=1, options={"num_neighbours": 3})
    federation.run(until="distance_upload")
    frames = {
        name: federation.clients[name].handle(federation.server.request(name))
        for name in federation.cohort
    }
    body = decode(frames["client-01"][64:])
    raw = encode({**body, "secret_key": bytes(32)})
    frame = federation.identities["client-01"].sign(LABEL + sha256(raw)) + raw
    with pytest.raises(MalformedMessage, match="secret_key: Extra inputs"):
        federation.server.accept("client-01", frame)
    machine = federation.clients["client-02"]._state.distances
    secret = machine._secret._residues.tobytes()
    with pytest.raises(BadDistance, match=f"an upload of {len(secret)} bytes"):
        leak = client_says(federation, "client-02", frames["client-02"], upload=secret)
        federation.server.accept("client-02", leak)
    padded = secret.ljust(len(machine.upload()), b"\0")[: len(machine.upload())]
    with pytest.raises(BadDistance, match="another kind of message"):
        federation.clients["client-03"]._state.distances.reply(padded, "client-02")


def test_no_frame_of_an_honest_run_holds_a_secret() -> None:
    frames: list[bytes] = []
    secrets: dict[str, bytes] = {}
    federation = Federation(count=4, num_tasks=1, options={"num_neighbours": 3})

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        frames.append(frame)
        session = getattr(federation.clients[name]._state, "session", None)
        if session is not None and phase == "share":
            keys = session.keys
            for usage, pair in (("share", keys.share), ("mask", keys.mask), ("to", keys.recipient)):
                secrets[f"{name} {usage}"] = pair.secret
            secrets.update({f"{name} {sum_id}": seed for sum_id, seed in session.seeds.items()})
            secrets[f"{name} identity"] = federation.identities[name].secret()
        return frame

    federation.run(on_request=keep, on_reply=keep)
    sent = b"".join(frames)
    assert len(secrets) >= 4 * 8 and federation.server.report.aborted is None
    assert [label for label, secret in secrets.items() if secret in sent] == []


@pytest.mark.parametrize(
    ("extra", "error", "party"),
    [(16, BadDistance, "client-01"), (65536, MalformedMessage, SERVER)],
)
def test_an_upload_of_another_length_is_refused_by_every_peer(extra, error, party) -> None:
    """A key with a chosen uniform half has no place in the wire form: it would be longer.

    What such a key would give, and that bytes of the right length cannot choose it, is carried
    out in ``test_distance_attacks.py``.
    """
    federation = Federation(count=5, num_tasks=1)

    def longer(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "distance_reply" or name == "client-01":
            return frame
        uploads = read(federation, SERVER, frame).uploads
        upload = read(federation, "client-01", uploads[0]).upload + bytes(extra)
        forged = client_says(federation, "client-01", uploads[0], upload=upload)
        return server_says(federation, frame, uploads=(forged, *uploads[1:]))

    federation.run(on_request=longer)
    errors = [e for e in federation.errors.values() if isinstance(e, error)]
    assert len(errors) == 4 and {e.party for e in errors} == {party}


def test_the_same_bytes_from_two_clients_are_the_servers_fault(monkeypatch) -> None:
    """A peer signs another's upload, and the server relays both: neither of the two is blamed."""
    federation = pilot(monkeypatch)

    def copied(message):
        frames = {read_sender(frame): frame for frame in message.uploads}
        upload = read(federation, "client-04", frames["client-04"]).upload
        frames["client-01"] = client_says(
            federation, "client-01", frames["client-01"], upload=upload
        )
        return {"uploads": tuple(frames.values())}

    def read_sender(frame: bytes) -> str:
        return decode(frame[64:])["sender"]

    federation.run(on_request=cheat_at(federation, "distance_reply", VICTIM, copied))
    assert isinstance(federation.errors[VICTIM], BadPlan)
    assert federation.errors[VICTIM].party == SERVER


def test_a_second_upload_of_one_peer_is_not_answered(monkeypatch) -> None:
    """With client-01's help the server asks the victim twice: another upload, properly signed."""
    federation = pilot(monkeypatch)

    def twice(message):
        first = next(f for f in message.uploads if decode(f[64:])["sender"] == "client-01")
        upload = read(federation, "client-01", first).upload
        other = (np.frombuffer(upload) + 1.0).tobytes()
        second = client_says(federation, "client-01", first, upload=other)
        return {"uploads": (*message.uploads, second)}

    federation.run(on_request=cheat_at(federation, "distance_reply", VICTIM, twice))
    assert isinstance(federation.errors[VICTIM], BadPlan)
    assert "repeated" in str(federation.errors[VICTIM])
    assert VICTIM not in federation.server.report.survivors["distance_reply"]


@pytest.mark.parametrize("kind", ["a residue above its prime", "the upload of another"])
def test_an_upload_that_no_peer_could_answer_costs_its_sender_alone(kind: str) -> None:
    federation = Federation(count=5, num_tasks=1)
    seen: list[bytes] = []

    def spoil(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "distance_upload" or name not in ("client-01", "client-02"):
            return frame
        upload = read(federation, name, frame).upload
        seen.append(upload)
        if name == "client-01":
            return frame
        if kind == "the upload of another":
            return client_says(federation, name, frame, upload=seen[0])
        body = upload[:42] + b"\xff" * 8 + upload[50:-32]
        return client_says(federation, name, frame, upload=body + sha256(body))

    federation.run(on_reply=spoil)
    assert federation.server.report.aborted is None and federation.errors == {}
    assert federation.server.report.faults["client-02"].startswith("BadDistance")


def test_a_server_that_begins_again_and_again_gets_two_answers(monkeypatch) -> None:
    """It drops every attempt once distances are out: more answers average the flooding away."""
    federation = pilot(monkeypatch)
    for attempt in range(3):
        federation.start(attempt=attempt)
        federation.run(until="select")
    assert {type(error) for error in federation.errors.values()} == {AttemptRefused}
    assert len(federation.errors) == 9 and federation.server.phase != "select"
    federation.start(attempt=0, stage=2)
    assert federation.run(until="select").errors == {}, "other updates"
