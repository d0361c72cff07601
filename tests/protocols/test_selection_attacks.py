"""Neighbour lists, weights and distances, attacked by recipients and by the server."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, client_says, pilot, read
from in_process import Federation

from protocols import SERVER, client_deliver, client_masking
from protocols.codec import decode, encode
from protocols.errors import (
    BadPlan,
    BadSelection,
    BadSurvivors,
    MalformedMessage,
)
from protocols.frame import LABEL, seal
from protocols.identity import sha256
from protocols.server_unmask import Consistent


def crafted_list(federation: Federation, owner: str, victim: str, **changes: object):
    """An interference on owner's reply: another signed neighbour list for one peer."""
    from protocols.client_select import hide_list
    from protocols.distance_messages import NeighbourList, Selection

    def interfere(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", owner):
            return frame
        state = federation.clients[owner]._state
        listing = NeighbourList(
            session=state.session.id,
            sender=owner,
            recipient=SERVER,
            neighbours=state.chosen.neighbours,
            scale=state.chosen.scale,
        ).model_copy(update=changes)
        other = seal(listing, federation.identities[owner])
        selection = read(federation, owner, frame)
        assert isinstance(selection, Selection)
        peers = tuple(box.party for box in selection.boxes)
        hidden = hide_list(federation.clients[owner]._context, state.session, peers, other)
        crafted = {box.party: box for box in hidden}
        boxes = tuple(crafted[b.party] if b.party == victim else b for b in selection.boxes)
        return client_says(federation, owner, frame, boxes=boxes)

    return interfere


@pytest.mark.parametrize(
    "neighbours",
    [
        ("client-03",),
        ("client-01", "client-02", "client-03"),
        tuple(f"client-0{i}" for i in range(2, 10)),
        ("client-02", "client-03", "nobody"),
    ],
    ids=["below the minimum", "itself", "too many", "a stranger"],
)
def test_a_neighbour_list_that_breaks_the_rules_is_refused(neighbours, monkeypatch) -> None:
    federation = pilot(monkeypatch)
    cheat = crafted_list(federation, "client-01", VICTIM, neighbours=neighbours)
    federation.run(on_reply=cheat)
    assert isinstance(federation.errors[VICTIM], BadSelection)
    assert federation.errors[VICTIM].party == "client-01"


def test_different_neighbour_lists_for_different_clients_never_open(monkeypatch) -> None:
    """A recipient gives its list to half the cohort and another list to the other half."""
    federation = pilot(monkeypatch)
    other = ("client-02", "client-03", "client-04", "client-05", "client-06", "client-07")

    def cheat(phase: str, name: str, frame: bytes) -> bytes:
        for victim in ("client-02", "client-03", "client-04", "client-05"):
            frame = crafted_list(federation, "client-01", victim, neighbours=other, scale=0.1)(
                phase, name, frame
            )
        return frame

    federation.run(on_reply=cheat)
    assert federation.server.report.aborted.startswith("consistency: 5 clients left, 6 needed")
    assert all(client.state == "confirmed" for client in federation.clients.values())


def test_a_server_that_goes_on_with_different_neighbour_lists_is_refused(monkeypatch) -> None:
    """The server does not compare: each client does, and releases no share."""
    federation = pilot(monkeypatch)
    other = ("client-02", "client-03", "client-04", "client-05", "client-06", "client-07")
    monkeypatch.setattr(Consistent, "survivors", lambda self: tuple(sorted(self.signatures)))

    def cheat(phase: str, name: str, frame: bytes) -> bytes:
        for victim in ("client-02", "client-03", "client-04", "client-05"):
            frame = crafted_list(federation, "client-01", victim, neighbours=other, scale=0.1)(
                phase, name, frame
            )
        return frame

    federation.run(on_reply=cheat)
    assert [type(e) for e in federation.errors.values()] == [BadSurvivors] * 9
    assert federation.server.report.aborted.startswith("unmask: 0 clients left")


def test_a_visible_list_below_the_minimum_is_refused_by_the_server_too(monkeypatch) -> None:
    federation = pilot(monkeypatch, neighbour_visibility="visible")

    def short(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", "client-01"):
            return frame
        return client_says(federation, name, frame, neighbours=(VICTIM,))

    federation.run(on_reply=short)
    assert federation.server.report.faults["client-01"].startswith("BadSelection")
    assert "client-01" not in federation.server.report.survivors["select"]


def test_weights_in_a_neighbour_list_are_an_unknown_field(monkeypatch) -> None:
    from protocols.client_select import hide_list

    federation = pilot(monkeypatch)

    def with_weights(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", "client-01"):
            return frame
        state = federation.clients[name]._state
        body = decode(state.frame[64:])
        body["weights"] = (0.99, 0.01)
        raw = encode(body)
        forged = federation.identities[name].sign(LABEL + sha256(raw)) + raw
        peers = tuple(n for n in federation.cohort if n != name)
        boxes = hide_list(federation.clients[name]._context, state.session, peers, forged)
        return client_says(federation, name, frame, boxes=boxes)

    federation.run(on_reply=with_weights)
    error = federation.errors[VICTIM]
    assert isinstance(error, MalformedMessage) and error.party == "client-01"
    assert "weights: Extra inputs" in str(error)


def test_a_visible_list_other_than_the_encrypted_one_is_refused(monkeypatch) -> None:
    """The recipient tells the server other neighbours than its peers: no term is sent for it."""
    federation = pilot(monkeypatch, neighbour_visibility="visible")

    def other(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("select", "client-01"):
            return frame
        told = read(federation, name, frame).neighbours
        missing = next(n for n in federation.cohort[1:] if n not in told)
        lie = tuple(sorted({*told[1:], missing}))
        return client_says(federation, name, frame, neighbours=lie)

    federation.run(on_reply=other)
    assert len(federation.errors) == 9
    assert all(isinstance(error, BadPlan) for error in federation.errors.values())
    assert federation.server.report.aborted.startswith("masked_input: 0 clients left")


@pytest.mark.parametrize("visibility", ["hidden", "visible"])
def test_the_server_sees_no_distance_and_the_graph_only_if_visible(visibility, monkeypatch) -> None:
    """What a selection shows the server: names or nothing; the scale is in no clear byte."""
    import struct

    federation = pilot(monkeypatch, neighbour_visibility=visibility)
    selections: dict[str, bytes] = {}

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if phase == "select":
            selections[name] = frame
        return frame

    federation.run(on_reply=keep)
    for name, frame in selections.items():
        result = federation.clients[name].result
        shown = read(federation, name, frame).neighbours
        assert shown == (result.neighbours if visibility == "visible" else ())
        assert struct.pack(">d", result.scale) not in frame


def correlations(federation: Federation, recipient: str) -> dict[str, float]:
    """How much of each neighbour the recipient's sealed sum shows."""
    seen = federation.clients[recipient].result.sealed.vector_sum
    return {
        name: float(np.corrcoef(seen, federation.flat(name, "text_adapter"))[0, 1])
        for name in federation.clients[recipient].result.neighbours
    }


def test_weights_chosen_by_the_recipient_would_have_shown_it_one_neighbour(monkeypatch) -> None:
    """The counter-measure taken out: contributors apply what the recipient asks for."""
    victim = "client-05"

    def as_asked(context, agreement, _row):
        wanted = {"client-01": 1.0 if context.name == victim else 2.0**-10}
        selected = [s for s in agreement.sums if s.recipient not in (SERVER, context.name)]
        return {s.id: wanted.get(s.recipient, 0.5) for s in selected}

    monkeypatch.setattr(client_masking, "own_weights", as_asked)
    monkeypatch.setattr(client_deliver, "possible_scalars", lambda *_: True)
    federation = pilot(monkeypatch, num_neighbours=8).run()
    assert correlations(federation, "client-01")[victim] > 0.999


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 0.25, 1e6, 1e300])
def test_no_scale_shows_the_recipient_one_neighbour(monkeypatch, scale: float) -> None:
    """All that a recipient may choose: the same list with any scale, to everybody."""
    federation = pilot(monkeypatch, num_neighbours=8)

    def cheat(phase: str, name: str, frame: bytes) -> bytes:
        for peer in federation.cohort[1:]:
            frame = crafted_list(federation, "client-01", peer, scale=scale)(phase, name, frame)
        if (phase, name) == ("select", "client-01"):
            state = federation.clients[name]._state
            own = read(federation, name, state.frame).model_copy(update={"scale": scale})
            object.__setattr__(state, "frame", seal(own, federation.identities[name]))
        return frame

    federation.run(on_reply=cheat)
    assert federation.errors == {}
    assert max(correlations(federation, "client-01").values()) < 0.7


def test_a_recipient_cannot_single_out_a_victim_by_its_scale() -> None:
    from protocols.selection import weight

    distances = [0.5, 1.0, 1.1, 1.2, 1.3]
    for scale in np.geomspace(1e-9, 1e9, 200):
        weights = [weight(float(scale), d) for d in distances]
        assert max(weights) / min(weights) <= 4.0
