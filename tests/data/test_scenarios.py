import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pilot_secure.data import COLUMNS, SCENARIOS, build_scenario
from pilot_secure.data.scenarios import client_domain
from pilot_secure.metrics import can_score, score

SMALL = {"clients_per_task": 2, "samples_per_client": 5, "test_samples": 8}


def rows(clients, split="test"):
    return [[{**r, "image": None} for r in getattr(c, split)] for c in clients]


def pixels(dataset):
    raw = dataset.with_format("arrow")[:]["image"].to_pylist()
    return [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in raw]


@pytest.mark.parametrize("name", SCENARIOS)
def test_clients_tasks_and_columns(name):
    clients = build_scenario(name, **SMALL)
    assert [c.name for c in clients] == [f"client-0{i}" for i in range(1, 7)]
    assert [c.task for c in clients] == [t.name for t in SCENARIOS[name] for _ in range(2)]
    for client in clients:
        assert client.train.features == COLUMNS == client.test.features
        assert (len(client.train), len(client.test)) == (5, 8)
        assert client.test[0]["image"].size == (48, 48)
        assert len({*client.train["id"], *client.test["id"]}) == 13


@pytest.mark.parametrize("name", SCENARIOS)
def test_right_answers_score_in_full(name):
    for client in build_scenario(name, **SMALL):
        result = score(client.metric, client.test["answer"], client.test)
        # a caption that shares no order of n-grams with its reference caps CIDEr below 1000
        assert result.value >= (200 if client.metric == "cider" else 100)
        assert result.unparsed == 0
        for row in client.train.remove_columns("image"):
            assert can_score(client.metric, row["answer"], row["box_order"])


def test_deterministic_by_seed_and_stable_under_growth():
    first, again = (build_scenario("general-vqa", seed=3, **SMALL) for _ in range(2))
    assert rows(first) == rows(again)
    assert all(
        np.array_equal(a, b)
        for c, d in zip(first, again, strict=True)
        for a, b in zip(pixels(c.train), pixels(d.train), strict=True)
    )
    assert rows(first) != rows(build_scenario("general-vqa", seed=4, **SMALL))
    grown = build_scenario("general-vqa", seed=3, **{**SMALL, "samples_per_client": 9})
    assert [r[:5] for r in rows(grown, "train")] == rows(first, "train")
    assert rows(grown) == rows(first)


def test_looks_differ_by_task_and_vanish_at_zero_strength():
    def tints(strength):
        clients = build_scenario(
            "visual-understanding",
            clients_per_task=1,
            samples_per_client=1,
            test_samples=60,
            look_strength=strength,
            domain_strength=0.0,
        )
        means = [np.mean([p.mean((0, 1)) for p in pixels(c.test)], 0) for c in clients]
        return [mean[0] - mean[2] for mean in means]  # red against blue

    warm, cool, haze = tints(1.0)
    assert warm > 20 and cool < -20 and abs(haze) < 15
    assert max(tints(0.0)) - min(tints(0.0)) < 15


def test_conventions_hold_for_every_sample_at_full_strength_and_mix_below():
    def box_orders(strength):
        clients = build_scenario(
            "visual-understanding",
            clients_per_task=1,
            samples_per_client=200,
            test_samples=1,
            convention_strength=strength,
        )
        return Counter(clients[2].train["box_order"])

    assert box_orders(1.0) == {"yxyx": 200}
    mixed = box_orders(0.0)["yxyx"] / 200
    assert 0.15 < mixed < 0.35  # a quarter in the pretraining mixture
    assert mixed < box_orders(0.5)["yxyx"] / 200 < 1


def test_domains_differ_by_client_and_are_even_at_zero_strength():
    import random

    even = client_domain(0.0, random.Random(1))
    assert set(map(lambda v: round(v, 9), even.colours.values())) == {0.125}
    one, two = (client_domain(1.0, random.Random(i)) for i in (1, 2))
    assert one.colours != two.colours
    assert sum(one.colours.values()) == pytest.approx(1)
    half = client_domain(0.5, random.Random(1))
    for colour, share in half.colours.items():
        assert share == pytest.approx((one.colours[colour] + 0.125) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"look_strength": 1.1}, "look_strength"),
        ({"convention_strength": -0.1}, "convention_strength"),
        ({"domain_strength": 2}, "domain_strength"),
        ({"test_samples": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_scenario("general-vqa", **{**SMALL, **change})
    with pytest.raises(ValueError, match="visual-understanding, general-vqa"):
        build_scenario("weather")
