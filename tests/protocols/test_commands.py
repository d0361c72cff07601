"""The command lines of the package, the transition tables and the specification."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from in_process import KEY_HOLDER_TRUST, Federation, entropy_for

import protocols
from protocols import AggregationParameters, Identity, ParameterError, schema, states
from protocols.any_message import ADAPTER
from protocols.codec import encode
from protocols.errors import BadSignature
from protocols.identity import Roster
from protocols.identity_command import (
    identity_from_line,
    identity_line,
    main,
    roster_from_lines,
)
from protocols.transcript import GENESIS, RunningHash, TranscriptHead, TranscriptRecord

SPEC = Path(protocols.__file__).with_name("SPEC.md")


def test_identities_come_back_from_their_lines() -> None:
    identity = Identity.generate("client-01", entropy_for("one"))
    again = identity_from_line(identity_line(identity))
    assert (again.name, again.public_key()) == ("client-01", identity.public_key())
    assert "secret" not in repr(identity)


def test_a_roster_holds_no_secret_and_keeps_the_order() -> None:
    parties = [Identity.generate(n, entropy_for(n)) for n in ("server", "client-02", "client-01")]
    roster = roster_from_lines([identity_line(party) for party in parties])
    assert roster.names() == ("client-02", "client-01")
    assert roster.coordinate("client-01") == 2
    assert "secret" not in roster.model_dump_json()
    assert type(roster).model_validate_json(roster.model_dump_json()) == roster
    assert roster.digest() == type(roster).of(parties[0], parties[1:]).digest()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["{}"], "roster, line 2: not an identity: expected a line of JSON"),
        (["one", "nonsense"], "roster, line 3: not an identity"),
        (["[" * 100_000], "roster, line 2: not an identity"),
        (['{"name": "One", "public_key": ""}'], 'line 2: name is "One": expected lower-case'),
        (['{"name": "one", "public_key": "AAAA"}'], 'public_key is "AAAA": expected 32 bytes'),
        ([], "one party named"),
        ([""], "at least one client"),
        (["one", "one"], "roster: two parties of the roster have one name"),
    ],
)
def test_a_wrong_roster_is_one_clear_sentence(lines: list[str], expected: str) -> None:
    server = identity_line(Identity.generate("server", entropy_for("server")))
    one = identity_line(Identity.generate("client-01", entropy_for("one")))
    replaced = [one if line == "one" else line for line in lines]
    given = [server, *replaced] if lines else []
    with pytest.raises(ParameterError, match=expected):
        roster_from_lines(given)


def test_the_identity_command(capsys, monkeypatch) -> None:
    lines = []
    for name in ("server", "client-07"):
        assert main(["new", name]) == 0
        lines.append(capsys.readouterr().out)
        assert json.loads(lines[-1])["name"] == name
    assert main(["new", "No Such Name"]) == 2
    assert "lower-case" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
    assert main(["roster"]) == 0
    roster = Roster.model_validate_json(capsys.readouterr().out)
    assert roster.names() == ("client-07",)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), "utf-8"))
    assert main(["roster"]) == 2
    assert capsys.readouterr().err == "roster: expected identities on stdin, in UTF-8\n"


def test_the_schema_command_refuses_what_it_does_not_know(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        schema.main(["--nonsense"])
    assert ended.value.code == 2 and "--nonsense" in capsys.readouterr().err
    assert schema.main(["--diagrams"]) == 0
    assert states.diagram(states.CLIENT) in capsys.readouterr().out


def test_the_schema_command_describes_every_message() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "protocols.schema"], capture_output=True, text=True, check=True
    )
    document = json.loads(run.stdout)
    kinds = {model.__name__ for model in schema.message_models()}
    assert len(kinds) == 30
    assert kinds <= set(document["$defs"])
    jsonschema.Draft202012Validator.check_schema(document)


def test_the_schema_and_the_adapter_know_the_same_kinds() -> None:
    described = {m.model_fields["kind"].default for m in schema.message_models()}
    rows = (*states.CLIENT, *states.SERVER_PHASES, *states.HOLDER)
    in_table = {row.event for row in rows} | {row.reply for row in rows}
    assert described == in_table | {"neighbour_list", "distance_table"}
    assert ADAPTER.json_schema()["discriminator"]["mapping"].keys() == described


def test_the_two_tables_fit_together() -> None:
    """What the server asks is what the others take, and the answers are what it expects."""
    for distances in ("none", "peer", "key_holder"):

        def rows(table, present=distances):
            return [row for row in table if states.applies(row, present)]

        asked = {(row.reply, row.event) for row in rows(states.SERVER_PHASES)}
        others = (*rows(states.CLIENT), *rows(states.HOLDER))
        assert asked == {(row.event, row.reply) for row in others}


@pytest.mark.parametrize("trust", ["plain", "peer", "key_holder"])
def test_every_state_and_event_is_either_in_the_table_or_refused(trust: str, monkeypatch) -> None:
    """Each request of a whole attempt, offered to a client in each state."""
    import clear_distances

    from protocols.errors import PeerError

    plain = trust == "plain"
    if trust == "peer":
        clear_distances.install(monkeypatch)
    requests: dict[str, bytes] = {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if name == "client-02":
            requests[phase] = frame
        return frame

    def build() -> Federation:
        options = {} if plain else {"num_neighbours": 3}
        if trust == "key_holder":
            options |= KEY_HOLDER_TRUST
        return Federation(count=4, num_tasks=1, plain=plain, options=options)

    build().run(on_request=keep)
    phases = list(requests)
    visited = set()
    for position, present in enumerate(phases):
        federation = build().run(until=present)
        client = federation.clients["client-02"]
        for other in (*phases[:position], *phases[position + 1 :]):
            before = client.state
            with pytest.raises(PeerError):
                client.handle(requests[other])
            assert client.state == before
            visited.add((before, other))
        client.handle(federation.server.request("client-02"))
        visited.add((present, client.state))
    assert len(visited) == len(phases) ** 2


def test_the_specification_shows_the_tables_diagrams() -> None:
    text = SPEC.read_text()
    for table in (states.CLIENT, states.SERVER_PHASES, states.HOLDER):
        assert states.diagram(table) in text, (
            "run `python -m protocols.schema --diagrams` and paste"
        )


def test_the_specification_names_every_message_field_and_error() -> None:
    text = SPEC.read_text()
    for model in schema.message_models():
        assert f"`{model.model_fields['kind'].default}`" in text
        for name in model.model_fields:
            assert re.search(rf"\b{name}\b", text), (model.__name__, name)
    from protocols import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.ProtocolError):
            assert name in text


def test_a_client_signs_the_running_hash_of_what_it_saw() -> None:
    seen: dict[str, RunningHash] = {}

    def request(phase: str, name: str, frame: bytes) -> bytes:
        seen.setdefault(name, RunningHash()).received(frame)
        return frame

    def reply(phase: str, name: str, frame: bytes) -> bytes:
        if phase != "deliver":
            seen[name].sent(frame)
        return frame

    federation = Federation(count=4, plain=True).run(on_request=request, on_reply=reply)
    receipts = federation.server.report.receipts
    assert receipts == {name: running.value for name, running in seen.items()}


def test_a_changed_record_breaks_the_chain_and_a_head_needs_the_servers_key() -> None:
    federation = Federation(count=4, plain=True)
    first = TranscriptRecord(
        seq=0,
        prev=GENESIS,
        sender="server",
        recipient="client-01",
        phase="advertise",
        session="00" * 32,
        sha256="11" * 32,
        length=5,
        at_ms=0,
    )
    changed = first.model_copy(update={"length": 6})
    assert first.digest() != changed.digest()
    head = TranscriptHead.sign(1, first.digest(), federation.server_identity, final=True)
    head.verify(federation.roster)
    with pytest.raises(BadSignature):
        head.model_copy(update={"count": 2}).verify(federation.roster)
    with pytest.raises(BadSignature):
        stolen = federation.identities["client-01"]
        TranscriptHead.sign(1, first.digest(), stolen, final=True).verify(federation.roster)


def test_parameters_come_back_from_the_bytes_whose_hash_is_their_session() -> None:
    parameters = Federation(count=5, plain=True).parameters
    encoded = parameters.encoded()
    assert hashlib.sha256(encoded).digest() == parameters.digest()
    assert AggregationParameters.from_encoded(encoded) == parameters
    for bad in (b"", b"\xff", encoded[:-1], encode(["other", {}]), encode([1, 2, 3])):
        with pytest.raises(ParameterError):
            AggregationParameters.from_encoded(bad)
    with pytest.raises(ParameterError, match="threshold"):
        AggregationParameters.from_encoded(
            encode(["pilot-secure parameters", parameters.model_dump() | {"threshold": 2}])
        )
