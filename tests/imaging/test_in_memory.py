"""Images in memory are read as their files are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemalens.errors import ImageError
from hemalens.imaging.in_memory import from_array, from_bytes, from_picture
from hemalens.imaging.reading import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)


def _picture(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(PIXELS).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("RGB", "bmp"),
        ("L", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("1", "png"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("I;16", "png"),
    ],
)
def test_bytes_and_pictures_are_read_as_the_file(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    _picture(mode).save(path)
    expected = read_image(path)
    np.testing.assert_array_equal(from_bytes(path.read_bytes(), "#0"), expected)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(from_picture(opened, "#0"), expected)


def test_a_16_bit_tiff_is_read_from_its_bytes_and_refused_as_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    _picture("I;16").save(path)
    np.testing.assert_array_equal(from_bytes(path.read_bytes(), "#0"), read_image(path))
    with Image.open(path) as opened, pytest.raises(ImageError, match=r"TIFF of 16 bits.*Give its path"):
        from_picture(opened, "#0")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_error_names_the_image_and_no_temporary_file(content: bytes) -> None:
    with pytest.raises(ImageError) as refused:
        from_bytes(content, "#3")
    assert "'#3'" in str(refused.value)
    assert "hemalens.image" not in str(refused.value)


def test_pages_in_memory_are_named_as_those_of_a_file_and_no_temporary_one() -> None:
    pages = [Image.fromarray(PIXELS) for _ in range(3)]
    content = io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match=r"image '#4' has several pages.* got 3 pages\. Save it as a file") as error:
        from_bytes(content.getvalue(), "#4")
    assert "/image" not in str(error.value)


def test_a_closed_picture_is_an_image_error() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    picture = Image.open(file)
    picture.close()
    with pytest.raises(ImageError, match="'#0' cannot be converted"):
        from_picture(picture, "#0")


def test_arrays_are_what_they_are() -> None:
    np.testing.assert_array_equal(from_array(PIXELS, "#0"), PIXELS)
    np.testing.assert_array_equal(from_array(PIXELS[..., 0], "#0"), np.repeat(PIXELS[..., :1], 3, axis=2))
    np.testing.assert_array_equal(from_array(PIXELS[::2, ::-1], "#0"), PIXELS[::2, ::-1])
    with pytest.raises(ImageError, match="'#0' is too small; expected at least 8x8 px; got 31x7 px"):
        from_array(PIXELS[:7], "#0")
