"""Order of messages and repeated attempts."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, plain, server_says
from in_process import entropy_for, plain_sum

from protocols import SERVER, AggregationClient, MemoryGuard
from protocols.errors import (
    AttemptRefused,
    BadPlan,
    MalformedMessage,
    UnexpectedMessage,
    WrongSession,
)
from protocols.frame import seal
from protocols.messages import AdvertiseRequest


def test_masked_input_before_shares_is_refused() -> None:
    federation = plain().run(until="masked_input")
    early = plain().run(until="share")
    with pytest.raises(WrongSession):
        early.clients[VICTIM].handle(federation.server.request(VICTIM))
    plan = server_says(federation, federation.server.request(VICTIM), shares=())
    with pytest.raises(BadPlan, match="shares are not those"):
        federation.clients[VICTIM].handle(plan)


def test_no_request_is_answered_twice() -> None:
    federation = plain()

    def repeat(phase: str, name: str, frame: bytes) -> bytes:
        client = federation.clients[name]
        if name == VICTIM and client.state != "idle" and previous:
            with pytest.raises((UnexpectedMessage, WrongSession, MalformedMessage)):
                client.handle(previous[-1])
        if name == VICTIM:
            previous.append(frame)
        return frame

    previous: list[bytes] = []
    federation.run(on_request=repeat)
    assert len(previous) == 6
    assert federation.server.report.aborted is None


def test_a_second_attempt_after_an_answered_unmask_is_refused() -> None:
    federation = plain().run(drop_before={"deliver": set(plain().cohort)})
    federation.start(attempt=1)
    federation.run()
    assert all(isinstance(error, AttemptRefused) for error in federation.errors.values())
    assert len(federation.errors) == 5


def test_a_second_attempt_would_have_differenced_out_a_client() -> None:
    """The counter-measure taken out: forgetful guards, one client fewer, subtract."""
    federation = plain().run()
    first, report = federation.server.report.means["all"], federation.server.report
    everybody = sum(inputs.num_samples for inputs in federation.inputs.values())
    federation.guards = {name: MemoryGuard() for name in federation.cohort}
    federation.start(attempt=1)
    federation.run(drop_before={"masked_input": {VICTIM}})
    second = federation.server.report.means["all"]
    assert report.opened["all"] == federation.cohort
    n = federation.inputs[VICTIM].num_samples
    stolen = (first * everybody - second * (everybody - n)) / n
    assert np.abs(stolen - federation.flat(VICTIM, "task_adapter")).max() < 1e-4


def test_an_attempt_that_overtakes_another_is_refused_at_its_unmasking() -> None:
    """Two attempts run side by side; the guard lets the client answer one of them only."""
    federation = plain().run(until="unmask")
    first, first_server = federation.clients[VICTIM], federation.server
    federation.start(attempt=1)
    federation.run(until="unmask")
    federation.clients[VICTIM].handle(federation.server.request(VICTIM))
    with pytest.raises(AttemptRefused):
        first.handle(first_server.request(VICTIM))


def test_another_cohort_for_the_same_updates_is_refused_before_any_key_is_made() -> None:
    """Two openings by cohorts with too few common members need no client to answer twice."""
    federation = plain(6).run(until="consistency")
    fewer = federation.cohort[:5]
    sums = plain_sum(fewer)
    client = AggregationClient(
        federation.parameters_for(attempt=1, cohort=fewer, sums=sums, threshold=4),
        federation.identities[VICTIM],
        federation.inputs[VICTIM],
        entropy_for("second"),
        roster=federation.roster,
        guard=federation.guards[VICTIM],
    )
    call = AdvertiseRequest(
        session=client._context.parameters.digest(), sender=SERVER, recipient=VICTIM
    )
    with pytest.raises(AttemptRefused, match="had another cohort or other parameters"):
        client.handle(seal(call, federation.server_identity))


@pytest.mark.parametrize("changed", [{"clip": {"task_adapter": 0.2}}, {"threshold": 5}])
def test_other_parameters_in_the_next_attempt_are_refused(changed: dict[str, object]) -> None:
    federation = plain().run(drop_before={"consistency": {"client-01", "client-02"}})
    federation.start(attempt=1, **changed)
    federation.run()
    assert len(federation.errors) == 5
    assert all(isinstance(error, AttemptRefused) for error in federation.errors.values())


def test_the_answer_is_persisted_before_it_is_given() -> None:
    """A guard whose disk fails: no share leaves the client, and its attempt is over."""

    class FullDisk(MemoryGuard):
        def claim(self, label: str, content: bytes) -> bool:
            if label.endswith("/answered"):
                raise OSError("no space left on device")
            return super().claim(label, content)

    federation = plain()
    federation.guards[VICTIM] = FullDisk()
    federation.start()
    federation.run(until="unmask")
    with pytest.raises(OSError, match="no space"):
        federation.clients[VICTIM].handle(federation.server.request(VICTIM))
    assert federation.clients[VICTIM].state == "confirmed"
