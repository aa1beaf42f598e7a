"""JPEGs are decoded to Pillow's pixels, by whichever way."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.errors import ImageError
from hemalens.imaging import jpeg, reading
from hemalens.imaging.reading import read_image


def _cell() -> Image.Image:
    return Image.fromarray(draw_cell("eosinophil", LABORATORIES["lab_a"], np.random.default_rng(0))[0])


def _saved(folder: Path, image: Image.Image, **options: object) -> Path:
    path = folder / "cell.jpg"
    image.save(path, "JPEG", **options)
    return path


def _by_pillow(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _fast(path: Path) -> NDArray[np.uint8] | None:
    with path.open("rb") as file:
        return jpeg.jpeg_pixels(file, Image.open(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (97, 31), (250, 251)])
def test_pixels_are_those_of_pillow(tmp_path: Path, subsampling: int, progressive: bool, size: tuple[int, int]) -> None:
    path = _saved(tmp_path, _cell().resize(size), quality=80, subsampling=subsampling, progressive=progressive)
    pixels = _fast(path)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, _by_pillow(path))
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_spaces_are_left_to_pillow(tmp_path: Path, mode: str) -> None:
    path = _saved(tmp_path, _cell().convert(mode))
    assert _fast(path) is None
    np.testing.assert_array_equal(read_image(path), _by_pillow(path))


def test_a_turned_image_is_left_to_pillow(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _saved(tmp_path, _cell().resize((60, 40)), exif=exif)
    assert _fast(path) is None
    assert read_image(path).shape == (60, 40, 3)


def test_a_truncated_file_is_an_error_and_not_a_half_gray_image(tmp_path: Path) -> None:
    path = _saved(tmp_path, _cell().resize((200, 200)))
    path.write_bytes(path.read_bytes()[:-800])
    assert _fast(path) is None
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(path)


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path, _cell().resize((200, 200)))
    monkeypatch.setattr(reading, "MAX_PIXELS", 1000)
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="too large"):
        read_image(path)
