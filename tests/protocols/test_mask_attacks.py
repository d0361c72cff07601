"""Masks, overflow and unsafe parameters."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import VICTIM, plain, read
from in_process import Federation, entropy_for, names, plain_sum

from protocols import ClientInputs, Entropy, keys
from protocols.errors import ParameterError
from protocols.keys import KeyPair, pairwise_mask_key
from protocols.results import fixed_point_of
from protocols.ring import FixedPoint, Packed


def same_entropy_every_round(label: str) -> Entropy:
    """A broken generator: keys and seeds of a party repeat in every round."""
    return entropy_for(label.split("/")[-1])


def uploads_of_two_rounds() -> tuple[Federation, list[np.ndarray]]:
    """The victim's masked words in two rounds, between which its vector moves by 0.01."""
    federation = Federation(count=5, plain=True, entropy=same_entropy_every_round)
    words = []

    def keep(phase: str, name: str, frame: bytes) -> bytes:
        if (phase, name) == ("masked_input", VICTIM):
            unpacked = np.zeros(301, np.uint32)
            Packed(20, 301, read(federation, name, frame).inputs[0].packed).add_to(0, unpacked)
            words.append(unpacked)
        return frame

    federation.run(on_reply=keep)
    for name in federation.cohort:
        federation.inputs[name].vectors["task_adapter"]["first"][:] += 0.01
    federation.start(round=2)
    federation.run(on_reply=keep)
    assert federation.server.report.aborted is None
    return federation, words


def stolen_movement(federation: Federation, words: list[np.ndarray]) -> np.ndarray:
    """What the server reads off two uploads if their masks were the same."""
    moved = np.empty(301, np.float32)
    fixed_point = fixed_point_of(federation.parameters, federation.server.report.plan[0])
    fixed_point.decode(words[1] - words[0], moved)
    return moved / federation.inputs[VICTIM].num_samples


def test_repeated_masks_would_have_shown_how_the_victims_vector_moved(monkeypatch) -> None:
    """The counter-measure taken out: keys repeat, and no session is bound into the masks."""
    derive = keys.derive

    def unbound(secret: bytes, _session: bytes, usage: str, *context: str) -> bytes:
        return derive(secret, bytes(32), usage, *context)

    monkeypatch.setattr(keys, "derive", unbound)
    moved = stolen_movement(*uploads_of_two_rounds())
    assert np.abs(moved[:150] - 0.01).max() < 1e-4 and np.abs(moved[150:]).max() < 1e-4


def test_masks_do_not_repeat_even_if_every_key_and_seed_does() -> None:
    federation, words = uploads_of_two_rounds()
    difference = (words[1] - words[0]) % (1 << 20) / (1 << 20)
    assert 0.4 < difference.mean() < 0.6 and 0.2 < difference.std() < 0.4
    assert np.abs(stolen_movement(federation, words)[:150] - 0.01).min() > 1e-4


def at_the_edge() -> Federation:
    """Everybody sends clip in one half and -clip in the other, with the largest weight."""
    federation = plain(5, ring_bits=16)
    for name in federation.cohort:
        vectors = federation.inputs[name].vectors
        vectors["task_adapter"]["first"][:] = 5.0
        vectors["task_adapter"]["second"][:] = -5.0
        federation.inputs[name] = ClientInputs(vectors=vectors, num_samples=128)
    federation.start()
    return federation


def test_no_cohort_overflows_the_ring_by_sending_all_that_it_may() -> None:
    mean = at_the_edge().run().server.report.means["all"]
    assert np.abs(mean[:150] - 0.1).max() < 1e-4 and np.abs(mean[150:] + 0.1).max() < 1e-4


def test_without_headroom_for_its_contributors_the_sum_would_wrap_around(monkeypatch) -> None:
    """The counter-measure taken out: every client uses the ring as if it were alone."""
    monkeypatch.setattr(FixedPoint, "levels", property(lambda self: 2 ** (self.bits - 1) - 1))
    mean = at_the_edge().run().server.report.means["all"]
    assert np.abs(mean[:150] - 0.1).min() > 0.05, "a silently different sum"


def test_masks_differ_between_rounds_even_under_one_key() -> None:
    secret = KeyPair(bytes(31) + b"\x01").exchange(KeyPair(bytes(31) + b"\x02").public)
    derived = {
        pairwise_mask_key(secret, session, sum_id, "client-01", "client-02")
        for session in (bytes(32), b"\x01" * 32)
        for sum_id in ("one", "two")
    }
    assert len(derived) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": 3}, "two survivor sets"),
        ({"threshold": 6}, "more than the cohort"),
        ({"min_contributors": 2}, "honest client alone"),
    ],
)
def test_unsafe_parameters_are_refused(options, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        plain(5, **options)


def test_a_ring_without_headroom_for_its_cohort_is_refused() -> None:
    cohort = names(4096)
    with pytest.raises(ParameterError, match="16 leaves 7 levels to 4096 contributors"):
        plain().parameters_for(cohort=cohort, sums=plain_sum(cohort), threshold=2050, ring_bits=16)


@pytest.mark.parametrize("bound", [1e-13, 1e-45, 1e13, 1e300])
def test_bounds_that_float32_cannot_scale_are_refused(bound: float) -> None:
    with pytest.raises(ParameterError, match="clip of task_adapter: .* is outside"):
        plain(5, clip={"task_adapter": bound})
    with pytest.raises(ParameterError, match="distance_norm_bound: .* is outside"):
        plain(5, distance_norm_bound=bound)


@pytest.mark.parametrize("bound", [1e-12, 1e12])
def test_at_both_ends_of_the_clip_means_are_right(bound: float) -> None:
    federation = plain(5, clip={"task_adapter": bound})
    for name in federation.cohort:
        federation.inputs[name].vectors["task_adapter"]["first"][:] = bound / 2
    mean = federation.run().server.report.means["all"]
    assert np.abs(mean[:150] / bound - 0.5).max() < 1e-3
