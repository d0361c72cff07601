"""Images as LLaVA-1.5 sees them: padded to a square around their centre; boxes in that square.

Pixel boxes are (x1, y1, x2, y2) with the origin in the upper left corner; relative boxes are the
same corners divided by the side of the padded square, 0 to 1.
Source: LLaVA-1.5 (Liu et al. 2023), preprocessing "pad"; Pilot keeps it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from pilot_secure.errors import DataError

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

CLIP_MEAN_COLOUR: Colour = (122, 116, 104)
_ON_THE_SIDE = (5, 6, 7, 8)
"""Orientations of EXIF that exchange width and height."""


class Decoded(NamedTuple):
    """Width and height of an image as `datasets` turns it by its EXIF data, and its pixels' hash.

    The hash is the same for one image in two lossless encodings.
    """

    size: tuple[int, int]
    pixel_hash: str


def mean_colour(image_mean: Sequence[float]) -> Colour:
    """The padding colour of an image processor: its `image_mean` (0 to 1) in 8 bits, cut down."""
    red, green, blue = (int(channel * 255) for channel in image_mean)
    return red, green, blue


def expand_to_square(image: Image.Image, colour: Colour = CLIP_MEAN_COLOUR) -> Image.Image:
    """Pad the shorter side on both ends until the image is square; RGB.

    `colour` is that of the image processor's mean, so that padding is zero after normalising.
    A square image comes back as it is. An odd pixel goes to the right or to the bottom.
    """
    image = image.convert("RGB")
    if image.width == image.height:
        return image
    left, top, side = _placement(image.width, image.height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, (left, top))
    return square


def to_relative_box(box: Sequence[float], width: int, height: int) -> Box:
    """A pixel box of a `width` x `height` image, relative to its padded square."""
    left, top, side = _placement(width, height)
    x1, y1, x2, y2 = box
    return (x1 + left) / side, (y1 + top) / side, (x2 + left) / side, (y2 + top) / side


def to_pixel_box(box: Sequence[float], width: int, height: int) -> Box:
    """The inverse of `to_relative_box`: pixels of the image before padding.

    For users who want an answer's box in the pixels of their own image; scores need it not, since
    IoU is the same in both. Corners in the padding fall outside the image; they are not moved.
    """
    left, top, side = _placement(width, height)
    x1, y1, x2, y2 = box
    return x1 * side - left, y1 * side - top, x2 * side - left, y2 * side - top


def size_text(size: tuple[int, int]) -> str:
    """Width and height as messages write them."""
    return f"{size[0]} x {size[1]} pixels"


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that the system refuses (too long) is that of none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dir(path: Path) -> bool:
    """Whether there is such a folder, as `is_file` asks for a file."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_image(path: Path) -> None:
    """Decode an image file completely.

    Raises: DataError, saying why, if it is missing, truncated or no image.
    """
    with _opened({"path": str(path), "bytes": None}) as image:
        image.load()


def image_size(encoded: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height in pixels as stored, without decoding.

    Raises: DataError as `check_image` does.
    """
    with _opened(encoded) as image:
        return image.size


def decode(encoded: Mapping[str, Any]) -> Decoded:
    """Decode an image completely.

    `encoded` is what `datasets` stores: `bytes`, or the `path` of a file where these are None.
    Raises: DataError as `check_image` does.
    """
    with _opened(encoded) as image:
        pixels = image.convert("RGB")
        turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_THE_SIDE
    digest = hashlib.blake2b(f"{pixels.width}x{pixels.height}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return Decoded(pixels.size[::-1] if turned else pixels.size, digest.hexdigest())


@contextmanager
def _opened(encoded: Mapping[str, Any]) -> Iterator[Image.Image]:
    """An image whose decoding errors are told in a sentence."""
    content, path = encoded["bytes"], Path(encoded["path"] or "")
    if content is None and not is_file(path):
        raise DataError("the file is missing")
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            yield image
    except Image.DecompressionBombError:
        raise DataError("the image has too many pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
        reason = " ".join(str(error).split()).replace(str(path), path.name)
        raise DataError(f"the image cannot be decoded ({reason})") from None


def _placement(width: int, height: int) -> tuple[int, int, int]:
    """Left and upper padding, and the side of the square."""
    side = max(width, height)
    return (side - width) // 2, (side - height) // 2, side
