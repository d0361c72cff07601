"""Truncated, oversized, non-canonical, mistyped and bit-flipped bytes: typed errors, no crash."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import Federation

from protocols import SERVER
from protocols.codec import CodecError, decode, encode, encode_parts
from protocols.errors import BadSignature, MalformedMessage, PeerError, ProtocolError
from protocols.frame import LABEL, open_frame, seal
from protocols.frame_sizes import largest_frame
from protocols.identity import sha256

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda children: (
        st.lists(children, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=30), children, max_size=5)
    ),
    max_leaves=12,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(v) for v in value.values()), default=0)
    if isinstance(value, tuple):
        return 1 + max((depth(v) for v in value), default=0)
    return 1


@given(values.filter(lambda value: depth(value) <= 8))
def test_decoding_undoes_encoding(value: object) -> None:
    decoded = decode(encode(value))
    assert decoded == value
    assert encode(value) == b"".join(encode_parts(value))


@given(st.binary(max_size=200))
@settings(max_examples=400)
def test_what_decodes_re_encodes_to_the_same_bytes(data: bytes) -> None:
    try:
        value = decode(data)
    except CodecError:
        return
    assert encode(value) == data


@given(values.filter(lambda value: depth(value) <= 8), st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value: object, data: st.DataObject) -> None:
    good = encode(value)
    place = data.draw(st.integers(0, len(good) - 1))
    other = bytes([good[place] ^ data.draw(st.integers(1, 255))])
    flipped = good[:place] + other + good[place + 1 :]
    try:
        changed = decode(flipped)
    except CodecError:
        return
    assert encode(changed) == flipped != good


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("1801", "shortest"),
        ("190017", "shortest"),
        ("9f01ff", "indefinite"),
        ("a2616201616101", "out of order"),
        ("a2616101616102", "out of order"),
        ("c11a514b67b0", "tags"),
        ("fb3ff8000000000000", "shortest"),
        ("fa7fc00000", "shortest"),
        ("0000", "trailing"),
        ("62c328", "UTF-8"),
        ("9bffffffffffffffff", "truncated"),
        ("5bffffffffffffffff", "truncated"),
        ("a10102", "not text"),
        ("818181818181818181", "deeply"),
        ("f7", "simple"),
        ("f820", "simple"),
        ("", "truncated"),
    ],
)
def test_non_canonical_forms_are_refused(data: str, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        decode(bytes.fromhex(data))


@functools.cache
def recorded() -> tuple[Federation, dict[tuple[str, str], bytes], dict[tuple[str, str], bytes]]:
    requests: dict[tuple[str, str], bytes] = {}
    replies: dict[tuple[str, str], bytes] = {}

    def keep(store):
        def interfere(phase: str, name: str, frame: bytes) -> bytes:
            store[phase, name] = frame
            return frame

        return interfere

    federation = Federation(count=4, num_tasks=1, options={"num_neighbours": 3})
    federation.run(on_request=keep(requests), on_reply=keep(replies))
    assert federation.server.report.aborted is None
    return federation, requests, replies


def kind_of(frame: bytes) -> object:
    body = decode(frame[64:])
    assert isinstance(body, dict)
    return body["kind"]


def signed_raw(federation: Federation, name: str, body: bytes) -> bytes:
    identity = federation.server_identity if name == SERVER else federation.identities[name]
    return identity.sign(LABEL + sha256(body)) + body


PHASES = [
    "advertise",
    "share",
    "distance_upload",
    "distance_reply",
    "select",
    "masked_input",
    "consistency",
    "unmask",
    "deliver",
]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("direction", ["request", "reply"])
def test_flips_and_cuts_of_every_message_are_refused(phase: str, direction: str) -> None:
    federation, requests, replies = recorded()
    sender = SERVER if direction == "request" else "client-02"
    frame = (requests if direction == "request" else replies)[phase, "client-02"]
    step = max(1, len(frame) // 40)
    for place in range(0, len(frame), step):
        flipped = frame[:place] + bytes([frame[place] ^ (1 << place % 8)]) + frame[place + 1 :]
        with pytest.raises(BadSignature) as refused:
            open_frame(flipped, federation.roster, sender, phase)
        assert (refused.value.party, refused.value.phase) == (sender, phase)
        with pytest.raises((BadSignature, MalformedMessage)):
            open_frame(frame[:place], federation.roster, sender, phase)
    with pytest.raises(BadSignature):
        open_frame(frame + b"\0", federation.roster, sender, phase)
    limit = largest_frame(federation.parameters, str(kind_of(frame)))
    assert len(frame) <= limit
    with pytest.raises(MalformedMessage, match="above"):
        open_frame(bytes(limit + 1), federation.roster, sender, phase, limit)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("direction", ["request", "reply"])
def test_a_signed_message_of_another_form_is_refused(phase: str, direction: str) -> None:
    """The sender itself sends what the schema does not have: every field, several ways."""
    federation, requests, replies = recorded()
    sender = SERVER if direction == "request" else "client-02"
    frame = (requests if direction == "request" else replies)[phase, "client-02"]
    body = decode(frame[64:])
    assert isinstance(body, dict)
    variants: list[dict[str, object]] = [{**body, "raw_update": b"x"}, {**body, "version": 2}]
    variants += [{**body, "kind": "unheard_of"}, {**body, "session": b"short"}]
    for field in body:
        variants.append({key: value for key, value in body.items() if key != field})
        variants += [{**body, field: wrong} for wrong in (None, -1, 1.5, {"a": 1}, "\0", (None,))]
    for variant in variants:
        if phase == "deliver" and variant.get("sealed", b"") is None:
            continue  # a delivery without a sealed sum is well-formed
        raw = signed_raw(federation, sender, encode(variant))
        with pytest.raises((MalformedMessage, BadSignature)) as refused:
            open_frame(raw, federation.roster, sender, phase)
        assert refused.value.party == sender


def test_a_version_is_required() -> None:
    federation, requests, _replies = recorded()
    body = decode(requests["advertise", "client-02"][64:])
    assert isinstance(body, dict)
    del body["version"]
    with pytest.raises(MalformedMessage, match="left out"):
        raw = signed_raw(federation, SERVER, encode(body))
        open_frame(raw, federation.roster, SERVER, "advertise")


def test_a_faulty_reply_counts_as_a_dropout_and_is_reported() -> None:
    def flip(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("masked_input", "client-03"):
            return frame
        return frame[:100] + bytes([frame[100] ^ 1]) + frame[101:]

    federation = Federation(count=5, plain=True).run(on_reply=flip)
    report = federation.server.report
    assert report.faults == {
        "client-03": "BadSignature: masked_input: client-03: the pinned key did not sign this"
    }
    assert "client-03" not in report.opened["all"]


def test_a_frame_of_another_sender_is_not_taken_for_ours() -> None:
    federation, _requests, replies = recorded()
    frame = replies["advertise", "client-02"]
    with pytest.raises(BadSignature):
        open_frame(frame, federation.roster, "client-03", "advertise")
    message = open_frame(frame, federation.roster, "client-02", "advertise")
    other = message.model_copy(update={"sender": "client-03"})
    claimed = seal(other, federation.identities["client-02"])
    with pytest.raises(BadSignature, match="a message of client-03"):
        open_frame(claimed, federation.roster, "client-02", "advertise")


@functools.cache
def server_at(phase: str) -> Federation:
    return Federation(count=4, plain=True).run(until=phase)


@given(st.sampled_from(["advertise", "share", "masked_input"]), st.binary(max_size=400))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_machines_answer_any_bytes_with_a_typed_error(phase: str, data: bytes) -> None:
    federation = server_at(phase)
    client = federation.clients["client-02"]
    before = client.state
    with pytest.raises(PeerError):
        client.handle(data)
    with pytest.raises(PeerError):
        client.handle(signed_raw(federation, SERVER, data))
    assert client.state == before


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_lying_server_never_crashes_a_client(data: st.DataObject) -> None:
    """Properly signed requests with one field drawn at random, in every phase of an attempt."""
    phases = ["share", "masked_input", "consistency", "unmask", "deliver"]
    phase = data.draw(st.sampled_from(phases))
    federation = Federation(count=4, plain=True, seed="lies").run(until=phase)
    body = decode(federation.server.request("client-02")[64:])
    assert isinstance(body, dict)
    field = data.draw(st.sampled_from(sorted(body)))
    body[field] = data.draw(mutated(body[field]))
    raw = signed_raw(federation, SERVER, encode(body))
    try:
        federation.clients["client-02"].handle(raw)
    except ProtocolError as error:
        assert str(error)


def mutated(value: object) -> st.SearchStrategy[object]:
    """Values near an honest one: parts of it removed, repeated, reordered or replaced."""
    if isinstance(value, tuple) and value:
        inside = st.integers(0, len(value) - 1).flatmap(
            lambda i: mutated(value[i]).map(lambda v: (*value[:i], v, *value[i + 1 :]))
        )
        return inside | st.permutations(value).map(tuple) | st.just((*value, value[0])) | values
    if isinstance(value, dict) and value:
        return st.sampled_from(sorted(value)).flatmap(
            lambda key: mutated(value[key]).map(lambda v: {**value, key: v})
        )
    if isinstance(value, bytes):
        return st.binary(min_size=len(value), max_size=len(value)) if value else values
    return values.filter(lambda drawn: depth(drawn) < 4)
