import random

import numpy as np
import pytest

from pilot_secure.data.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    COVER_WORDS,
    IMAGE_SIZE,
    LETTERS,
    Cover,
    Scene,
    Thing,
    draw_cover,
    draw_scene,
    even_domain,
    letter_boxes,
    photograph,
    render,
)


def scenes(count=60):
    rng = random.Random(3)
    return [draw_scene(even_domain(), rng) for _ in range(count)]


def test_things_lie_inside_apart_and_are_told_apart_by_name():
    for scene in scenes():
        assert 1 <= len(scene.things) <= 4
        assert len({thing.name for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            assert min(thing.box) > 0 and max(thing.box) < 1
        for a in scene.things:
            for b in scene.things:
                if a is not b:
                    x_apart = a.box[2] < b.box[0] or b.box[2] < a.box[0]
                    assert x_apart or a.box[3] < b.box[1] or b.box[3] < a.box[1]


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "diamond", "cross", "star"])
def test_a_thing_is_painted_in_its_box_in_its_colour(shape):
    scene = Scene((Thing(0.4, 0.6, 0.2, "red", shape),), "black")
    pixels = render(scene, random.Random(0)).astype(int)
    painted = pixels[..., 0] > 120
    rows, columns = np.nonzero(painted)
    x1, y1, x2, y2 = (side * IMAGE_SIZE for side in scene.things[0].box)
    assert x1 - 1 <= columns.min() and columns.max() <= x2 + 1
    assert y1 - 1 <= rows.min() and rows.max() <= y2 + 1
    middle = pixels[round(0.62 * IMAGE_SIZE), round(0.4 * IMAGE_SIZE)]
    assert np.abs(middle - COLOURS["red"]).max() <= 19
    assert np.abs(pixels[0, 0] - BACKGROUNDS["black"]).max() == 0


def test_letters_are_painted_in_their_boxes():
    cover = Cover(("sea", "hop"), "black", "yellow", (0.05, 0.55), 0.02, 1.0)
    pixels = render(cover, random.Random(0))
    painted = (pixels[..., 0] > 120).astype(float)
    assert [letter for letter, _ in letter_boxes(cover)] == list("SEAHOP")
    inside = np.zeros_like(painted)
    for _, (x1, y1, x2, y2) in letter_boxes(cover):
        rows = slice(int(y1 * IMAGE_SIZE), int(y2 * IMAGE_SIZE) + 1)
        columns = slice(int(x1 * IMAGE_SIZE), int(x2 * IMAGE_SIZE) + 1)
        inside[rows, columns] = 1
        assert painted[rows, columns].mean() > 0.15
    assert painted[inside == 0].sum() == 0


def test_covers_hold_two_words_of_drawn_letters_inside_the_image():
    rng = random.Random(1)
    assert set("".join(COVER_WORDS).upper()) <= set(LETTERS)
    for _ in range(50):
        cover = draw_cover(even_domain(), rng)
        assert cover.lines[0] != cover.lines[1]
        sides = [side for _, box in letter_boxes(cover) for side in box]
        assert min(sides) >= 0 and max(sides) <= 1


def test_the_same_seed_draws_the_same_picture():
    def picture(seed):
        rng = random.Random(seed)
        pixels = render(draw_scene(even_domain(), rng), rng)
        return photograph(pixels, CAMERAS["warm"], 1.0, 8.0, rng)

    assert np.array_equal(picture(1), picture(1))
    assert not np.array_equal(picture(1), picture(2))


@pytest.mark.parametrize("name", CAMERAS)
def test_a_camera_at_zero_strength_changes_nothing(name):
    pixels = render(scenes(1)[0], random.Random(0)) // 2  # dark enough that nothing saturates
    plain = photograph(pixels, CAMERAS[name], 0.0, 0.0, random.Random(0))
    assert np.array_equal(plain, pixels)
    full = photograph(pixels, CAMERAS[name], 1.0, 0.0, random.Random(0)).astype(int)
    half = photograph(pixels, CAMERAS[name], 0.5, 0.0, random.Random(0)).astype(int)
    assert np.abs(full - pixels).max() > 15
    assert np.abs(half - (full + pixels) / 2).max() <= 1


def test_a_strength_outside_the_range_is_refused():
    with pytest.raises(ValueError, match="look_strength"):
        CAMERAS["warm"].at_strength(1.5)


def test_noise_has_the_asked_deviation():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = photograph(grey, CAMERAS["warm"], 0.0, 9.0, random.Random(0))
    assert noisy.std() == pytest.approx(9.0, rel=0.03)
