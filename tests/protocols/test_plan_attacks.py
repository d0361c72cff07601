"""Plans that the rules do not give, and sums below their minimum."""

from __future__ import annotations

import pytest
from cheating import VICTIM, cheat_at, pilot, read

from protocols import SERVER
from protocols.errors import (
    BadPlan,
)


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_a_plan_with_other_contributors_is_refused(visibility: str, monkeypatch) -> None:
    federation = pilot(monkeypatch, neighbour_visibility=visibility)

    def pair_only(message):
        first = message.sums[0].model_copy(update={"contributors": ("client-01", VICTIM)})
        return {"sums": (first, *message.sums[1:])}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, pair_only))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_a_sealed_sum_redirected_to_another_recipient_is_refused(monkeypatch) -> None:
    federation = pilot(monkeypatch)

    def redirect(message):
        last = message.sums[-1].model_copy(update={"recipient": "client-01"})
        return {"sums": (*message.sums[:-1], last)}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, redirect))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_a_task_below_the_minimum_gets_no_terms_from_its_members(monkeypatch) -> None:
    """The server insists on a sum of two; the members' own rules leave it out of the plan."""
    federation = pilot(monkeypatch).run(until="masked_input", drop_before={"select": {"client-09"}})
    from protocols.messages import PlannedSum

    def insist(message):
        pair = PlannedSum(id="task-2", recipient=SERVER, contributors=("client-03", "client-06"))
        return {"sums": tuple(sorted([*message.sums, pair], key=lambda s: s.id))}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, insist))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_different_plans_for_different_clients_are_refused(monkeypatch) -> None:
    federation = pilot(monkeypatch)

    def fewer(message):
        keep = tuple(n for n in message.participants if n != "client-09")
        return {"participants": keep}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, fewer))
    assert isinstance(federation.errors[VICTIM], BadPlan)


def test_a_recipient_declared_dead_does_not_open_its_sum(monkeypatch) -> None:
    """Its sum is in the plan and all others answer: none reveals a seed share for it."""
    federation = pilot(monkeypatch)
    revealed: list[str] = []

    def watch(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "unmask":
            answer = read(federation, name, frame)
            revealed.extend(share.sum_id for share in answer.seed_shares)
        return frame

    federation.run(drop_before={"masked_input": {VICTIM}}, on_reply=watch)
    assert f"text-{VICTIM}" in {planned.id for planned in federation.server.report.plan}
    assert f"text-{VICTIM}" not in revealed
    assert "text-client-01" in revealed
    assert f"text-{VICTIM}" in federation.server.report.skipped
