"""One entry of a transcript, opened in stages, so that a defect is told by the rule it breaks.

Signature, encoding and schema are looked at one after the other. Where one is broken the message
is still read as far as it can be, for the other rules to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

import cbor2
from pydantic import BaseModel, TypeAdapter, ValidationError

from pilot_secure.federation import messages as federation_messages
from pilot_secure.federation.messages import FederationMessage
from protocols import frame as protocol_frames
from protocols.any_message import ADAPTER
from protocols.codec import MAX_DEPTH, CodecError, decode
from protocols.errors import BadSignature
from protocols.identity import SERVER, SIGNATURE_BYTES, Roster, sha256
from protocols.messages import Message
from protocols.transcript import TranscriptRecord

FEDERATION_PHASES = frozenset({"train", "evaluate", "convene", "clear_update", "clear_deliver"})
AnyMessage = Message | FederationMessage


class Stage(StrEnum):
    """Where the opening of a frame stopped being what it should be."""

    SIGNATURE = "signature"
    ENCODING = "encoding"
    SCHEMA = "schema"


@dataclass(frozen=True)
class Defect:
    """What is wrong with a frame, and what was expected."""

    stage: Stage
    found: str
    expected: str


@dataclass(frozen=True)
class Entry:
    """A record with its frame and message; both are None where only the hash is there.

    ``damage`` says what is wrong with the payload's file. ``message`` is also None where the frame
    cannot be read at all.
    """

    record: TranscriptRecord
    frame: bytes | None = None
    damage: str | None = None
    message: AnyMessage | None = None
    defects: tuple[Defect, ...] = ()

    @property
    def client(self) -> str:
        """The end of the message that is not the server."""
        record = self.record
        return record.recipient if record.sender == SERVER else record.sender

    @property
    def from_server(self) -> bool:
        """Whether the server sent it."""
        return self.record.sender == SERVER

    @property
    def in_aggregation(self) -> bool:
        """Whether it belongs to an attempt of a secure aggregation."""
        return self.record.phase not in FEDERATION_PHASES

    @property
    def protocol_message(self) -> Message | None:
        """The message if it is one of the aggregation protocol's."""
        return self.message if isinstance(self.message, Message) else None


def open_entry(
    record: TranscriptRecord, frame: bytes | None, damage: str | None, roster: Roster
) -> Entry:
    """Open a frame as far as it can be opened."""
    if frame is None:
        return Entry(record, None, damage)
    if len(frame) <= SIGNATURE_BYTES:
        short = Defect(Stage.SCHEMA, f"a frame of {len(frame)} bytes", "a signature and a message")
        return Entry(record, frame, damage, None, (short,))
    body = memoryview(frame)[SIGNATURE_BYTES:]
    defects: list[Defect] = []
    content = _decoded(body, defects)
    aggregation = _is_aggregation(content, record)
    label = protocol_frames.LABEL if aggregation else federation_messages.LABEL
    try:
        roster.verify(record.sender, frame[:SIGNATURE_BYTES], label + sha256(body), record.phase)
    except BadSignature as error:
        defects.append(Defect(Stage.SIGNATURE, str(error), "a signature by the pinned key"))
    adapter = ADAPTER if aggregation else federation_messages.ADAPTER
    message = _validated(content, adapter, defects)
    if message is not None:
        _check_ends(message, record, defects)
    return Entry(record, frame, damage, message, tuple(defects))


def _decoded(body: memoryview, defects: list[Defect]) -> Any:
    """The body's value; one that is not canonical is read leniently, with a defect."""
    try:
        return decode(body)
    except CodecError as error:
        defects.append(Defect(Stage.ENCODING, str(error), "the one canonical CBOR encoding"))
    try:
        value = cbor2.loads(
            body,
            max_depth=MAX_DEPTH,
            strict_hashable_types=True,
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
        )
    except Exception:  # noqa: BLE001 - whatever a foreign decoder raises, the bytes are no message
        return None
    return _with_tuples(value)


def _refuse_tag(*_: object) -> NoReturn:
    raise CodecError("tags are not used")


# A few bytes of tags stand for a list of lists that no memory holds, or for a sum of hours.
_NO_TAGS = dict.fromkeys(range(1 << 16), _refuse_tag)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_with_tuples(item) for item in value)
    return value


def _is_aggregation(content: Any, record: TranscriptRecord) -> bool:
    """Which of the two kinds of message it is: a refusal comes within an aggregation's phase."""
    if record.phase in FEDERATION_PHASES:
        return False
    return not (isinstance(content, dict) and content.get("kind") == "refusal")


def _validated(content: Any, adapter: TypeAdapter[Any], defects: list[Defect]) -> AnyMessage | None:
    if content is None:
        return None
    try:
        message: AnyMessage = adapter.validate_python(content)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        defects.append(Defect(Stage.SCHEMA, f"{where}: {first['msg'][:200]}", "a known message"))
        unknown = [p["loc"] for p in problems if p["type"] == "extra_forbidden"]
        extra = {loc[1] for loc in unknown if len(loc) == 2}
        if len(extra) != len(problems) or not isinstance(content, dict):
            return None
        rest = {key: value for key, value in content.items() if key not in extra}
        return _validated(rest, adapter, defects)
    if not protocol_frames.says_exactly(content, message.model_dump()):
        what = "a field is left out or of another number type"
        defects.append(Defect(Stage.SCHEMA, what, "every field, as its type says"))
    return message


def _check_ends(message: BaseModel, record: TranscriptRecord, defects: list[Defect]) -> None:
    for end in ("sender", "recipient"):
        inside, outside = getattr(message, end), getattr(record, end)
        if inside != outside:
            found = f"a message whose {end} is {inside}, recorded with {outside}"
            defects.append(Defect(Stage.SIGNATURE, found, f"{end} {outside} in the message"))
