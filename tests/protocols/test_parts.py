"""Vectors in parts: cut as agreed, added when they are whole, and the same sums as in one frame."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tracemalloc

import clear_distances
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import Federation, names
from test_aggregation import assert_equals_reference

from pilot_secure.federation.scratch import Scratch
from protocols import SERVER, AggregationServer, Entropy, ParameterError, SumSpec
from protocols.identity import Roster
from protocols.keys import KeyPair
from protocols.parts import cut, length_of
from protocols.ring import packed_bytes


@pytest.fixture
def remembered_signatures(monkeypatch) -> None:
    """Patterns repeat each other's messages: verify the same signature once."""
    monkeypatch.setattr(Roster, "verify", functools.cache(Roster.verify))
    monkeypatch.setattr(Roster, "__hash__", lambda self: hash(self.clients), raising=False)
    monkeypatch.setattr(KeyPair, "exchange", functools.cache(KeyPair.exchange))


def plain(count: int, part_bytes: int, length: int = 60, **options: object) -> Federation:
    """A sum of one vector: three parts of 24 coordinates at 64 bytes each."""
    few = {"max_colluders": 0, "min_contributors": 2, "part_bytes": part_bytes, **options}
    return Federation(count=count, plain=True, lengths={"task_adapter": length}, options=few)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([16, 20, 24, 32]),
    st.integers(64, 3000),
)
@settings(max_examples=60, deadline=None)
def test_parts_cover_every_vector_once_within_the_bound(
    task: int, text: int, bits: int, part_bytes: int
) -> None:
    lengths = {"task_adapter": task, "text_adapter": text}
    try:
        federation = Federation(
            count=4,
            num_tasks=1,
            lengths=lengths,
            options={"num_neighbours": 3, "part_bytes": part_bytes, "ring_bits": bits},
        )
    except ParameterError as error:
        assert "part_bytes" in str(error)
        return
    p = federation.parameters
    ids = [spec.id for spec in p.sums_of("client-02")]
    parts, ends = cut(p, ids), dict.fromkeys(ids, 0)
    for part in parts:
        assert sum(packed_bytes(bits, span.length) for span in part) <= part_bytes
        assert [span.sum_id for span in part] == sorted({span.sum_id for span in part})
        for span in part:
            assert span.start == ends[span.sum_id]
            assert span.start % 4 == 0 or span.length == 0
            ends[span.sum_id] = span.stop
    assert ends == {name: length_of(p, name) for name in ids}
    assert [span.sum_id for span in parts[-1]] == sorted(ids)
    assert all(any(span.length for span in part) for part in parts)


def test_parameters_refuse_parts_that_hold_nothing_or_are_far_too_many() -> None:
    with pytest.raises(ParameterError, match="part_bytes: 100 for 12 sums, at least 120"):
        Federation(options={"part_bytes": 100})
    with pytest.raises(ParameterError, match="cuts the sums too small, at least"):
        plain(4, 64, length=1 << 22)


@pytest.mark.parametrize("bits", [16, 20, 24, 32])
@pytest.mark.parametrize("part_bytes", [240, 1000, 1 << 26])
def test_the_sums_are_the_same_whatever_the_parts(bits: int, part_bytes: int, monkeypatch) -> None:
    clear_distances.install(monkeypatch)
    federation = Federation(options={"ring_bits": bits, "part_bytes": part_bytes}).run()
    assert federation.errors == {} and federation.server.report.faults == {}
    assert len(federation.server.report.receipts) == 9
    assert_equals_reference(federation)


def test_one_part_is_one_frame_in_each_direction() -> None:
    exchanges = []

    def note(phase: str, name: str, frame: bytes) -> bytes:
        exchanges.append((phase, name))
        return frame

    plain(4, 150).run(on_request=note)
    assert len(set(exchanges)) == len(exchanges)
    exchanges.clear()
    plain(4, 149).run(on_request=note)
    assert exchanges.count(("masked_input", "client-01")) == 2
    assert exchanges.count(("deliver", "client-01")) == 2


def dropping(federation: Federation, places: dict[str, tuple[str, int] | None]):
    """Let each client vanish before the exchange (phase, part) of its place, asked or not."""

    def interfere(phase: str, _name: str, frame: bytes) -> bytes:
        now = (phase, federation.server.part)
        federation.gone |= {n for n, place in places.items() if place is not None and place == now}
        return frame

    return interfere


PLACES = [("masked_input", 0), ("masked_input", 1), ("masked_input", 2), ("deliver", 1), None]


@pytest.mark.parametrize("at_once", [1, None])
@pytest.mark.parametrize("count", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_every_pattern_of_drop_outs_between_parts(
    count: int, at_once: int | None, remembered_signatures
) -> None:
    """Whoever vanishes before its last part is in no sum; whoever does later is in all."""
    threshold = 2 if count == 3 else 3
    for pattern in itertools.product(PLACES, repeat=count):
        federation = plain(count, 64)
        few = dataclasses.replace(federation.server._context, uploads_at_once=at_once)
        federation.server._context = federation.server._phase.context = few
        places = dict(zip(federation.cohort, pattern, strict=True))
        gone = {n for n, place in places.items() if place and place[0] == "masked_input"}
        left = [name for name in federation.cohort if name not in gone]
        federation.run(on_request=dropping(federation, places))
        report = federation.server.report
        assert federation.errors == {} and report.faults == {}
        if len(left) < threshold:
            assert report.aborted.startswith("masked_input") and not report.opened
            continue
        assert report.opened == {"all": tuple(left)}
        assert report.survivors["masked_input"] == tuple(left)
        assert set(report.dropouts["masked_input"]) == gone
        silent = {n for n, place in places.items() if place and place[0] == "deliver"}
        assert set(report.receipts) == set(left) - silent
        assert report.survivors["deliver"] == tuple(sorted(report.receipts))
        check_mean(federation, left)


def check_mean(federation: Federation, left: list[str]) -> None:
    total = sum(federation.inputs[n].num_samples for n in left)
    terms = [
        federation.inputs[n].num_samples
        * np.clip(federation.flat(n, "task_adapter"), -0.1, 0.1).astype(float)
        for n in left
    ]
    mean = federation.server.report.means["all"]
    assert np.abs(mean - np.sum(terms, axis=0) / total).max() < 1e-5
    for name in federation.server.report.receipts:
        np.testing.assert_array_equal(federation.clients[name].result.means["all"], mean)


@pytest.mark.parametrize("at_once", [1, 2, None])
def test_so_many_uploads_are_kept_apart_at_a_time_and_none_afterwards(at_once, tmp_path) -> None:
    """Besides the first part of everybody; what is left of one that vanished is freed."""
    scratch, most = Scratch(str(tmp_path / "scratch"), in_memory=0), 0
    federation = plain(5, 64, length=200)
    federation.server = AggregationServer(
        federation.parameters,
        federation.server_identity,
        Entropy(),
        roster=federation.roster,
        allocate=scratch,
        uploads_at_once=at_once,
    )

    def grown() -> int:
        """Uploads of which more than the first part is kept."""
        first = packed_bytes(20, 24)
        files = [path.read_bytes() for path in (tmp_path / "scratch").glob("upload-*")]
        return sum(any(data[first:]) for data in files)

    def watch(phase: str, name: str, frame: bytes) -> bytes:
        nonlocal most
        if (phase, name, federation.server.part) == ("masked_input", "client-05", 3):
            federation.gone.add(name)
        if phase == "masked_input" and federation.server.part:
            most = max(most, grown())
        return frame

    federation.run(on_request=watch)
    assert federation.server.report.aborted is None
    assert most == (at_once or 5)
    assert not list((tmp_path / "scratch").glob("upload-*"))
    check_mean(federation, list(federation.server.report.survivors["masked_input"]))
    scratch.clear()
    assert not (tmp_path / "scratch").exists()


def test_clip_counts_are_those_of_the_whole_vector() -> None:
    whole, cut_up = (plain(4, size, clip={"task_adapter": 0.02}).run() for size in (1 << 20, 64))
    for name in whole.cohort:
        counts = cut_up.clients[name].result.clip_counts
        assert counts == whole.clients[name].result.clip_counts
        assert counts["task_adapter"] > 5


def test_a_nan_in_a_later_part_names_its_tensor_and_ends_the_attempt_for_its_owner() -> None:
    federation = plain(5, 64)
    federation.inputs["client-02"].vectors["task_adapter"]["second"][-1] = np.nan
    federation.run()
    assert "client-02, task_adapter: tensor second holds nan" in str(federation.errors["client-02"])
    assert "client-02" not in federation.server.report.opened["all"]
    assert federation.clients["client-02"].state == "failed"
    check_mean(federation, [n for n in federation.cohort if n != "client-02"])


def test_what_is_held_at_once_does_not_grow_with_the_vectors(tmp_path, monkeypatch) -> None:
    """Beside the vectors it is parts, not sums: five sums of a megabyte, in parts of 64 KiB."""
    monkeypatch.setattr("protocols.accumulators.BLOCK", 1 << 14)
    part, length = 1 << 16, 400_000
    federation = Federation(
        count=4,
        lengths={"text_adapter": length, "task_adapter": 8},
        options={"sums": everybodys_and_own(names(4)), "part_bytes": part, "threshold": 3},
    )
    scratch = Scratch(str(tmp_path), in_memory=0)
    federation.server = AggregationServer(
        federation.parameters,
        federation.server_identity,
        Entropy(),
        roster=federation.roster,
        allocate=scratch,
    )
    peaks: dict[str, int] = {}

    def measured(who: str, step):
        before, _peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = step()
        peaks[who] = max(peaks.get(who, 0), tracemalloc.get_traced_memory()[1] - before)
        return result

    tracemalloc.start()
    try:
        server = federation.server
        while not server.done:
            phase = server.phase
            for name in server.clients:
                client = federation.clients[name]
                request = measured(f"server {phase}", lambda n=name: server.request(n))
                reply = measured(f"client {phase}", lambda c=client, r=request: c.handle(r))
                measured(f"server {phase}", lambda n=name, r=reply: server.accept(n, r))
            measured(f"server {phase}", server.advance)
    finally:
        tracemalloc.stop()
    assert len(federation.server.report.receipts) == 4
    some = 3 << 20  # messages, chunks, the interpreter's tables: an upload is 4 MB, the sums 8 MB
    assert peaks["client masked_input"] < 4 * part + some
    assert peaks["server masked_input"] < 4 * part + some
    assert peaks["server unmask"] < 4 * part + some
    assert peaks["server deliver"] < 4 * part + some
    both = 2 * 4 * length  # what it takes home: a mean and a sealed sum
    assert both < peaks["client deliver"] < both + 4 * part + some


def everybodys_and_own(cohort: tuple[str, ...]) -> tuple[SumSpec, ...]:
    """A sum for all, and a sealed one for each, all of one vector."""
    everybody = SumSpec(id="all", vector="text_adapter", recipient=SERVER, contributors=cohort)
    own = [
        SumSpec(
            id=f"text-{name}",
            vector="text_adapter",
            recipient=name,
            contributors=tuple(other for other in cohort if other != name),
        )
        for name in cohort
    ]
    return (everybody, *own)
