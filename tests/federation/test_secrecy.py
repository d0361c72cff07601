"""No message shows an adapter: every payload is searched for it in each form that it could have.

The same search finds the adapters in a clear run, and the encoded terms once masks are taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SIX, FinishedRun

from pilot_secure.federation.state import flatten
from protocols import client_masking, client_upload
from protocols.masks import MaskStream
from protocols.ring import FixedPoint, Packed, clip_in_place

WINDOW = 16  # bytes: 4 float32, 2 float64, 8 packed words
TABLE_BITS = 24


def windows(data: bytes) -> Iterator[bytes]:
    """Every run of WINDOW bytes that is no constant: what is searched for must be recognisable.

    They do not overlap: whatever shows twice as much in a row shows one of them whole.
    """
    for start in range(0, len(data) - WINDOW + 1, WINDOW):
        window = data[start : start + WINDOW]
        if len(set(window)) >= 6:
            yield window


def as_floats(vector: np.ndarray) -> Iterator[bytes]:
    yield from windows(np.ascontiguousarray(vector, "<f4").tobytes())
    yield from windows(np.ascontiguousarray(vector, "<f8").tobytes())


def found(path: Path, needles: Iterable[bytes]) -> set[bytes]:
    """Those of ``needles`` that occur at any offset of any payload of the run."""
    wanted = set(needles)
    assert len(wanted) > 100
    mask = (1 << TABLE_BITS) - 1
    heads = np.unique(np.frombuffer(b"".join(needle[:8] for needle in wanted), "<u8"))
    table = np.zeros(1 << TABLE_BITS, bool)
    table[heads & mask] = True
    data = b"".join(file.read_bytes() for file in sorted((path / "payloads").iterdir()))
    hits = set()
    for offset in range(8):
        words = np.frombuffer(data, "<u8", count=(len(data) - offset) // 8, offset=offset)
        places = np.flatnonzero(table[words & mask])
        for place in places[np.isin(words[places], heads)]:
            start = offset + 8 * int(place)
            hits.add(data[start : start + WINDOW])
    return hits & wanted


def updates(run: FinishedRun) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(client, vector, difference, adapter itself), flat, of everything that clients sent."""
    starts = {
        name: flatten({k: tensor.numpy() for k, tensor in tensors.items()})
        for name, tensors in run.simulation.host.clients["client-01"]._start.items()
    }
    for (_round, _stage, client), vectors in run.uploads.items():
        for name, tensors in vectors.items():
            delta = flatten(tensors)
            yield client, name, delta, starts[name] + delta


def encoded_terms(run: FinishedRun) -> Iterator[bytes]:
    """The packed fixed-point terms of every client, as they would be without any mask."""
    parameters = run.simulation.server.events.reports[0].parameters
    for (_round, _stage, client), vectors in run.uploads.items():
        samples = run.simulation.host.clients[client].num_samples
        weights = run.result(client, _round, _stage).weights
        for spec in parameters.sums_of(client):
            delta = flatten(vectors[spec.vector]).copy()
            clip_in_place(delta, parameters.clip[spec.vector])
            fixed = FixedPoint(
                parameters.ring_bits,
                len(parameters.potential_contributors(spec)),
                parameters.clip[spec.vector],
                float(parameters.max_samples),
            )
            words = np.empty(len(delta), np.uint32)
            applied = weights.get(spec.recipient, 1.0 if spec.recipient == "server" else 0.0)
            fixed.encode(delta, samples * applied, np.empty_like(delta), words)
            packed = Packed(parameters.ring_bits, len(delta))
            packed.write(0, words)
            yield from windows(packed.to_bytes()[: 2 * len(delta)])


def test_a_clear_run_shows_every_update(clear_run: FinishedRun) -> None:
    seen = set()
    needles = [window for *_, delta, _ in updates(clear_run) for window in as_floats(delta)]
    hits = found(clear_run.path, needles)
    for client, name, delta, _ in updates(clear_run):
        floats = set(windows(np.ascontiguousarray(delta, "<f4").tobytes()))
        assert floats <= hits
        seen.add((client, name))
    assert len(seen) == 18


def test_a_secure_run_shows_no_adapter_in_any_form(secure_run: FinishedRun) -> None:
    needles = [
        window
        for *_, delta, adapter in updates(secure_run)
        for vector in (delta, adapter)
        for window in as_floats(vector)
    ]
    assert found(secure_run.path, [*needles, *encoded_terms(secure_run)]) == set()


def test_without_masks_the_encoded_terms_show(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskStream, "mask_chunk", lambda self, words: None)
    run = run_tiny(SIX)
    needles = set(encoded_terms(run))
    assert found(run.path, needles) == needles


@pytest.mark.parametrize("missing", ["from the vector", "altogether"])
def test_one_missing_mask_makes_the_sum_wrong(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """client-01 leaves one pairwise mask out of its task's sum: noise, or a sum that is refused."""
    honest = run_tiny(SIX)
    sum_id = f"task.{honest.simulation.host.clients['client-01'].data.task}"
    term, whole = client_masking._term, {}

    def careless(context, session, planned, weight):
        made = term(context, session, planned, weight)
        if context.name != "client-01" or planned.id != sum_id:
            return made
        fewer = (made.masks[0], *made.masks[2:])  # the first is the self mask
        whole[fewer] = made.masks
        return replace(made, masks=fewer)

    monkeypatch.setattr(client_masking, "_term", careless)
    if missing == "from the vector":
        mask = client_upload.mask_scalars
        monkeypatch.setattr(
            client_upload, "mask_scalars", lambda keys, n: mask(whole.get(keys, keys), n)
        )
    run = run_tiny(SIX)
    for client in run.simulation.host.clients:
        means, expected = run.result(client).means, honest.result(client).means
        if missing == "altogether":  # its count of samples is noise too, and betrays it
            assert means[sum_id] is None
        else:
            difference = np.abs(means[sum_id] - expected[sum_id])
            assert np.median(difference) > 0.1 * run.config.security.clip
        for other in means.keys() - {sum_id}:
            np.testing.assert_array_equal(means[other], expected[other])
