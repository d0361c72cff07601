"""Delivered sums that are others', shifted, or different for different clients."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, cheat_at, pilot, plain, read, server_says
from in_process import Federation

from protocols import SERVER, AggregationResult, SumSpec
from protocols.errors import (
    BadDelivery,
    WrongSession,
)
from protocols.frame import seal
from protocols.messages import scalars_from_wire, scalars_to_wire
from protocols.ring import Packed


def test_a_sealed_sum_for_somebody_else_is_refused(monkeypatch) -> None:
    federation = pilot(monkeypatch).run(until="deliver")
    theirs = read(federation, SERVER, federation.server.request("client-01")).sealed
    with pytest.raises(BadDelivery, match="not ours"):
        federation.clients[VICTIM].handle(
            server_says(federation, federation.server.request(VICTIM), sealed=theirs)
        )


def test_a_sealed_sum_in_the_wrong_hands_is_noise(monkeypatch) -> None:
    """What the server holds of a sealed sum tells neither it nor another client anything."""
    federation = pilot(monkeypatch).run(until="deliver")
    sealed = read(federation, SERVER, federation.server.request(VICTIM)).sealed
    words = np.zeros(202, np.uint32)
    Packed(20, 202, sealed.packed).add_to(0, words)
    middle = np.mean((words > 2**17) & (words < 2**20 - 2**17))
    assert middle > 0.6


def test_means_that_differ_between_clients_abort_the_next_aggregation() -> None:
    federation = plain()

    def other_mean(message):
        opened = message.opened[0]
        flipped = bytes([opened.packed[0] ^ 1]) + opened.packed[1:]
        return {"opened": (opened.model_copy(update={"packed": flipped}),)}

    federation.run(on_request=cheat_at(federation, "deliver", VICTIM, other_mean))
    hashes = {n: c.result.results_hash for n, c in federation.clients.items()}
    assert len(set(hashes.values())) == 2
    for name in federation.cohort:
        inputs = federation.inputs[name]
        federation.inputs[name] = type(inputs)(inputs.vectors, inputs.num_samples, hashes[name])
    federation.start(round=2)
    federation.run()
    assert federation.server.report.aborted.startswith("advertise: ['client-03'] accepted other")


def test_a_client_too_notices_that_a_peer_accepted_other_results() -> None:
    federation = plain()
    inputs = federation.inputs["client-01"]
    federation.inputs["client-01"] = type(inputs)(inputs.vectors, inputs.num_samples, b"\x01" * 32)
    federation.start(round=2)
    federation.run(until="advertise")
    frames = {}
    for name in federation.cohort:
        frames[name] = federation.clients[name].handle(federation.server.request(name))
    from protocols.messages import Advertisements

    request = seal(
        Advertisements(
            session=federation.parameters.digest(),
            sender=SERVER,
            recipient=VICTIM,
            advertisements=tuple(frames[n] for n in federation.cohort),
            others=(),
        ),
        federation.server_identity,
    )
    with pytest.raises(WrongSession, match="client-01: it accepted other results"):
        federation.clients[VICTIM].handle(request)


def deliver_shifted(federation: Federation, place: int, shift: int) -> AggregationResult:
    """Deliver the victim's sealed sum with one scalar shifted; everything else is honest."""
    federation.run(until="deliver")
    request = federation.server.request(VICTIM)
    sealed = read(federation, SERVER, request).sealed
    words = list(scalars_from_wire(sealed.scalars))
    words[place] = (words[place] + shift) % (1 << 64)
    shifted = sealed.model_copy(update={"scalars": scalars_to_wire(tuple(words))})
    federation.clients[VICTIM].handle(server_says(federation, request, sealed=shifted))
    return federation.clients[VICTIM].result


@pytest.mark.parametrize("shift", [1 << 40, -(1 << 40), 1 << 23, -(1 << 23)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sealed_sum_with_shifted_scalars_is_left_out(monkeypatch, place: int, shift: int) -> None:
    """The recipient keeps its own vector and takes the means home all the same."""
    result = deliver_shifted(pilot(monkeypatch), place, shift * (128 if place == 2 else 1))
    assert result.sealed is None and "impossible scalars" in result.sealed_fault
    assert all(mean is not None for mean in result.means.values())


def test_a_dealer_whose_mask_is_not_the_dealt_one_spoils_one_sealed_sum_only(monkeypatch) -> None:
    """client-02 masks its term for the victim with another seed than it dealt shares of."""
    federation = pilot(monkeypatch).run(until="masked_input")
    session = federation.clients["client-02"]._state.session
    session.seeds[f"text-{VICTIM}"] = bytes(32)
    federation.run()
    assert federation.errors == {} and federation.server.report.aborted is None
    spoilt = {n: c.result for n, c in federation.clients.items() if c.result.sealed is None}
    assert list(spoilt) == [VICTIM]
    assert "masked it with other keys than it dealt" in spoilt[VICTIM].sealed_fault
    assert len(federation.server.report.survivors["deliver"]) == 9


def named_sealed_sum(**options: object) -> Federation:
    """One sealed sum whose contributors are named: they all weigh the same, u = 1."""
    federation = plain(**options)
    others = tuple(name for name in federation.cohort if name != VICTIM)
    sums = (SumSpec(id="own", vector="task_adapter", recipient=VICTIM, contributors=others),)
    federation.start(sums=sums)
    return federation


def test_a_sealed_sum_of_named_contributors_is_their_weighted_sum() -> None:
    federation = named_sealed_sum().run()
    sealed, others = federation.clients[VICTIM].result.sealed, ("01", "02", "04", "05")
    names = [f"client-{number}" for number in others]
    expected = sum(
        federation.inputs[n].num_samples * federation.flat(n, "task_adapter") for n in names
    )
    assert np.abs(sealed.vector_sum / sealed.sum_nu - expected / sealed.sum_n).max() < 1e-5
    assert (sealed.sum_u, sealed.sum_nu, sealed.num_contributors) == (4.0, sealed.sum_n, 4)


@pytest.mark.parametrize(
    ("place", "shift"), [(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1), (2, 1 << 20)]
)
def test_scalars_of_named_contributors_must_be_equal_to_the_last_unit(place, shift) -> None:
    """All u are 1, so sum u is their number and sum n u is sum n: one unit off shows."""
    result = deliver_shifted(named_sealed_sum(), place, shift)
    assert result.sealed is None and result.sealed_fault is not None
