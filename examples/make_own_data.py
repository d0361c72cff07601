"""Make examples/own-data: a small data set of the kind that a user would bring.

    python examples/make_own_data.py

Writes LLaVA conversation JSON and PNG images, drawn by the project's own generator, always the
same: three question files, one a client, and one file of boxes to be divided among three clients.
Images are cut around what they show, so that many are wide or tall.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pilot_secure.data.images import to_relative_box
from pilot_secure.data.prompts import IMAGE_TOKEN, box_text, grounding_instruction
from pilot_secure.data.scenes import (
    CAMERAS,
    IMAGE_SIZE,
    Scene,
    draw_scene,
    even_domain,
    photograph,
    render,
)
from pilot_secure.data.tasks import QUESTION_KINDS, Convention, ask_about_scene, rounded_side

FOLDER = Path(__file__).parent / "own-data"
PLACES = {"north": "navy", "south": "brown", "west": "grey"}
"""Where questions were asked: each client has backgrounds of its own."""
SITES = {"harbour": "black", "market": "white", "school": "brown"}
"""A key of the rows of boxes.json, to divide them by."""
QUESTION_IMAGES, QUESTIONS_PER_IMAGE = 24, 2
BOX_IMAGES_PER_SITE = 24
MARGIN = 2

Row = dict[str, Any]


def main(folder: Path = FOLDER) -> None:
    """Replace the folder's JSON files and images."""
    rng = random.Random("own-data")
    shutil.rmtree(folder / "images", ignore_errors=True)
    for place, background in PLACES.items():
        rows = [
            row
            for number in range(1, QUESTION_IMAGES + 1)
            for row in _question_rows(folder, f"{place}/{number:02d}.png", background, rng)
        ]
        if place == "west":  # what real data sets hold as well: skipped, counted and reported
            rows.insert(3, _row("text-only", None, "How are you?", "fine"))
            rows.insert(9, _row("lost", "west/lost.png", "What colour is the star?", "red"))
        _write_rows(folder / f"questions-{place}.json", rows)
    boxes = [
        row
        for number in range(1, BOX_IMAGES_PER_SITE + 1)
        for site, background in SITES.items()
        for row in _box_rows(folder, site, f"boxes/{site}-{number:02d}.png", background, rng)
    ]
    _write_rows(folder / "boxes.json", boxes)


def _question_rows(folder: Path, name: str, background: str, rng: random.Random) -> list[Row]:
    """Questions about one new image, answered in a word."""
    exchanges: list[tuple[str, str]] = []
    scene = draw_scene(even_domain(backgrounds={background: 1.0}), rng)
    while len(exchanges) < QUESTIONS_PER_IMAGE:
        kind = rng.choice(list(QUESTION_KINDS))
        exchange = ask_about_scene(kind, scene, Convention(answer_style="word"), rng)
        if exchange and (exchange.instruction, exchange.answer) not in exchanges:
            exchanges.append((exchange.instruction, exchange.answer))
    _save_image(folder / "images" / name, scene, "warm", rng)
    stem = Path(name).with_suffix("").as_posix()
    return [_row(f"{stem}-{i}", name, *pair) for i, pair in enumerate(exchanges, start=1)]


def _box_rows(folder: Path, site: str, name: str, background: str, rng: random.Random) -> list[Row]:
    """The box of each thing in one new image: top, left, bottom, right of the padded square."""
    scene = draw_scene(even_domain(backgrounds={background: 1.0}, things=(1, 2)), rng)
    left, top, width, height = _save_image(folder / "images" / name, scene, "haze", rng)
    rows = []
    for thing in scene.things:
        corners = [IMAGE_SIZE * corner for corner in thing.box]
        inside = [c - offset for c, offset in zip(corners, (left, top, left, top), strict=True)]
        x1, y1, x2, y2 = map(rounded_side, to_relative_box(inside, width, height))
        instruction = grounding_instruction(f"the {thing.name}")
        stem = Path(name).stem
        answer = box_text((y1, x1, y2, x2))
        rows.append(_row(f"{stem}-{thing.name}", name, instruction, answer, site=site))
    return rows


def _save_image(
    path: Path, scene: Scene, camera: str, rng: random.Random
) -> tuple[int, int, int, int]:
    """Save the scene, cut to the things in it in one direction; return left, top, width, height.

    Without pixel noise a PNG of this size takes less than a kilobyte.
    """
    pixels = photograph(render(scene, rng), CAMERAS[camera], 1.0, 0.0, rng)
    height, width = pixels.shape[:2]
    left, right, top, bottom = 0, width, 0, height
    if rng.random() < 0.5:
        left, right = _extent([t.box[0] for t in scene.things], [t.box[2] for t in scene.things])
    else:
        top, bottom = _extent([t.box[1] for t in scene.things], [t.box[3] for t in scene.things])
    cut = np.ascontiguousarray(pixels[top:bottom, left:right])
    buffer = io.BytesIO()
    Image.fromarray(cut).save(buffer, "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return left, top, cut.shape[1], cut.shape[0]


def _extent(low: Sequence[float], high: Sequence[float]) -> tuple[int, int]:
    """First pixel, and the one after the last, of things between relative coordinates."""
    first, last = int(min(low) * IMAGE_SIZE) - MARGIN, int(max(high) * IMAGE_SIZE) + MARGIN + 1
    return max(0, first), min(IMAGE_SIZE, last)


def _row(row_id: str, image: str | None, question: str, answer: str, **keys: str) -> Row:
    turns = [
        {"from": "human", "value": f"{IMAGE_TOKEN}\n{question}" if image else question},
        {"from": "gpt", "value": answer},
    ]
    return {"id": row_id, **({"image": image} if image else {}), **keys, "conversations": turns}


def _write_rows(path: Path, rows: list[Row]) -> None:
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
