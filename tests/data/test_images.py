"""Padding and boxes, worked by hand on a wide and on a tall image."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from PIL import ExifTags, Image, ImageFile

from pilot_secure.data.images import (
    check_image,
    decode,
    expand_to_square,
    mean_colour,
    to_pixel_box,
    to_relative_box,
)
from pilot_secure.errors import DataError

RED, GREY = (255, 0, 0), (10, 20, 30)


def _ink(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Bounds of what is not padding."""
    return Image.eval(image.getchannel("R"), lambda value: 255 * (value == 255)).getbbox()


@pytest.mark.parametrize(
    ("size", "side", "ink"),
    [
        ((10, 4), 10, (0, 3, 10, 7)),  # 6 rows of padding: 3 above, 3 below
        ((4, 10), 10, (3, 0, 7, 10)),
        ((10, 5), 10, (0, 2, 10, 7)),  # 5 rows: 2 above, 3 below
        ((6, 6), 6, (0, 0, 6, 6)),
    ],
)
def test_padding_around_the_centre(
    size: tuple[int, int], side: int, ink: tuple[int, int, int, int]
) -> None:
    square = expand_to_square(Image.new("RGB", size, RED), GREY)
    assert square.size == (side, side)
    assert _ink(square) == ink
    if size != (6, 6):
        assert square.getpixel((0, 0)) == GREY


@pytest.mark.parametrize(
    ("size", "pixels", "relative"),
    [
        # 200 x 100 pads 50 rows above: (20, 10) lands on (20, 60) of a 200 square.
        ((200, 100), (20, 10, 120, 100), (0.1, 0.3, 0.6, 0.75)),
        # 100 x 200 pads 50 columns to the left.
        ((100, 200), (0, 20, 100, 200), (0.25, 0.1, 0.75, 1.0)),
        # 8 x 5 pads 3 rows, 1 above: the odd one below.
        ((8, 5), (0, 0, 8, 5), (0.0, 0.125, 1.0, 0.75)),
    ],
)
def test_boxes_follow_the_padding(
    size: tuple[int, int], pixels: tuple[float, ...], relative: tuple[float, ...]
) -> None:
    assert to_relative_box(pixels, *size) == pytest.approx(relative)
    assert to_pixel_box(relative, *size) == pytest.approx(pixels)


def test_box_of_a_drawn_rectangle_is_where_it_lands() -> None:
    image = Image.new("RGB", (9, 4), GREY)
    image.paste(RED, (2, 1, 5, 3))
    square = expand_to_square(image, GREY)
    relative = to_relative_box((2, 1, 5, 3), 9, 4)
    assert tuple(9 * side for side in relative) == pytest.approx(_ink(square))


def test_padding_colour_is_the_processors_mean() -> None:
    # CLIP's published mean: 255 * (0.48145466, 0.4578275, 0.40821073) = (122.8, 116.7, 104.1).
    assert mean_colour((0.48145466, 0.4578275, 0.40821073)) == (122, 116, 104)
    grey_alpha = Image.new("LA", (1, 3), (255, 255))
    assert expand_to_square(grey_alpha).getpixel((0, 0)) == (122, 116, 104)


def test_broken_files_say_why(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.effect_noise((40, 40), 50).save(good)
    check_image(good)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-300])
    (tmp_path / "text.png").write_text("no image")
    for name, words in (
        ("none.png", "missing"),
        ("a" * 300 + ".png", "missing"),  # longer than a file's name can be
        ("cut.png", "cannot be decoded"),
        ("text.png", "cannot be decoded"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            check_image(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode frame 0"), NotImplementedError("no DXT9")]
)
def test_whatever_a_decoder_raises_is_told(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken AVIF or DDS file does, from Pillow's decoders of these."""

    def load(image: ImageFile.ImageFile) -> None:
        raise error

    Image.new("RGB", (4, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(DataError, match=rf"the image cannot be decoded \({error}\)"):
        check_image(tmp_path / "a.png")


@pytest.mark.parametrize(("orientation", "size"), [(1, (4, 2)), (3, (4, 2)), (6, (2, 4))])
def test_sizes_are_those_of_the_image_that_datasets_gives(
    orientation: int, size: tuple[int, int], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    stored = {"path": str(tmp_path / "a.jpg"), "bytes": None}
    assert decode(stored).size == datasets.Image().decode_example(stored).size == size
