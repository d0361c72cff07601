"""Shares that are flipped, foreign or do not fit together, and messages of the wrong length."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, cheat_at, client_says, pilot, plain, read

from protocols import SERVER
from protocols.errors import BadShare


def test_a_flipped_share_is_refused_by_its_holder() -> None:
    federation = plain()

    def change(message):
        first = message.shares[0]
        flipped = bytes([first.ciphertext[0] ^ 1]) + first.ciphertext[1:]
        return {"shares": (first.model_copy(update={"ciphertext": flipped}), *message.shares[1:])}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, change))
    error = federation.errors[VICTIM]
    assert isinstance(error, BadShare) and error.party == SERVER, "client-01 did nothing wrong"
    assert "the shares of client-01, as relayed by the server: does not open" in str(error)


def test_a_flipped_commitment_does_not_put_the_blame_on_the_dealer() -> None:
    federation = plain()

    def change(message):
        first = message.shares[0]
        digests = (bytes(32), *first.digests[1:])
        return {"shares": (first.model_copy(update={"digests": digests}), *message.shares[1:])}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, change))
    error = federation.errors[VICTIM]
    assert isinstance(error, BadShare) and error.party == SERVER
    assert "a share of client-01 and its commitment" in str(error)


def test_a_share_that_its_dealer_did_not_commit_to_is_refused() -> None:
    federation = plain()

    def other_commitment(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("share", "client-01"):
            return frame
        lists = read(federation, name, frame).commitments
        wrong = lists[2].model_copy(update={"digests": (bytes(32), *lists[2].digests[1:])})
        return client_says(federation, name, frame, commitments=(*lists[:2], wrong, *lists[3:]))

    federation.run(on_reply=other_commitment)
    error = federation.errors[VICTIM]
    assert isinstance(error, BadShare) and error.party == SERVER
    assert "a share of client-01 and its commitment, as relayed by the server" in str(error)


def test_a_dealer_that_seals_too_few_shares_is_named_for_it() -> None:
    """The box opens under the dealer's own key, so it is the dealer's; its length is public."""
    federation = plain().run(until="masked_input")
    dealer = federation.clients["client-01"]._state.session
    short = dealer.channel(VICTIM).seal("shares", "client-01", VICTIM, bytes(63))

    def change(message):
        first = message.shares[0].model_copy(update={"ciphertext": short})
        return {"shares": (first, *message.shares[1:])}

    federation.run(on_request=cheat_at(federation, "masked_input", VICTIM, change))
    assert isinstance(federation.errors[VICTIM], BadShare)
    assert federation.errors[VICTIM].party == "client-01"


@pytest.mark.parametrize("kind", ["seed_shares", "key_shares"])
def test_a_flipped_share_at_the_unmasking_names_its_holder_and_the_sum_is_right(kind) -> None:
    federation = plain(6)

    def flip(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) != ("unmask", VICTIM):
            return frame
        revealed = getattr(read(federation, name, frame), kind)
        wrong = revealed[0].model_copy(update={"share": bytes(32)})
        return client_says(federation, name, frame, **{kind: (wrong, *revealed[1:])})

    federation.run(on_reply=flip, drop_before={"masked_input": {"client-06"}})
    report = federation.server.report
    assert report.faults[VICTIM].startswith("BadShare: unmask: client-03")
    left = federation.cohort[:5]
    total = sum(federation.inputs[n].num_samples for n in left)
    mean = sum(federation.inputs[n].num_samples * federation.flat(n, "task_adapter") for n in left)
    assert np.abs(report.means["all"] - mean / total).max() < 1e-5


def test_a_dealer_whose_shares_do_not_fit_together_spoils_no_sum_silently() -> None:
    """It commits to shares of another seed than it masks with: the sum stays closed."""
    federation = plain()
    honest = federation.clients["client-02"]
    federation.run(until="masked_input")
    state = honest._state
    object.__setattr__(state.session, "seeds", {"all": bytes(32)})
    federation.run()
    assert federation.server.report.means == {}
    assert federation.server.report.skipped["all"].startswith("its terms do not fit together")


@pytest.mark.parametrize(
    ("phase", "change"),
    [
        ("share", "short"),
        ("share", "long"),
        ("distance_upload", "short"),
        ("distance_reply", "short"),
        ("distance_reply", "long"),
        ("select", "short"),
        ("select", "long"),
    ],
)
def test_a_message_of_the_wrong_length_costs_its_sender_alone(monkeypatch, phase, change) -> None:
    """The server drops the client instead of letting every peer abort over its message."""

    def resized(data: bytes) -> bytes:
        return data[:-1] if change == "short" else data + b"\0"

    def interfere(present: str, name: str, frame: bytes) -> bytes:
        if (present, name) != (phase, VICTIM):
            return frame
        message = read(federation, name, frame)
        if phase == "distance_upload":
            return client_says(federation, name, frame, upload=resized(message.upload))
        boxes = tuple(
            box.model_copy(update={"ciphertext": resized(box.ciphertext)}) for box in message.boxes
        )
        return client_says(federation, name, frame, boxes=boxes)

    federation = pilot(monkeypatch)
    federation.run(on_reply=interfere)
    report = federation.server.report
    assert f"{phase}: {VICTIM}: a" in report.faults[VICTIM] and len(report.faults) == 1
    assert report.aborted is None
    assert all(VICTIM not in members for members in report.opened.values())
    assert len([name for name in report.opened if name.startswith("text-")]) == 8
