"""Flower messages as an engine, over a grid that answers here; needs flwr (`make test-flower`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from pilot_secure.engines import PhaseKey
from pilot_secure.engines.flower import (
    FlowerTransport,
    await_nodes,
    pack,
    unpack,
    unpack_metrics,
    unpack_phase,
)

PHASE = PhaseKey("share", 1, 2, 3, bytes(range(32)))
NODES = {"a": 11, "b": 12, "c": 13}
REQUESTS = {"a": b"1" * 70, "b": b"22", "c": b"333"}


@pytest.fixture(autouse=True)
def of_a_task() -> None:
    """A message says which task of which run sent it."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


class Grid:
    """Answers every message when it is pulled; None: not yet, and perhaps never."""

    def __init__(self, answer: Callable[[Message], Message | None]) -> None:
        self._answer = answer
        self.sent: dict[str, Message] = {}
        self.offline: set[int] = set()
        self._looks = 0

    def get_node_ids(self) -> list[int]:
        """A node more at every look."""
        self._looks += 1
        return [12, 11, 13][: self._looks]

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        ids: list[str | None] = []
        for message in messages:
            name = f"message-{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = name
            self.sent[name] = message
            ids.append(None if message.metadata.dst_node_id in self.offline else name)
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        return [reply for name in ids if (reply := self._answer(self.sent[name])) is not None]


def echo(message: Message) -> Message:
    reply = unpack(message.content).upper() + unpack_phase(message.content).name.encode()
    return Message(pack(reply), reply_to=message)


def test_every_client_s_node_gets_its_request_and_its_phase() -> None:
    grid = Grid(echo)
    replies = FlowerTransport(grid, NODES).exchange(PHASE, REQUESTS, 10.0)
    assert replies == {client: request + b"share" for client, request in REQUESTS.items()}
    sent = list(grid.sent.values())
    assert [m.metadata.dst_node_id for m in sent] == [11, 12, 13]
    assert {m.metadata.message_type for m in sent} == {"query"}
    assert all(m.metadata.ttl <= 10.0 for m in sent)
    assert {unpack_phase(m.content) for m in sent} == {PHASE}


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_training_and_scoring_have_flower_s_own_types(name: str) -> None:
    grid = Grid(echo)
    FlowerTransport(grid, NODES).exchange(PhaseKey(name, 1, 1), {"a": b"1"}, 10.0)
    assert [m.metadata.message_type for m in grid.sent.values()] == [name]


def test_a_frame_travels_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot_secure.engines.chunks.chunks_of.__defaults__", (1000,))
    frame = bytes(range(256)) * 10
    content = pack(frame, PHASE)
    assert len(content.array_records["frame"]) == 3
    assert unpack(content) == frame


def test_who_errs_or_is_offline_or_nowhere_has_dropped_out() -> None:
    def answer(message: Message) -> Message:
        if message.metadata.dst_node_id == 12:
            return Message(Error(code=1, reason="its app raised"), reply_to=message)
        return echo(message)

    grid = Grid(answer)
    grid.offline = {13}
    start = time.monotonic()
    replies = FlowerTransport(grid, NODES).exchange(PHASE, {**REQUESTS, "d": b"4"}, 60.0)
    assert replies == {"a": b"1" * 70 + b"share", "b": None, "c": None, "d": None}
    assert time.monotonic() - start < 10


def test_a_reply_that_comes_late_is_left_where_it_is() -> None:
    grid = Grid(lambda message: echo(message) if message.metadata.dst_node_id == 11 else None)
    replies = FlowerTransport(grid, NODES).exchange(PHASE, REQUESTS, 0.5)
    assert replies == {"a": b"1" * 70 + b"share", "b": None, "c": None}


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"frame": ConfigRecord({"x": 1})}),
        RecordDict({**pack(b"x"), "metrics": ConfigRecord({"lines": [1]})}),
    ],
)
def test_a_reply_of_another_form_counts_as_none(content: RecordDict) -> None:
    grid = Grid(lambda message: Message(content, reply_to=message))
    assert FlowerTransport(grid, NODES).exchange(PHASE, {"a": b"1"}, 10.0) == {"a": None}


def test_what_clients_report_is_passed_on_with_their_names() -> None:
    told = []
    grid = Grid(lambda m: Message(pack(b"reply", metrics=("one", "two")), reply_to=m))
    transport = FlowerTransport(grid, NODES, reported=lambda *what: told.append(what))
    assert transport.exchange(PHASE, {"b": b"1"}, 10.0) == {"b": b"reply"}
    assert told == [("b", ("one", "two"))]
    assert unpack_metrics(pack(b"reply")) == ()


def test_nodes_are_awaited_until_all_are_there_or_time_is_out() -> None:
    assert await_nodes(Grid(echo), 3, 60.0) == [11, 12, 13]
    assert len(await_nodes(Grid(echo), 5, 0.3)) < 5
