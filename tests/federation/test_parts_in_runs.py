"""A run whose vectors go in parts ends as the same run in one part, whoever vanishes in between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import SIX, FinishedRun

from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.verdicts import Verdict
from pilot_secure.audit.verify import replay
from pilot_secure.federation import scratch
from pilot_secure.transcript import read_transcript
from protocols.parts import cut

PART_BYTES = 2048


def test_a_run_in_parts_loses_who_vanishes_in_between_and_is_audited_whole(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """client-02 is gone after the first part of its upload: in no sum; the audit repeats it all."""
    drop = {"client": "client-02", "round": 1, "stage": 1, "phase": "masked_input"}
    exact = {"sketch_size": None}  # or each run would choose by a sketch of its own
    once = run_tiny(SIX, {"security": {**exact, "dropouts": [drop]}})
    security = {
        **exact,
        "part_bytes": PART_BYTES,
        "insecure_escrow": True,
        "dropouts": [{**drop, "part": 1}],
    }
    made: list[str] = []
    start = scratch.Scratch.__call__

    def on_disk(self: scratch.Scratch, name: str, num_bytes: int):
        made.append(name)
        return start(scratch.Scratch(self.name, in_memory=0), name, num_bytes)

    monkeypatch.setattr(scratch.Scratch, "__call__", on_disk)
    run = run_tiny(SIX, {"security": security})
    (report,) = run.simulation.server.events.reports
    parameters = report.parameters
    own = cut(parameters, [s.id for s in parameters.sums_of("client-01")])
    assert len(own) > 2, "the test needs uploads in parts"
    sent = [r.sender for r in read_transcript(run.path) if r.phase == "masked_input"]
    assert sent.count("client-01") == len(own) and sent.count("client-02") == 1
    assert report.dropouts["masked_input"] == ("client-02",)
    assert all("client-02" not in contributors for contributors in report.opened.values())
    assert {name.split("-")[0] for name in made} == {"upload", "sum", "opened"}
    assert not (run.path / "state" / "server" / "scratch").exists()
    for client in report.receipts:
        for sum_id, mean in once.result(client).means.items():
            np.testing.assert_array_equal(run.result(client).means[sum_id], mean)
        np.testing.assert_allclose(
            run.result(client).sealed.vector_sum, once.result(client).sealed.vector_sum, atol=1e-3
        )
    verdicts = replay(Bundle.open(run.path), read_escrow(run.path / "escrow.json")).results
    assert {r.id: r.findings for r in verdicts if r.verdict is Verdict.FAIL} == {}
    assert {r.id for r in verdicts if r.verdict is Verdict.NOT_CHECKABLE} == set()


def test_a_sealed_sum_that_was_spoilt_is_told_in_the_runs_notes(
    run_tiny: Callable[..., FinishedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """client-02 masks its term for client-01 with another seed than it dealt shares of."""
    from protocols import client_masking

    honest = client_masking.mask_keys

    def other_seed(context, session, planned):
        if (context.name, planned.recipient) == ("client-02", "client-01"):
            session.seeds[planned.id] = bytes(32)
        return honest(context, session, planned)

    monkeypatch.setattr(client_masking, "mask_keys", other_seed)
    run = run_tiny(SIX)
    assert run.result("client-01").sealed is None
    spoilt = [note for note in run.summary.notes if "impossible scalars" in note]
    assert len(spoilt) == 1
    assert "client-01" in spoilt[0] and "round 1, stage 1" in spoilt[0]
    assert run.result("client-03").sealed is not None
