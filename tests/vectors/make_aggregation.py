"""Write the test vectors of secure aggregation: ``python tests/vectors/make_aggregation.py``.

Each good vector is one whole attempt with every byte of randomness in it: the identities' secrets,
and per party all that it read from its entropy, in order (a client: its share, mask and recipient
secret, one seed per sum, then Shamir coefficients). Frames are hexadecimal. Encrypted distances
take no seed, so the sealed sums here name their contributors. ``bad_*`` entries change one frame of
a good vector and name the error that the receiver must give.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols"))

from hostile import signed  # noqa: E402
from in_process import Federation, entropy_for, names  # noqa: E402

from protocols import SERVER, Entropy, SumSpec  # noqa: E402
from protocols.codec import decode, encode  # noqa: E402
from protocols.frame import open_frame, seal  # noqa: E402

OUT = Path(__file__).with_name("aggregation.json")


class Recording(Entropy):
    """Deterministic entropy that remembers what was read."""

    def __init__(self, label: str) -> None:
        self._source, self.reads = entropy_for(label), []

    def read(self, num_bytes: int) -> bytes:
        drawn = self._source.read(num_bytes)
        self.reads.append(drawn)
        return drawn


def sealed_sums(cohort: tuple[str, ...]) -> tuple[SumSpec, ...]:
    first, *others = cohort
    return (
        SumSpec(id="all", vector="task_adapter", recipient=SERVER, contributors=cohort),
        SumSpec(
            id="own", vector="text_adapter", recipient=first, contributors=tuple(sorted(others))
        ),
    )


CASES: dict[str, dict[str, object]] = {
    "plain_20": {"count": 3, "ring_bits": 20},
    "plain_32": {"count": 3, "ring_bits": 32},
    "dropout_24": {
        "count": 4,
        "ring_bits": 24,
        "drop_before": {"masked_input": {"client-02"}, "deliver": {"client-04"}},
    },
    "sealed_16": {"count": 4, "ring_bits": 16, "sums": sealed_sums(names(4))},
    "parts_20": {
        "count": 4,
        "ring_bits": 20,
        "sums": sealed_sums(names(4)),
        "lengths": {"task_adapter": 39, "text_adapter": 30},
        "part_bytes": 64,
        "drop_in_part": (1, "client-03"),
    },
}


def build(case: Mapping[str, object]) -> tuple[Federation, dict[str, Recording]]:
    """The federation of a case, before anything is sent."""
    recorders: dict[str, Recording] = {}

    def entropy(label: str) -> Recording:
        recorders[label.rsplit("/", 1)[1]] = Recording(label)
        return recorders[label.rsplit("/", 1)[1]]

    options: dict[str, object] = {
        "max_colluders": 0,
        "min_contributors": 2,
        "ring_bits": case["ring_bits"],
        **{name: case[name] for name in ("sums", "part_bytes") if name in case},
    }
    federation = Federation(
        count=int(str(case["count"])),
        plain=True,
        lengths=case.get("lengths", {"task_adapter": 7, "text_adapter": 5}),
        options=options,
        seed="vectors",
        entropy=entropy,
    )
    return federation, recorders


def good(name: str) -> dict[str, object]:
    """One whole attempt."""
    case = CASES[name]
    federation, recorders = build(case)
    frames: list[list[str]] = []

    def keep(sender: str):
        def interfere(phase: str, client: str, frame: bytes) -> bytes:
            if (federation.server.part, client) == case.get("drop_in_part"):
                federation.gone.add(client)
            if client not in federation.gone:
                party = SERVER if sender == SERVER else client
                frames.append([phase, party, client, frame.hex()])
            return frame

        return interfere

    drops = case.get("drop_before", {})
    federation.run(drop_before=drops, on_request=keep(SERVER), on_reply=keep("client"))
    report = federation.server.report
    return {
        "name": name,
        "success": report.aborted is None,
        "parameters": plain(federation.parameters.model_dump()),
        "roster": [[e.name, e.public_key.hex()] for e in entries(federation)],
        "identity_secrets": {
            i.name: i.secret().hex()
            for i in (federation.server_identity, *federation.identities.values())
        },
        "entropy": {party: [r.hex() for r in rec.reads] for party, rec in recorders.items()},
        "num_samples": {n: i.num_samples for n, i in federation.inputs.items()},
        "vectors": {
            n: {v: federation.flat(n, v).tolist() for v in federation.lengths}
            for n in federation.cohort
        },
        "dropped": {phase: sorted(who) for phase, who in drops.items()},
        "session": report.session.hex(),
        "survivors": list(report.survivors["masked_input"]),
        "frames": frames,
        "means": {s: m.tolist() for s, m in report.means.items()},
        "sealed": {
            n: c.result.sealed.vector_sum.tolist()
            for n, c in federation.clients.items()
            if c.result is not None and c.result.sealed is not None
        },
    }


def entries(federation: Federation):
    return (federation.roster.server, *federation.roster.clients)


def plain(value: object) -> object:
    """JSON of parameters: byte strings as hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def bad() -> list[dict[str, object]]:
    """One changed frame each, to one receiver, and the error that it must give."""
    return [
        request("bad_truncated", "share", lambda f, x: x[:-1], "BadSignature"),
        request("bad_flipped_bit", "masked_input", lambda f, x: flip(x, 200), "BadSignature"),
        request("bad_trailing_byte", "deliver", lambda f, x: x + b"\0", "BadSignature"),
        request(
            "bad_other_recipient", "share", changed(recipient="client-03"), "UnexpectedMessage"
        ),
        request("bad_other_session", "share", changed(session=bytes(32)), "WrongSession"),
        request("bad_fewer_members", "share", fewer_members, "BadPlan"),
        request("bad_no_shares", "masked_input", changed(shares=()), "BadPlan"),
        request("bad_own_id_dead", "unmask", own_id_dead, "BadSurvivors"),
        request("bad_both_shares", "unmask", changed(dropouts=("client-01",)), "BadSurvivors"),
        request("bad_no_signatures", "unmask", changed(signatures=()), "BadSurvivors"),
        reply(
            "bad_reply_junk_signature", "consistency", changed(signature=bytes(64)), "BadSignature"
        ),
        request("bad_relayed_advertisement", "share", forged_advertisement, "BadSignature"),
        request("bad_survivor_hash", "consistency", other_hash, "BadSurvivors"),
        request("bad_opened_twice", "deliver", opened_twice, "BadDelivery"),
        request("bad_longer_head", "share", longer_head, "MalformedMessage"),
        request("bad_unknown_field", "share", body_with(raw_update=b"x"), "MalformedMessage"),
        request("bad_wrong_type", "unmask", body_with(dropouts=5), "MalformedMessage"),
        request("bad_missing_version", "advertise", without_version, "MalformedMessage"),
        request("bad_oversized", "advertise", body_with(padding=bytes(600)), "MalformedMessage"),
        request("bad_replayed", "share", earlier_request, "UnexpectedMessage"),
        request("bad_flipped_share", "masked_input", flipped_share, "BadShare"),
        request("bad_repeated_survivor", "unmask", repeated_survivor, "MalformedMessage"),
        request("bad_unknown_survivor", "consistency", unknown_survivor, "BadSurvivors"),
        reply("bad_reply_unknown_field", "unmask", body_with(raw_update=b"x"), "MalformedMessage"),
        reply("bad_reply_replayed", "masked_input", earlier_reply, "UnexpectedMessage"),
        reply("bad_reply_flipped", "masked_input", lambda f, x: flip(x, 90), "BadSignature"),
        reply("bad_reply_short_vector", "masked_input", short_vector, "MalformedMessage"),
        reply("bad_reply_zero_key", "advertise", changed(mask_key=bytes(32)), "BadKey"),
        reply("bad_reply_high_key", "advertise", changed(share_key=b"\xff" * 32), "BadKey"),
        reply("bad_reply_other_share", "unmask", other_share, "BadShare"),
        request(
            "bad_part_again", "masked_input", changed(part=0), "UnexpectedMessage", "parts_20", 1
        ),
        request("bad_part_too_long", "deliver", longer_span, "BadDelivery", "parts_20", 0),
        reply(
            "bad_reply_part_again",
            "masked_input",
            changed(part=0),
            "UnexpectedMessage",
            "parts_20",
            1,
        ),
        reply(
            "bad_reply_short_span", "masked_input", shorter_span, "MalformedMessage", "parts_20", 1
        ),
        reply(
            "bad_reply_other_parts", "masked_input", other_parts, "MalformedMessage", "parts_20", 2
        ),
    ]


def flip(frame: bytes, place: int) -> bytes:
    return frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :]


def rewritten(federation: Federation, frame: bytes, changes) -> bytes:
    """The frame with other content, signed by its sender."""
    server, clients = federation.server_identity, federation.identities
    sender = next(
        i for i in (server, *clients.values()) if opens(federation, frame, i.name) is not None
    )
    message = opens(federation, frame, sender.name)
    return seal(message.model_copy(update=changes(message)), sender)


def opens(federation: Federation, frame: bytes, sender: str):
    from protocols import PeerError

    try:
        return open_frame(frame, federation.roster, sender, "vector")
    except PeerError:
        return None


def changed(**changes: object):
    return lambda federation, frame: rewritten(federation, frame, lambda _m: changes)


def body_with(**fields: object):
    """The same body with other fields, whatever the schema says of them, signed by its sender."""

    def change(federation: Federation, frame: bytes) -> bytes:
        body = decode(frame[64:])
        return signed(federation, body["sender"], encode({**body, **fields}))

    return change


def without_version(federation: Federation, frame: bytes) -> bytes:
    body = decode(frame[64:])
    left = {name: value for name, value in body.items() if name != "version"}
    return signed(federation, body["sender"], encode(left))


def longer_head(federation: Federation, frame: bytes) -> bytes:
    """The map's number of fields in a byte of its own, though it fits into the first."""
    body = frame[64:]
    return signed(federation, SERVER, bytes([0xB8, body[0] & 0x1F]) + body[1:])


def earlier_request(_federation: Federation, _frame: bytes) -> bytes:
    return ready("plain_20", "advertise", 0).server.request("client-02")


def earlier_reply(_federation: Federation, _frame: bytes) -> bytes:
    federation = ready("plain_20", "share", 0)
    return federation.clients["client-02"].handle(federation.server.request("client-02"))


def flipped_share(federation: Federation, frame: bytes) -> bytes:
    def flipped(message):
        first, *rest = message.shares
        box = flip(first.ciphertext, 3)
        return {"shares": (first.model_copy(update={"ciphertext": box}), *rest)}

    return rewritten(federation, frame, flipped)


def repeated_survivor(federation: Federation, frame: bytes) -> bytes:
    return rewritten(federation, frame, lambda m: {"survivors": (m.survivors[0], *m.survivors)})


def unknown_survivor(federation: Federation, frame: bytes) -> bytes:
    return rewritten(
        federation,
        frame,
        lambda m: {
            "survivors": (*m.survivors, "client-09"),
            "upload_hashes": (*m.upload_hashes, bytes(32)),
        },
    )


def fewer_members(federation: Federation, frame: bytes) -> bytes:
    return rewritten(federation, frame, lambda m: {"advertisements": m.advertisements[1:2]})


def forged_advertisement(federation: Federation, frame: bytes) -> bytes:
    return rewritten(
        federation,
        frame,
        lambda m: {"advertisements": (flip(m.advertisements[0], 5), *m.advertisements[1:])},
    )


def own_id_dead(federation: Federation, frame: bytes) -> bytes:
    return rewritten(
        federation,
        frame,
        lambda m: {"survivors": ("client-01", "client-03"), "dropouts": ("client-02",)},
    )


def other_hash(federation: Federation, frame: bytes) -> bytes:
    return rewritten(
        federation, frame, lambda m: {"upload_hashes": tuple(bytes(32) for _ in m.upload_hashes)}
    )


def opened_twice(federation: Federation, frame: bytes) -> bytes:
    return rewritten(federation, frame, lambda m: {"opened": (*m.opened, *m.opened)})


def short_vector(federation: Federation, frame: bytes) -> bytes:
    def shorter(message):
        first = message.inputs[0]
        return {"inputs": (first.model_copy(update={"packed": first.packed[:-1]}),)}

    return rewritten(federation, frame, shorter)


def other_share(federation: Federation, frame: bytes) -> bytes:
    def swapped(message):
        first, *rest = message.seed_shares
        return {"seed_shares": (first.model_copy(update={"share": bytes(32)}), *rest)}

    return rewritten(federation, frame, swapped)


def longer_span(federation: Federation, frame: bytes) -> bytes:
    def longer(message):
        (span,) = message.spans
        return {"spans": (span.model_copy(update={"packed": span.packed * 3}),)}

    return rewritten(federation, frame, longer)


def shorter_span(federation: Federation, frame: bytes) -> bytes:
    def shorter(message):
        first, *rest = message.spans
        return {"spans": (first.model_copy(update={"packed": first.packed[:-10]}), *rest)}

    return rewritten(federation, frame, shorter)


def other_parts(federation: Federation, frame: bytes) -> bytes:
    return rewritten(federation, frame, lambda m: {"parts": (*m.parts[1:], m.parts[0])})


def ready(base: str, phase: str, part: int) -> Federation:
    """An attempt that has come to this part of a phase."""
    federation, _recorders = build(CASES[base])
    federation.run(until=phase)
    for _ in range(part):
        federation.exchange()
    return federation


def request(
    name: str, phase: str, change, error: str, base: str = "plain_20", part: int = 0
) -> dict[str, object]:
    """A bad request to client-02."""
    federation = ready(base, phase, part)
    frame = change(federation, federation.server.request("client-02"))
    return entry(name, base, phase, part, "client-02", frame, error)


def reply(
    name: str, phase: str, change, error: str, base: str = "plain_20", part: int = 0
) -> dict[str, object]:
    """A bad reply of client-02 to the server."""
    federation = ready(base, phase, part)
    frame = federation.clients["client-02"].handle(federation.server.request("client-02"))
    return entry(name, base, phase, part, SERVER, change(federation, frame), error)


def entry(
    name: str, base: str, phase: str, part: int, receiver: str, frame: bytes, error: str
) -> dict[str, object]:
    return {
        "name": name,
        "based_on": base,
        "phase": phase,
        "part": part,
        "receiver": receiver,
        "sender": SERVER if receiver != SERVER else "client-02",
        "frame": frame.hex(),
        "error": error,
    }


def document() -> dict[str, object]:
    return {
        "protocol": "pilot-secure aggregation",
        "version": 1,
        "good": [good(name) for name in CASES],
        "bad": bad(),
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(document(), indent=1) + "\n")
