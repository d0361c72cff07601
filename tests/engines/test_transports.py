"""Transports: what they carry, count, record and lose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pilot_secure.config import DropoutConfig
from pilot_secure.engines import InProcessTransport, PhaseKey
from pilot_secure.federation.faults import FaultEvent, FaultyTransport
from pilot_secure.federation.metering import MeteredTransport
from pilot_secure.federation.recording import RecordedTransport
from pilot_secure.transcript import TranscriptWriter, chained, read_payload, read_transcript

TRAIN, SHARE = PhaseKey("train", 1, 1), PhaseKey("share", 1, 1)
REQUESTS = {"a": b"to a", "b": b"to bb"}


class Echo:
    """Answers each request by itself in capitals, and remembers what reached it."""

    def __init__(self, silent: tuple[str, ...] = ()) -> None:
        self.seen: list[tuple[PhaseKey, dict[str, bytes]]] = []
        self._silent = silent

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        self.seen.append((phase, dict(requests)))
        return {c: None if c in self._silent else r.upper() for c, r in requests.items()}


class FakeHost:
    """Answers by the client's name, or fails; notes who was asked and whether it was finished."""

    report = "ready"
    names = ("a", "b", "c")

    def __init__(self, defect: Exception | None = None) -> None:
        self.calls: list[tuple[str, PhaseKey, bytes]] = []
        self.finished = False
        self._defect = defect

    def handle(self, client: str, phase: PhaseKey, request: bytes) -> bytes:
        if self._defect is not None:
            raise self._defect
        self.calls.append((client, phase, request))
        return client.encode()

    def finish(self) -> None:
        self.finished = True


def test_in_process_calls_the_clients_that_are_asked() -> None:
    host = FakeHost()
    transport = InProcessTransport(host)
    assert transport.reports == ["ready"]
    assert transport.exchange(SHARE, REQUESTS, 1.0) == {"a": b"a", "b": b"b"}
    assert host.calls == [("a", SHARE, b"to a"), ("b", SHARE, b"to bb")]
    assert transport.finish(1.0) == 0
    assert host.finished


def test_in_process_does_not_hide_a_defect() -> None:
    broken = FakeHost(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        InProcessTransport(broken).exchange(SHARE, {"a": b""}, 1.0)


@pytest.mark.parametrize(("probability", "answer"), [(0.0, b"TO A"), (1.0, None)])
def test_probability_is_none_or_all_at_its_ends(probability: float, answer: bytes | None) -> None:
    inner = Echo()
    faulty = FaultyTransport(inner, probability=probability)
    replies = faulty.exchange(SHARE, REQUESTS, 1.0)
    assert replies.keys() == REQUESTS.keys()
    assert replies["a"] == answer
    assert len(faulty.events) == (2 if probability else 0)
    assert inner.seen == [(SHARE, {} if probability else REQUESTS)]


def test_the_same_seed_loses_the_same_clients() -> None:
    def events(seed: int) -> list[FaultEvent]:
        faulty = FaultyTransport(Echo(), probability=0.3, seed=seed)
        for number in range(1, 30):
            faulty.exchange(PhaseKey("share", number, 1), REQUESTS, 1.0)
        return faulty.events

    assert events(1) == events(1) != events(2)
    assert 5 < len(events(1)) < 35  # of 58, 30 % expected


def test_a_scheduled_client_is_gone_until_the_next_attempt() -> None:
    inner = Echo()
    schedule = [DropoutConfig(client="b", round=1, stage=1, phase="share")]
    faulty = FaultyTransport(inner, schedule=schedule)
    keys = [
        PhaseKey("advertise", 1, 1),
        SHARE,
        PhaseKey("select", 1, 1),
        PhaseKey("advertise", 1, 1, attempt=1),
        PhaseKey("train", 2, 2),
    ]
    answered = [faulty.exchange(key, REQUESTS, 1.0)["b"] is not None for key in keys]
    assert answered == [True, False, False, True, True]
    assert [set(requests) for _key, requests in inner.seen] == [
        {"a", "b"},
        {"a"},
        {"a"},
        {"a", "b"},
        {"a", "b"},
    ]
    # told once, not at every phase that it misses
    assert faulty.events == [FaultEvent(SHARE, "b", "vanished")]


def test_a_straggler_does_its_work_and_is_not_heard_again_in_the_attempt() -> None:
    inner = Echo()
    schedule = [DropoutConfig(client="b", round=1, stage=1, phase="share", fault="late")]
    faulty = FaultyTransport(inner, schedule=schedule)
    keys = [SHARE, PhaseKey("select", 1, 1), PhaseKey("train", 2, 2)]
    answered = [faulty.exchange(key, REQUESTS, 1.0)["b"] is not None for key in keys]
    assert answered == [False, False, True]
    assert [set(requests) for _key, requests in inner.seen] == [{"a", "b"}, {"a"}, {"a", "b"}]
    assert faulty.events == [FaultEvent(SHARE, "b", "late")]


def test_a_client_without_an_answer_is_lost_until_the_next_attempt() -> None:
    inner = Echo(silent=("b",))
    faulty = FaultyTransport(inner)
    for key in (TRAIN, PhaseKey("advertise", 1, 1), PhaseKey("advertise", 1, 1, attempt=1)):
        assert faulty.exchange(key, REQUESTS, 1.0) == {"a": b"TO A", "b": None}
    assert [set(requests) for _key, requests in inner.seen] == [{"a", "b"}, {"a"}, {"a", "b"}]
    assert [event.fault for event in faulty.events] == ["lost", "lost"]  # once in each attempt


def test_stragglers_come_by_chance_too() -> None:
    inner = Echo()
    faulty = FaultyTransport(inner, straggler_probability=1.0)
    assert faulty.exchange(SHARE, REQUESTS, 1.0) == {"a": None, "b": None}
    assert inner.seen == [(SHARE, REQUESTS)]
    assert {event.fault for event in faulty.events} == {"late"}


def test_scoring_reaches_everybody() -> None:
    faulty = FaultyTransport(Echo(), probability=1.0)
    faulty.exchange(TRAIN, REQUESTS, 1.0)
    replies = faulty.exchange(PhaseKey("evaluate", 1, 1), REQUESTS, 1.0)
    assert None not in replies.values()
    assert {event.phase.name for event in faulty.events} == {"train"}


def test_metering_adds_up_by_phase() -> None:
    metered = MeteredTransport(Echo(silent=("b",)))
    for key in (SHARE, PhaseKey("share", 2, 2), TRAIN):
        metered.exchange(key, REQUESTS, 1.0)
    assert metered.costs.keys() == {"share", "train"}
    share = metered.costs["share"]
    assert (share.bytes_down, share.bytes_up) == (2 * 9, 2 * 4)  # b received, and sent nothing
    before = share.seconds
    with metered.timed("share"):
        sum(range(10_000))
    assert share.seconds > before > 0


def test_an_exchange_that_fails_is_timed_all_the_same() -> None:
    class Broken:
        def exchange(self, phase, requests, timeout_s):
            raise KeyboardInterrupt

    metered = MeteredTransport(Broken())
    with pytest.raises(KeyboardInterrupt):
        metered.exchange(SHARE, REQUESTS, 1.0)
    assert metered.costs["share"].seconds > 0


def test_both_directions_are_recorded(tmp_path: Path) -> None:
    transcript = TranscriptWriter(tmp_path, keep_payloads=True)
    key = PhaseKey("share", 1, 1, session=bytes([7]) * 32)
    RecordedTransport(Echo(silent=("b",)), transcript).exchange(key, REQUESTS, 1.0)
    transcript.close()
    records = list(chained(read_transcript(tmp_path)))
    told = [(r.sender, r.recipient, read_payload(tmp_path, r)) for r in records]
    assert told == [
        ("server", "a", b"to a"),
        ("server", "b", b"to bb"),
        ("a", "server", b"TO A"),
    ]
    assert {(r.phase, r.session) for r in records} == {("share", "07" * 32)}


def test_a_request_is_recorded_though_carrying_it_fails(tmp_path: Path) -> None:
    class Killed:
        def exchange(self, phase, requests, timeout_s):
            raise KeyboardInterrupt

    transcript = TranscriptWriter(tmp_path, keep_payloads=True)
    with pytest.raises(KeyboardInterrupt):
        RecordedTransport(Killed(), transcript).exchange(SHARE, REQUESTS, 1.0)
    assert [r.recipient for r in chained(read_transcript(tmp_path))] == ["a", "b"]
