"""The machines against the one-page reference: whole aggregations through bytes."""

import numpy as np
import pytest
from in_process import Federation

from pilot_secure.federation.scratch import Scratch
from protocols import AggregationServer, Entropy
from protocols.reference import aggregate
from protocols.results import fixed_point_of
from protocols.selection import Chosen
from protocols.storage import Storage


def replayed(federation: Federation):
    """The reference with the selection that the secure run made."""
    results = {
        name: client.result
        for name, client in federation.clients.items()
        if client.result is not None
    }
    selections = {name: Chosen(r.neighbours, r.scale) for name, r in results.items()}
    weights = {k: {j: r.weights[k] for j, r in results.items() if k in r.weights} for k in results}
    return aggregate(
        federation.parameters,
        {
            name: {v: federation.flat(name, v) for v in federation.lengths}
            for name in federation.cohort
        },
        {name: inputs.num_samples for name, inputs in federation.inputs.items()},
        survivors=set(results),
        selections=selections,
        weights=weights,
    )


def assert_equals_reference(federation: Federation) -> None:
    report, expected = federation.server.report, replayed(federation)
    planned = {item.id: item for item in report.plan}
    may_open = {sum_id for sum_id, clear in expected.items() if clear is not None}
    assert set(report.opened) == may_open
    for spec in federation.parameters.sums:
        if spec.recipient != "server" or spec.id not in report.opened:
            continue
        fixed = fixed_point_of(federation.parameters, planned[spec.id])
        clear = expected[spec.id]
        bound = fixed.error_bound(clear.sum_n)
        assert np.abs(report.means[spec.id] - clear.mean).max() <= bound
        for client in federation.clients.values():
            if client.result is not None:
                np.testing.assert_array_equal(client.result.means[spec.id], report.means[spec.id])
    for spec in federation.parameters.sums:
        if spec.recipient == "server" or spec.id not in report.opened:
            continue
        sealed, clear = federation.clients[spec.recipient].result.sealed, expected[spec.id]
        fixed = fixed_point_of(federation.parameters, planned[spec.id])
        error = np.abs(sealed.vector_sum - clear.vector_sum).max()
        assert error <= clear.sum_nu * fixed.error_bound(clear.sum_nu)
        assert sealed.sum_n == clear.sum_n
        assert sealed.sum_u == clear.sum_u
        assert sealed.sum_nu == clear.sum_nu
        assert sealed.num_contributors == len(clear.contributors)


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
@pytest.mark.parametrize("bits", [16, 20, 24, 32])
def test_nine_clients_three_tasks(visibility: str, bits: int) -> None:
    options = {"neighbour_visibility": visibility, "ring_bits": bits}
    federation = Federation(options=options).run()
    report = federation.server.report
    assert report.aborted is None
    assert federation.errors == {}
    assert set(report.opened) == {spec.id for spec in federation.parameters.sums}
    assert len(report.receipts) == 9
    assert_equals_reference(federation)


def test_distances_are_the_vectors_distances() -> None:
    federation = Federation().run()
    for name in federation.cohort:
        row = federation.clients[name].result.row
        own = federation.flat(name, "text_adapter")
        for peer, distance in row.items():
            exact = np.linalg.norm(own - federation.flat(peer, "text_adapter"))
            assert distance == pytest.approx(exact, rel=1e-4)


def test_one_sum_over_everybody_needs_no_distances() -> None:
    federation = Federation(count=5, plain=True).run()
    assert "distance_upload" not in federation.server.report.survivors
    assert federation.server.report.opened == {"all": federation.cohort}
    assert_equals_reference(federation)


def test_any_subset_may_be_the_cohort() -> None:
    federation = Federation(count=9)
    cohort = ("client-02", "client-03", "client-05", "client-08", "client-09")
    from in_process import plain_sum

    federation.cohort = cohort
    federation.plain = True
    federation.options = {"sums": plain_sum(cohort), "threshold": 4}
    federation.start(cohort=cohort)
    federation.run()
    assert federation.server.report.opened == {"all": cohort}
    assert_equals_reference(federation)


@pytest.mark.parametrize("count", [4, 9])
def test_the_servers_memory_is_the_callers_and_one_vector_per_sum(count: int, tmp_path) -> None:
    """What is long may lie on disk, and there is as much of it whatever the cohort."""
    allocated, scratch = [], Scratch(str(tmp_path), in_memory=0)

    def on_disk(name: str, num_bytes: int) -> Storage:
        allocated.append((name, num_bytes))
        return scratch(name, num_bytes)

    federation = Federation(count=count, plain=True)
    federation.server = AggregationServer(
        federation.parameters,
        federation.server_identity,
        Entropy(),
        roster=federation.roster,
        allocate=on_disk,
    )
    federation.run()
    assert allocated == [("sum-all", 3 * 301), ("opened-all", 753)]
    assert_equals_reference(federation)


def test_what_the_server_adds_up_hides_every_term() -> None:
    """Without its masks an upload would be the encoding; with them it is far from it."""
    frames: dict[str, bytes] = {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "masked_input":
            frames[name] = frame
        return frame

    federation = Federation(count=4, plain=True, options={"threshold": 3}).run(on_reply=keep)
    from protocols.frame import open_frame
    from protocols.ring import Packed

    counts = []
    for name, frame in frames.items():
        upload = open_frame(frame, federation.roster, name, "test")
        words = np.zeros(301, np.uint32)
        Packed(20, 301, upload.inputs[0].packed).add_to(0, words)
        counts.append(np.mean((words > 2**17) & (words < 2**20 - 2**17)))
    # A bare term stays within 1/(2 K) of the ring either side of zero; uniform words do not.
    assert min(counts) > 0.6
