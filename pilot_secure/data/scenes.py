"""Drawn images: scenes of coloured shapes, book covers with drawn words, and cameras.

Everything is generated from a ``random.Random``, so an image is a function of its seed. Geometry
is relative to the image: x to the right, y downwards, both in 0..1.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 48
_SUPERSAMPLING = 3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (50, 210, 220),
    "pink": (250, 150, 190),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (10, 10, 10),
    "grey": (90, 90, 90),
    "white": (240, 240, 240),
    "navy": (20, 20, 80),
    "brown": (100, 70, 40),
}

# Letters as five columns by seven rows; a reduced alphabet keeps reading learnable at 48 pixels.
_GLYPH_ROWS: dict[str, str] = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "C": ".#### #.... #.... #.... #.... #.... .####",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "O": ".###. #...# #...# #...# #...# #...# .###.",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
}
LETTERS = tuple(_GLYPH_ROWS)
COVER_WORDS = (
    "ant", "ape", "arc", "art", "ash", "can", "cap", "cat", "ear", "hat", "hen", "hop",
    "lap", "lot", "nap", "net", "pan", "pen", "pot", "rat", "sea", "son", "tea", "top",
)  # fmt: skip
COVER_PAPERS = ("black", "navy", "brown", "grey")
COVER_INKS = ("yellow", "cyan", "pink", "orange")


@dataclass(frozen=True)
class Thing:
    """One shape: centre ``x, y`` and half-width ``radius`` relative to the image."""

    x: float
    y: float
    radius: float
    colour: str
    shape: str

    @property
    def name(self) -> str:
        """Colour and shape, for instance ``red circle``."""
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (x1, y1, x2, y2), relative to the image."""
        r = self.radius
        return (self.x - r, self.y - r, self.x + r, self.y + r)


@dataclass(frozen=True)
class Scene:
    """Shapes on a plain background; no two shapes overlap or share both colour and shape."""

    things: tuple[Thing, ...]
    background: str


@dataclass(frozen=True)
class Cover:
    """A book cover: an upper and a lower line of one three-letter word each."""

    lines: tuple[str, str]
    paper: str
    ink: str
    tops: tuple[float, float]
    left: float
    scale: float


@dataclass(frozen=True)
class Domain:
    """What images of a domain look like: relative frequencies and ranges.

    ``noise`` is the range of the standard deviation of the pixel noise, in grey levels of 255.
    """

    colours: dict[str, float]
    shapes: dict[str, float]
    backgrounds: dict[str, float]
    papers: dict[str, float]
    words: dict[str, float]
    things: tuple[int, int] = (1, 4)
    radius: tuple[float, float] = (0.12, 0.2)
    noise: tuple[float, float] = (0.0, 10.0)


def even_domain(**changes: object) -> Domain:
    """The domain in which every colour, shape, background, paper and word is equally frequent."""
    fields: dict[str, object] = {
        "colours": dict.fromkeys(COLOURS, 1.0),
        "shapes": dict.fromkeys(SHAPES, 1.0),
        "backgrounds": dict.fromkeys(BACKGROUNDS, 1.0),
        "papers": dict.fromkeys(COVER_PAPERS, 1.0),
        "words": dict.fromkeys(COVER_WORDS, 1.0),
    }
    return Domain(**{**fields, **changes})  # type: ignore[arg-type]


def pick(weights: dict[str, float], rng: random.Random) -> str:
    """Draw one key with probability proportional to its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_scene(domain: Domain, rng: random.Random) -> Scene:
    """A scene with at least one thing; crowded draws may hold fewer things than asked for."""
    wanted = rng.randint(*domain.things)
    things: list[Thing] = []
    for _ in range(wanted):
        thing = _free_thing(things, domain, rng)
        if thing is not None:
            things.append(thing)
    return Scene(tuple(things), pick(domain.backgrounds, rng))


def _free_thing(things: list[Thing], domain: Domain, rng: random.Random) -> Thing | None:
    """A thing that fits beside ``things``, or None after 30 tries (never for the first one)."""
    for _ in range(30):
        radius = rng.uniform(*domain.radius)
        low, high = radius + 0.02, 1 - radius - 0.02
        thing = Thing(
            rng.uniform(low, high),
            rng.uniform(low, high),
            radius,
            pick(domain.colours, rng),
            pick(domain.shapes, rng),
        )
        if all(_apart(thing, other) and thing.name != other.name for other in things):
            return thing
    return None


def _apart(a: Thing, b: Thing) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius + 0.01


def draw_cover(domain: Domain, rng: random.Random) -> Cover:
    """A cover with two different words, jittered in position and size."""
    upper = pick(domain.words, rng)
    lower = pick({w: v for w, v in domain.words.items() if w != upper}, rng)
    scale = rng.uniform(0.92, 1.0)
    return Cover(
        (upper, lower),
        pick(domain.papers, rng),
        rng.choice(COVER_INKS),
        (rng.uniform(0.03, 0.10), rng.uniform(0.53, 0.58)),
        rng.uniform(0.02, 0.98 - 0.92 * scale),
        scale,
    )


def letter_boxes(cover: Cover) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Each letter of a cover with its box (x1, y1, x2, y2), relative to the image."""
    width, height, pitch = 0.26 * cover.scale, 0.38 * cover.scale, 0.33 * cover.scale
    boxes = []
    for top, word in zip(cover.tops, cover.lines, strict=True):
        for position, letter in enumerate(word.upper()):
            x = cover.left + position * pitch
            boxes.append((letter, (x, top, x + width, top + height)))
    return boxes


def render(image: Scene | Cover, rng: random.Random) -> np.ndarray:
    """Draw a scene or a cover. Returns uint8 [IMAGE_SIZE, IMAGE_SIZE, 3], without noise."""
    size = IMAGE_SIZE * _SUPERSAMPLING
    ground = image.background if isinstance(image, Scene) else image.paper
    canvas = Image.new("RGB", (size, size), BACKGROUNDS[ground])
    pen = ImageDraw.Draw(canvas)
    if isinstance(image, Scene):
        for thing in image.things:
            _draw_thing(pen, thing, size, _shade(COLOURS[thing.colour], rng))
    else:
        ink = _shade(COLOURS[image.ink], rng)
        for letter, box in letter_boxes(image):
            _draw_letter(pen, letter, box, size, ink)
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def _shade(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    r, g, b = (min(255, max(0, round(level + rng.uniform(-18, 18)))) for level in colour)
    return (r, g, b)


def _draw_thing(
    pen: ImageDraw.ImageDraw, thing: Thing, size: int, fill: tuple[int, int, int]
) -> None:
    x, y, r = thing.x * size, thing.y * size, thing.radius * size
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    else:
        pen.polygon([(x + r * u, y + r * v) for u, v in _OUTLINES[thing.shape]], fill=fill)


def _star() -> list[tuple[float, float]]:
    radii = [1.0 if corner % 2 == 0 else 0.42 for corner in range(10)]
    return [
        (r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)) for k, r in enumerate(radii)
    ]


_ARM = 0.35  # half the width of a cross's arms
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
    "star": _star(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


def _draw_letter(
    pen: ImageDraw.ImageDraw,
    letter: str,
    box: tuple[float, float, float, float],
    size: int,
    fill: tuple[int, int, int],
) -> None:
    x1, y1, x2, y2 = (side * size for side in box)
    dx, dy = (x2 - x1) / 5, (y2 - y1) / 7
    for row, cells in enumerate(_GLYPH_ROWS[letter].split()):
        for column, cell in enumerate(cells):
            if cell == "#":
                x, y = x1 + column * dx, y1 + row * dy
                pen.rectangle((x, y, x + dx - 1, y + dy - 1), fill=fill)


@dataclass(frozen=True)
class Camera:
    """An affine map of colours, ``x -> matrix x + offset`` on values in 0..1."""

    matrix: tuple[tuple[float, float, float], ...]
    offset: tuple[float, float, float]

    def at_strength(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """The map blended with the identity: 0 changes nothing, 1 is the full camera.

        Raises ValueError outside 0..1. Returns float32 [3, 3] and [3].
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"look_strength must lie in 0..1, got {strength}")
        matrix = (1 - strength) * np.eye(3) + strength * np.array(self.matrix)
        return matrix.astype(np.float32), (strength * np.array(self.offset)).astype(np.float32)


def _tinted(r: float, g: float, b: float, mixing: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """Channel gains, after each channel gave the share ``mixing`` for the mean of the three."""
    blend = (1 - mixing) * np.eye(3) + mixing / 3
    return tuple(tuple(float(v) for v in row) for row in np.diag([r, g, b]) @ blend)


CAMERAS: dict[str, Camera] = {
    "warm": Camera(_tinted(1.0, 0.72, 0.40), (0.06, 0.02, 0.0)),  # type: ignore[arg-type]
    "cool": Camera(_tinted(0.45, 0.75, 1.0), (0.0, 0.03, 0.08)),  # type: ignore[arg-type]
    "haze": Camera(_tinted(0.65, 0.65, 0.65, 0.31), (0.3, 0.3, 0.3)),  # type: ignore[arg-type]
    "dusk": Camera(_tinted(0.60, 0.42, 0.70), (0.05, 0.0, 0.10)),  # type: ignore[arg-type]
    "sepia": Camera(_tinted(0.95, 0.80, 0.60, 0.45), (0.05, 0.04, 0.0)),  # type: ignore[arg-type]
}


def photograph(
    pixels: np.ndarray, camera: Camera, strength: float, noise: float, rng: random.Random
) -> np.ndarray:
    """Take a picture of uint8 [H, W, 3]: camera colours, then Gaussian pixel noise.

    ``noise`` is the standard deviation in grey levels. Returns uint8 of the same shape.
    """
    matrix, offset = camera.at_strength(strength)
    seen = pixels.astype(np.float32) @ matrix.T + 255 * offset
    grain = np.random.default_rng(rng.getrandbits(64)).standard_normal(seen.shape, np.float32)
    noisy: np.ndarray = np.clip(np.rint(seen + noise * grain), 0, 255).astype(np.uint8)
    return noisy


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
