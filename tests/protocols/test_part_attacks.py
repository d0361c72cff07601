"""Uploads and deliveries in parts, attacked by the server between them."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, read
from in_process import Federation, Interfere

from protocols import server_unmask
from protocols.errors import BadDelivery, PeerError
from protocols.keys import KeyPair, pairwise_mask_key, self_mask_key
from protocols.masks import MaskKey, MaskStream
from protocols.messages import MaskedPart
from protocols.results import fixed_point_of
from protocols.ring import Packed
from protocols.shares import combine

FIRST = 24  # coordinates of a part


def in_parts(count: int = 5) -> Federation:
    """One sum for all of 60 coordinates, in three parts."""
    options = {"part_bytes": 64}
    return Federation(count=count, plain=True, lengths={"task_adapter": 60}, options=options)


def vanishing(federation: Federation, frames: dict[tuple[str, int, str], bytes]) -> Interfere:
    """The victim is gone before the last part of its upload; the server keeps every reply."""

    def interfere(phase: str, name: str, frame: bytes) -> bytes:
        frames[phase, federation.server.part, name] = frame
        if (phase, federation.server.part) == ("masked_input", 1):
            federation.gone.add(VICTIM)
        return frame

    return interfere


def first_words(federation: Federation, frame: bytes) -> np.ndarray:
    """The words of the first part of the victim's upload, as they were sent."""
    message = read(federation, VICTIM, frame)
    assert isinstance(message, MaskedPart) and message.part == 0
    words = np.zeros(FIRST, np.uint32)
    Packed(20, FIRST, message.spans[0].packed).read_into(0, words)
    return words


def opened(federation: Federation, words: np.ndarray) -> np.ndarray:
    """What the words say of the victim's vector, if they are its encoding."""
    out = np.empty(len(words), np.float32)
    fixed_point_of(federation.parameters, federation.server.report.plan[0]).decode(words, out)
    return out / federation.inputs[VICTIM].num_samples


def test_a_half_upload_stays_masked_though_its_sender_is_declared_dead() -> None:
    """The server gets the mask key of the dead: all pairwise masks fall, the self mask does not.

    With the seed, which nobody reveals of the dead, the same server would read the vector.
    """
    federation, frames = in_parts(), {}
    federation.run(on_reply=vanishing(federation, frames))
    assert federation.server.report.opened == {
        "all": tuple(name for name in federation.cohort if name != VICTIM)
    }
    answers = {
        federation.roster.coordinate(name): read(federation, name, frame)
        for (phase, _part, name), frame in frames.items()
        if phase == "unmask"
    }
    revealed = {place: answer.key_shares[0].share for place, answer in answers.items()}
    assert all(share.owner != VICTIM for a in answers.values() for share in a.seed_shares)
    session, mask_key = federation.server.report.session, KeyPair(combine(revealed))
    pairwise = []
    for peer in federation.cohort:
        if peer != VICTIM:
            advert = read(federation, peer, frames["advertise", 0, peer])
            secret = mask_key.exchange(advert.mask_key)
            key = pairwise_mask_key(secret, session, "all", VICTIM, peer)
            pairwise.append(MaskKey(key, -1 if peer > VICTIM else 1))
    words = first_words(federation, frames["masked_input", 0, VICTIM])
    MaskStream(pairwise).mask_chunk(words)
    truth = federation.flat(VICTIM, "task_adapter")[:FIRST]
    inside = (words % 2**20 > 2**17) & (words % 2**20 < 2**20 - 2**17)
    assert np.mean(inside) > 0.4, "a bare term stays near either end of the ring"
    assert np.abs(opened(federation, words) - truth).max() > 0.1
    seed = federation.clients[VICTIM]._state.session.seeds["all"]
    MaskStream([MaskKey(self_mask_key(seed, session, "all", VICTIM), -1)]).mask_chunk(words)
    assert np.abs(opened(federation, words) - truth).max() < 1e-5


def test_a_half_upload_that_the_server_counts_as_whole_is_in_the_sum_and_no_further(
    monkeypatch,
) -> None:
    """It lies to the others that all has come; they reveal seeds, as of any survivor.

    In the parts that came it gets the sum of all; in the others, and in the scalars, the others'
    masks with the victim stay, by which the clients find the lie.
    """
    monkeypatch.setattr(server_unmask, "possible_samples", lambda *_: True)
    federation, frames = in_parts(), {}

    def lie(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, federation.server.part) == ("masked_input", 2):
            inputs = federation.server._phase
            upload = inputs.uploads.get(VICTIM) or victims[0]
            if not upload.complete:
                upload.complete = True
                upload.hashes.append(bytes(32))
                span = upload.parts[0][0]
                inputs.accumulators["all"].add(0, upload._read(span))
                inputs.accumulators["all"].contributors.append(VICTIM)
                inputs.uploads[VICTIM] = upload
        return frame

    federation.run(until="masked_input")
    victims = [federation.server._phase.uploads[VICTIM]]
    victims[0].free = lambda: None  # what it dropped out with is not forgotten
    federation.run(on_request=lie, on_reply=vanishing(federation, frames))
    assert VICTIM in federation.server.report.survivors["masked_input"]
    revealed = [
        share.owner
        for (phase, _part, name), frame in frames.items()
        if phase == "unmask"
        for share in read(federation, name, frame).seed_shares
    ]
    assert revealed.count(VICTIM) == 4
    words = np.zeros(60, np.uint32)
    federation.server.report.results["all"].span(0, 60).read_into(0, words)
    samples = {name: inputs.num_samples for name, inputs in federation.inputs.items()}
    terms = [n * federation.flat(name, "task_adapter") for name, n in samples.items()]
    wrong = np.abs(opened(federation, words) * samples[VICTIM] - np.sum(terms, axis=0))
    assert wrong[:FIRST].max() < 1e-3 and np.median(wrong[FIRST:]) > 1
    told = {name: error for name, error in federation.errors.items() if name != VICTIM}
    assert len(told) == 4 and all(isinstance(error, BadDelivery) for error in told.values())
    assert all("impossible sample count" in str(error) for error in told.values())


def requests_of(federation: Federation) -> list[tuple[str, int, bytes]]:
    """(phase, part, request) of all that client-02 is asked in a whole attempt."""
    sent: list[tuple[str, int, bytes]] = []

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if name == "client-02":
            sent.append((phase, federation.server.part, frame))
        return frame

    federation.run(on_request=keep)
    return sent


def test_between_parts_a_client_takes_the_next_one_only() -> None:
    """Every request of the attempt, offered at every other place: refused, and nothing changes."""
    sent = requests_of(in_parts(4))
    phases = [
        "advertise",
        "share",
        *["masked_input"] * 3,
        "consistency",
        "unmask",
        *["deliver"] * 3,
    ]
    assert [phase for phase, _part, _frame in sent] == phases
    federation, last = in_parts(4), len(sent) - 1
    client, states = federation.clients["client-02"], []
    for place, (_phase, _part, due) in enumerate(sent):
        assert federation.server.request("client-02") == due
        states.append(client.state)
        before = client._state
        for other, (_phase, _part, frame) in enumerate(sent):
            ends_too_early = other == last and states[-1] in ("answered", "receiving")
            if other != place and not ends_too_early:
                with pytest.raises(PeerError):
                    client.handle(frame)
                assert client._state is before
        federation.exchange()
    assert states[3:5] == ["uploading"] * 2 and states[8:] == ["receiving"] * 2
    assert client.result is not None and federation.server.report.faults == {}


@pytest.mark.parametrize("taken", [0, 1])
def test_a_delivery_that_ends_before_its_vectors_is_refused(taken: int) -> None:
    """After none or one of two parts the server sends the end, which the client cannot know."""
    *_others, (_phase, _part, end) = requests_of(in_parts(4))
    federation = in_parts(4).run(until="deliver")
    for _ in range(taken):
        federation.exchange()
    client = federation.clients["client-02"]
    with pytest.raises(BadDelivery, match="sum all has the wrong length"):
        client.handle(end)
    assert client.state == "failed" and client.result is None
