"""The pool of drawn images that pretraining runs over, with exchanges and dense targets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from pilot_secure.data.scenes import (
    COLOURS,
    IMAGE_SIZE,
    LETTERS,
    SHAPES,
    Cover,
    Scene,
    draw_cover,
    draw_scene,
    even_domain,
    letter_boxes,
    render,
)
from pilot_secure.data.tasks import (
    COVER_KINDS,
    QUESTION_KINDS,
    SCENE_KINDS,
    Exchange,
    ask_about_cover,
    ask_about_scene,
    mixed_convention,
)
from pilot_secure.models.tiny import PATCH_SIZE

GRID = IMAGE_SIZE // PATCH_SIZE
PATCH_CLASSES = 1 + len(SHAPES) + len(LETTERS)  # 0: neither a thing nor a letter
_CHUNK = 2000
PRETRAINING_DOMAIN = even_domain(
    backgrounds={"black": 1.0, "grey": 0.6, "white": 0.15, "navy": 0.15, "brown": 0.15}
)
_KIND_WEIGHTS = {
    **dict.fromkeys(QUESTION_KINDS, 1.0),
    "caption": 2.0,
    "grounding": 3.0,
    "first": 3.0,
    "choice_colour": 1.0,
    "choice_object": 1.0,
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pool:
    """Images uint8 [N, H, W, 3], their exchanges, and per-patch targets of N images.

    ``classes`` int8 [N, P]: 0 or 1 + the index of a shape or, after the shapes, of a letter;
    ``boxes`` float16 [N, P, 4] and ``colours`` uint8 [N, P, 3] of the thing or letter there.
    """

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    colours: np.ndarray
    exchanges: list[list[Exchange]]


def draw_pool(
    size: int,
    *,
    seed: int,
    cover_share: float = 0.2,
    exchanges: int = 9,
    processes: int = 2,
    progress: Progress | None = None,
) -> Pool:
    """Draw ``size`` images, the share ``cover_share`` of them book covers. Deterministic by seed.

    Each image comes with up to ``exchanges`` exchanges, every one under a convention of its own
    from the pretraining mixture.
    """
    starts = range(0, size, _CHUNK)
    jobs = [(f"{seed}/{i}", min(_CHUNK, size - i), cover_share, exchanges) for i in starts]
    parts: list[Pool] = []
    with get_context("fork").Pool(processes) as workers:
        for part in workers.imap(_draw_chunk, jobs):
            parts.append(part)
            if progress:
                progress(len(parts), len(jobs))
    return Pool(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.classes for p in parts]),
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.colours for p in parts]),
        [image for p in parts for image in p.exchanges],
    )


def _draw_chunk(job: tuple[str, int, float, int]) -> Pool:
    seed, size, cover_share, exchanges = job
    rng = random.Random(seed)
    domain = PRETRAINING_DOMAIN
    images = np.zeros((size, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    classes = np.zeros((size, GRID * GRID), np.int8)
    boxes = np.zeros((size, GRID * GRID, 4), np.float16)
    colours = np.zeros((size, GRID * GRID, 3), np.uint8)
    texts: list[list[Exchange]] = []
    for i in range(size):
        drawn: Scene | Cover
        if rng.random() < cover_share:
            drawn = draw_cover(domain, rng)
            texts.append(_cover_exchanges(drawn, exchanges, rng))
        else:
            drawn = draw_scene(domain, rng)
            texts.append(_scene_exchanges(drawn, exchanges, rng))
        images[i] = render(drawn, rng)
        _fill_targets(drawn, classes[i], boxes[i], colours[i])
    return Pool(images, classes, boxes, colours, texts)


def _scene_exchanges(scene: Scene, count: int, rng: random.Random) -> list[Exchange]:
    kinds = rng.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()), k=count)
    asked = (ask_about_scene(kind, scene, mixed_convention(rng), rng) for kind in kinds)
    found = [exchange for exchange in asked if exchange is not None]
    return found or [SCENE_KINDS["caption"](scene, mixed_convention(rng), rng)]  # type: ignore[list-item]


def _cover_exchanges(cover: Cover, count: int, rng: random.Random) -> list[Exchange]:
    kinds = rng.choices(COVER_KINDS, (2, 2, 1), k=count)
    return [ask_about_cover(kind, cover, mixed_convention(rng), rng) for kind in kinds]


def _fill_targets(
    drawn: Scene | Cover, classes: np.ndarray, boxes: np.ndarray, colours: np.ndarray
) -> None:
    """Write the targets of one image: patches whose centre lies in a thing's or letter's box."""
    axis = (np.arange(GRID) + 0.5) / GRID
    centres = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    if isinstance(drawn, Scene):
        for thing in drawn.things:
            inside = _inside(centres, thing.box)
            classes[inside] = 1 + SHAPES.index(thing.shape)
            boxes[inside], colours[inside] = thing.box, COLOURS[thing.colour]
    else:
        for letter, box in letter_boxes(drawn):
            inside = _inside(centres, box)
            classes[inside] = 1 + len(SHAPES) + LETTERS.index(letter)
            boxes[inside], colours[inside] = box, COLOURS[drawn.ink]


def _inside(centres: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    x1, y1, x2, y2 = box
    x, y = centres[:, 0], centres[:, 1]
    return (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
