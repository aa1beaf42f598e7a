"""Reading images: every accepted kind gives checked RGB values, everything else one line that names the file."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from hemalens.datasets.synthetic import LABORATORIES, draw_cell
from hemalens.errors import ImageError, InputError
from hemalens.imaging import reading as images
from hemalens.imaging.reading import MASK_SPREAD, Preprocessing, image_size, read_image, read_mask, resize

HEIGHT, WIDTH = 20, 24


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    """Random colours, (20, 24, 3): unlike in height and width, in every row, column and channel."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@cache
def _cell() -> NDArray[np.uint8]:
    return draw_cell("monocyte", LABORATORIES["lab_b"], np.random.default_rng(0))[0]


def _check(image: NDArray[np.uint8], shape: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    assert image.dtype == np.uint8
    assert image.shape == (*shape, 3)


def _fails(path: Path, match: str, read: Callable[[Path], object] = read_image) -> str:
    """Reading `path` raises a one-line `ImageError` that matches and names the file."""
    with pytest.raises(ImageError, match=match) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    assert repr(str(path)) in text
    assert isinstance(error.value, InputError)
    return text


# Accepted kinds


@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("bmp", "BMP"), ("tif", "TIFF"), ("jpg", "PNG")])
def test_lossless_formats_give_the_values_stored_whatever_the_suffix(
    tmp_path: Path, rgb: NDArray[np.uint8], suffix: str, kind: str
) -> None:
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", format=kind)
    image = read_image(tmp_path / f"a.{suffix}")
    _check(image)
    np.testing.assert_array_equal(image, rgb)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compressions_give_the_values_stored(tmp_path: Path, rgb: NDArray[np.uint8], compression: str) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.tiff", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), rgb)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["plain", "progressive", "4:4:4"])
def test_jpeg_gives_nearly_the_values_saved(tmp_path: Path, options: dict[str, Any]) -> None:
    Image.fromarray(_cell()).save(tmp_path / "a.jpg", quality=95, **options)
    image = read_image(tmp_path / "a.jpg")
    _check(image, (160, 160))
    assert np.abs(image.astype(int) - _cell()).mean() < 3


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("alpha", [0, 1, 255, None], ids=["clear", "nearly clear", "solid", "random"])
def test_alpha_is_dropped_and_colours_are_kept(
    tmp_path: Path, rgb: NDArray[np.uint8], suffix: str, alpha: int | None
) -> None:
    plane = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    plane = plane if alpha is None else np.full_like(plane, alpha)
    Image.fromarray(np.concatenate([rgb, plane], axis=2)).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), rgb)


def _palette_image(index: NDArray[np.uint8]) -> tuple[Image.Image, NDArray[np.uint8]]:
    colours = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    assert image.mode == "P"
    return image, colours[index]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_palette_is_looked_up(tmp_path: Path, rgb: NDArray[np.uint8], suffix: str) -> None:
    image, expected = _palette_image(rgb[..., 0])
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), expected)


@pytest.mark.parametrize("transparency", [7, bytes(range(256))], ids=["one clear colour", "an alpha for each"])
def test_palette_with_transparency_keeps_its_colours(
    tmp_path: Path, rgb: NDArray[np.uint8], transparency: int | bytes
) -> None:
    index = rgb[..., 0].copy()
    index[0, 0] = 7
    image, expected = _palette_image(index)
    image.save(tmp_path / "a.png", transparency=transparency)
    with Image.open(tmp_path / "a.png") as stored:
        assert "transparency" in stored.info
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_rgb_png_with_a_clear_colour_keeps_that_colour(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png", transparency=tuple(int(v) for v in rgb[0, 0]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_gray_is_repeated_in_three_channels(tmp_path: Path, rgb: NDArray[np.uint8], suffix: str) -> None:
    gray = rgb[..., 1]
    Image.fromarray(gray).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), np.stack([gray] * 3, axis=2))


def test_gray_with_alpha_is_repeated_without_it(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    Image.fromarray(rgb[..., :2]).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "LA"
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.stack([rgb[..., 0]] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_one_bit_is_black_and_white(tmp_path: Path, rgb: NDArray[np.uint8], suffix: str) -> None:
    bits = rgb[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        assert stored.mode == "1"
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), np.stack([bits * np.uint8(255)] * 3, axis=2))


DEEP = np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
UPPER_8 = (DEEP // 256).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_keeps_its_upper_8_bits(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(DEEP[..., 0]).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), np.stack([UPPER_8[..., 0]] * 3, axis=2))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("n_channels", [3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_colour_tiff_keeps_its_upper_8_bits(
    tmp_path: Path, byteorder: Any, n_channels: int, compression: str | None
) -> None:
    values = np.concatenate([DEEP, DEEP[..., :1]], axis=2)[..., :n_channels]
    extra = {"extrasamples": ["unassalpha"]} if n_channels == 4 else {}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", byteorder=byteorder, compression=compression, **extra)
    np.testing.assert_array_equal(read_image(path), UPPER_8)


@pytest.mark.parametrize("n_channels", [3, 4])
@pytest.mark.parametrize("orientation", [1, 6])
def test_16_bit_colour_tiff_in_planes_keeps_its_upper_8_bits(tmp_path: Path, n_channels: int, orientation: int) -> None:
    """Pillow 13 reads such planes as if the channels alternated, and does not say so."""
    planes = np.concatenate([DEEP, DEEP[..., :1]], axis=2)[..., :n_channels].transpose(2, 0, 1)
    extra = {"extrasamples": ["unassalpha"]} if n_channels == 4 else {}
    path = tmp_path / "a.tif"
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", extratags=[tag], **extra)
    np.testing.assert_array_equal(read_image(path), UPRIGHT[orientation](UPPER_8))


def test_8_bit_colour_tiff_in_planes_gives_the_values_stored(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)


def test_gray_tiff_that_counts_from_white_is_turned_around_in_8_bits_and_refused_in_16(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "8.tif", UPPER_8[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "8.tif"), np.stack([255 - UPPER_8[..., 0]] * 3, axis=2))
    tifffile.imwrite(tmp_path / "16.tif", DEEP[..., 0], photometric="miniswhite")
    _fails(tmp_path / "16.tif", "unsupported pixel type; expected 0 for black; got 16 bits with 0 for white")


def test_cmyk_jpeg_is_converted(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 0, 0))
    ink.save(tmp_path / "a.jpg", quality=100)
    image = read_image(tmp_path / "a.jpg")
    _check(image)
    # magenta ink alone takes the green away
    assert np.abs(image.astype(int) - np.array([255, 0, 255])).max() <= 3


# By the EXIF standard (tag 274), what has to be done to the stored rows and columns to stand upright.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, rgb: NDArray[np.uint8], suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), UPRIGHT[orientation](rgb))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_of_a_jpeg_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = np.full((48, 64, 3), 255, np.uint8)
    stored[:16, :32] = (200, 0, 0)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    difference = read_image(tmp_path / "a.jpg").astype(int) - UPRIGHT[orientation](stored)
    assert np.abs(difference).mean() < 4


def test_box_is_cut_out_of_the_upright_image(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    upright = UPRIGHT[6](rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (2, 5, 12, 18)), upright[5:18, 2:12])


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0, 0, WIDTH, HEIGHT), (0, HEIGHT), (0, WIDTH)),
        ((3, 4, 13, 15), (4, 15), (3, 13)),
        ((-5, -5, 10, 12), (0, 12), (0, 10)),
        ((10, 10, 999, 999), (10, HEIGHT), (10, WIDTH)),
    ],
)
def test_box_is_cut_out_and_ends_at_the_image(
    tmp_path: Path, rgb: NDArray[np.uint8], box: images.Box, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", box), rgb[slice(*rows), slice(*columns)])


# Several boxes of one image: it is decoded once, and never stale


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded, in order."""
    names: list[str] = []
    honest = images._decode

    def spied(file: Any, asked: Any) -> Any:
        names.append(asked.path.name)
        return honest(file, asked)

    monkeypatch.setattr(images, "_decode", spied)
    return names


BOXES = ((0, 0, 10, 10), (5, 6, 20, 18), (0, 0, WIDTH, HEIGHT))


def _cut_of(pixels: NDArray[np.uint8], box: images.Box) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    return pixels[top:bottom, left:right]


def test_boxes_of_one_image_are_cut_out_of_one_decoding(tmp_path: Path, rgb: NDArray[np.uint8], decoded: list[str]) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    for box in BOXES:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png", box), _cut_of(rgb, box))
    assert decoded == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)
    assert decoded == ["a.png"] * 2, "a whole image is not kept"


@pytest.mark.parametrize("changed", ["time", "size"])
def test_a_file_that_changes_is_decoded_anew(
    tmp_path: Path, rgb: NDArray[np.uint8], decoded: list[str], changed: str
) -> None:
    path = tmp_path / "a.bmp"
    other = 255 - rgb if changed == "time" else rgb[::-1, ::-1].repeat(2, axis=0)
    Image.fromarray(rgb).save(path)
    before = path.stat()
    np.testing.assert_array_equal(read_image(path, BOXES[1]), _cut_of(rgb, BOXES[1]))
    Image.fromarray(other).save(path)
    # a bitmap of the same sides has the same size: only the time tells the two apart, and in the other case only the size
    assert (path.stat().st_size == before.st_size) == (changed == "time")
    later = before.st_mtime_ns + (1 if changed == "time" else 0)
    os.utime(path, ns=(before.st_atime_ns, later))
    np.testing.assert_array_equal(read_image(path, BOXES[1]), _cut_of(other, BOXES[1]))
    assert decoded == ["a.bmp", "a.bmp"]


def test_images_that_alternate_are_not_taken_for_each_other(
    tmp_path: Path, rgb: NDArray[np.uint8], decoded: list[str]
) -> None:
    pixels = {"a.bmp": rgb, "b.bmp": 255 - rgb}
    for name, values in pixels.items():
        Image.fromarray(values).save(tmp_path / name)
        os.utime(tmp_path / name, ns=(0, 0))
    for name in ("a.bmp", "b.bmp", "b.bmp", "a.bmp", "b.bmp"):
        np.testing.assert_array_equal(read_image(tmp_path / name, BOXES[0]), _cut_of(pixels[name], BOXES[0]))
    assert decoded == ["a.bmp", "b.bmp", "a.bmp", "b.bmp"]


def test_each_thread_keeps_its_own(tmp_path: Path, rgb: NDArray[np.uint8], decoded: list[str]) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png", BOXES[0])
    with ThreadPoolExecutor(1) as pool:
        for box in BOXES:
            found = pool.submit(read_image, tmp_path / "a.png", box).result()
            np.testing.assert_array_equal(found, _cut_of(rgb, box))
    assert decoded == ["a.png"] * 2


def test_a_part_cannot_change_the_image_that_is_kept(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    part = read_image(tmp_path / "a.png", BOXES[0])
    with pytest.raises(ValueError, match="read-only"):
        part[:] = 0
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", BOXES[0]), _cut_of(rgb, BOXES[0]))


def test_errors_are_as_without_a_box_and_leave_what_is_kept(
    tmp_path: Path, rgb: NDArray[np.uint8], decoded: list[str]
) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png", BOXES[0])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-200])
    wrong = {
        "missing": "does not exist",
        "empty": "is empty",
        "text": "not a readable image",
        "cut": "damaged or truncated",
    }
    for name, match in wrong.items():
        path = tmp_path / f"{name}.png"
        assert _fails(path, match) == _fails(path, match, lambda path: read_image(path, BOXES[0]))
    decoded.clear()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", BOXES[1]), _cut_of(rgb, BOXES[1]))
    assert decoded == []
    (tmp_path / "a.png").unlink()
    _fails(tmp_path / "a.png", "does not exist", lambda path: read_image(path, BOXES[0]))


# Refused


@pytest.mark.parametrize("box", [(WIDTH, 0, 99, 9), (0, HEIGHT, 9, 99), (-9, -9, 0, 0), (5, 5, 5, 9), (9, 9, 5, 5)])
def test_box_outside_the_image_is_refused_with_both_sizes(tmp_path: Path, rgb: NDArray[np.uint8], box: images.Box) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    text = _fails(tmp_path / "a.png", "lies outside image", lambda path: read_image(path, box))
    assert f"box {box}" in text
    assert "got 24x20 px" in text


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 50), (50, 7)])
def test_too_small_is_refused(tmp_path: Path, width: int, height: int) -> None:
    Image.new("RGB", (width, height)).save(tmp_path / "a.png")
    _fails(tmp_path / "a.png", rf"is too small; expected at least 8x8 px; got {width}x{height} px")


def test_box_that_leaves_too_little_is_refused_and_8x8_is_enough(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", (0, 0, 8, 8)).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="too small"):
        read_image(tmp_path / "a.png", (0, 0, 7, 8))


def _png_header(width: int, height: int) -> bytes:
    """A 1-bit PNG that claims a size and holds no more than one row's worth of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(width // 8 + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# below Pillow's own warning, between its warning and its error, and above both
@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (12_000, 10_000), (20_000, 20_000), (2_000_000, 33)])
@pytest.mark.parametrize("read", [read_image, image_size, read_mask])
def test_too_large_is_refused_from_the_header_without_decoding(
    tmp_path: Path, width: int, height: int, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(_png_header(width, height))
    tracemalloc.start()
    try:
        _fails(path, r"is too large; expected at most 64 million pixels", read)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_too_large_16_bit_tiff_is_refused_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    tifffile.imwrite(path, DEEP, photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(9_000)
    _fails(path, r"is too large; expected at most 64 million pixels .*; got 9000x9000 px")


def test_largest_accepted_size_is_the_limit_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", WIDTH * HEIGHT)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "fits.png")
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "over.png")
    _check(read_image(tmp_path / "fits.png"))
    _fails(tmp_path / "over.png", "too large")


@pytest.mark.parametrize("read", [read_image, image_size, read_mask])
@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "new\nline.png"])
def test_missing_empty_folder_and_text_are_refused(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / name
    _fails(path, "does not exist", read)
    path.write_bytes(b"")
    _fails(path, "is empty; expected a JPEG, PNG, BMP, TIFF, .*; got 0 bytes", read)
    path.write_text("path,label\na.jpg,neutrophil\n")
    _fails(path, "is not a readable image; expected a JPEG, PNG, BMP, TIFF, .* whole and of 8 or 16 bits", read)
    path.unlink()
    path.mkdir()
    _fails(path, "is a folder; expected an image file", read)


def test_name_with_a_newline_or_an_escape_is_printed_escaped(tmp_path: Path) -> None:
    text = _fails(tmp_path / "two\nlines\x1b[31m.png", "does not exist")
    assert r"two\nlines\x1b[31m.png" in text
    assert text.isprintable()


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "DDS", "SGI"])
def test_other_formats_are_refused_even_under_an_accepted_suffix(tmp_path: Path, rgb: NDArray[np.uint8], kind: str) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png", format=kind)
    _fails(tmp_path / "a.png", "is not a readable image")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("suffix", "options"), [("jpg", {}), ("png", {}), ("bmp", {}), ("tif", {"compression": "tiff_lzw"}), ("tiff", {})]
)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, options: dict[str, str], share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(_cell()).save(path, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    _fails(path, "is damaged or truncated|is not a readable image|cannot be opened")


def test_truncated_mask_is_refused(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(rgb[..., 0]).save(path)
    path.write_bytes(path.read_bytes()[:300])
    _fails(path, "mask .* is damaged or truncated", read_mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_several_pages_is_refused_without_a_page(tmp_path: Path, dtype: Any) -> None:
    pages = np.zeros((3, HEIGHT, WIDTH, 3), dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    _fails(tmp_path / "a.tif", "has several pages; expected the name of one; got 3 pages. Name one, as in .*a.tif#2")


def test_tiff_that_announces_a_second_page_and_holds_none_is_refused(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(rgb).save(path)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (n_tags,) = struct.unpack_from("<H", content, first)
    # the offset of the next page follows the tags; let it lead to a page without any
    struct.pack_into("<I", content, first + 2 + 12 * n_tags, len(content))
    path.write_bytes(content + bytes(6))
    for read in (read_image, read_mask, image_size):
        _fails(path, "is damaged or truncated|several pages", read)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 3)])
def test_float_tiff_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape, np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if len(shape) == 3 else "minisblack")
    _fails(tmp_path / "a.tif", r"unsupported pixel type; expected (8 or 16 bits|gray or RGB of 8 or 16 bits)")


def test_32_bit_values_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 70_000, np.int32))
    _fails(tmp_path / "a.tif", "values beyond 16 bits")


def test_global_leave_to_read_truncated_files_is_refused(
    tmp_path: Path, rgb: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    monkeypatch.setattr(images.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match=r"LOAD_TRUNCATED_IMAGES is on. Switch it off: it hides damage"):
        read_image(tmp_path / "a.png")


def test_refused_files_are_closed(tmp_path: Path) -> None:
    # an unclosed file is a ResourceWarning, and warnings are errors
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), photometric="rgb")
    for _ in range(3):
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.tif")


# Masks, sizes, resizing


def test_mask_keeps_its_values(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (HEIGHT, WIDTH))
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


MASK = np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (HEIGHT, WIDTH))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_gray_mask_may_have_any_mode(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        # values of 16 bits above 255 count as 255, those below are kept
        image = Image.fromarray(np.where(MASK == 255, 65535, MASK).astype(np.uint16))
    else:
        image = Image.fromarray(MASK).convert(mode, dither=Image.Dither.NONE)
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    expected = np.where(MASK >= 128, 255, 0) if mode == "1" else MASK
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), expected)


def test_a_mask_saved_as_a_colour_jpeg_is_gray(tmp_path: Path) -> None:
    blocks = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((16, 16), np.uint8))
    Image.fromarray(np.repeat(blocks[..., None], 3, axis=2)).save(tmp_path / "mask.jpg", quality=60)
    with Image.open(tmp_path / "mask.jpg") as image:
        assert image.mode == "RGB"
    found = read_mask(tmp_path / "mask.jpg")
    assert np.abs(found.astype(int) - blocks).max() <= 16


@pytest.mark.parametrize(("difference", "refused"), [(MASK_SPREAD, False), (MASK_SPREAD + 1, True)])
def test_a_coloured_mask_is_refused(tmp_path: Path, difference: int, refused: bool) -> None:
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[3, 4, 1] = difference
    Image.fromarray(values).save(tmp_path / "mask.png")
    if refused:
        _fails(tmp_path / "mask.png", f"is no mask; expected gray values; got RGB .* up to {difference}", read_mask)
    else:
        assert read_mask(tmp_path / "mask.png").shape == (HEIGHT, WIDTH)


def test_size_is_width_then_height(tmp_path: Path, rgb: NDArray[np.uint8]) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_size_is_that_of_the_upright_image(
    tmp_path: Path, rgb: NDArray[np.uint8], suffix: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, exif=exif)
    height, width = read_image(path).shape[:2]
    monkeypatch.setattr(ImageFile.ImageFile, "load", _decoded)
    assert image_size(path) == (width, height)


def _decoded(image: Image.Image) -> None:
    raise AssertionError("decoded for its size alone")


@pytest.mark.parametrize("orientation", [1, 6])
def test_size_of_16_bit_planes_is_that_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    tags = [(274, "H", 1, orientation, True)]
    planes = np.moveaxis(DEEP, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", extratags=tags)
    height, width = read_image(tmp_path / "a.tif").shape[:2]
    assert image_size(tmp_path / "a.tif") == (width, height)


def test_resize_gives_the_side_asked_for_and_keeps_a_plain_colour() -> None:
    plain = np.broadcast_to(np.array([10, 200, 90], np.uint8), (HEIGHT, WIDTH, 3))
    resized = resize(np.ascontiguousarray(plain), 32)
    _check(resized, (32, 32))
    assert (resized == plain[0, 0]).all()


def test_halving_averages_with_the_triangle_filter() -> None:
    """Antialiased bilinear at half size weighs the four nearest pixels 1, 3, 3, 1 (of 8)."""
    ramp = np.zeros((16, 16, 3), np.uint8)
    ramp[:, 8:] = 240
    row = resize(ramp, 8)[4, :, 0].astype(int)
    # outputs 3 and 4 each see one column beyond the step
    np.testing.assert_allclose(row, [0, 0, 0, 30, 210, 240, 240, 240], atol=1)


def test_preprocessing_is_strict() -> None:
    assert Preprocessing().size_px == 224
    for wrong in ({"size_px": 8}, {"size_px": 224.0}, {"interpolation": "cubic"}, {"antialias": 0}, {"sise_px": 224}):
        with pytest.raises(InputError):
            Preprocessing.from_mapping(wrong)


# Exposure


# Any bytes


def _encoded(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def _tiff_16(**options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, DEEP, photometric="rgb", **options)
    return stream.getvalue()


def _tiff_planes() -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, DEEP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    return stream.getvalue()


@cache
def _whole_files() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[274] = 6
    return {
        "a.jpg": _encoded(image, format="JPEG", exif=exif),
        "progressive.jpg": _encoded(image, format="JPEG", progressive=True),
        "cmyk.jpg": _encoded(image.convert("CMYK"), format="JPEG"),
        "a.png": _encoded(image, format="PNG"),
        "palette.png": _encoded(image.convert("P"), format="PNG", transparency=3),
        "deep.png": _encoded(Image.fromarray(DEEP[..., 0]), format="PNG"),
        "a.bmp": _encoded(image, format="BMP"),
        "palette.bmp": _encoded(image.convert("P"), format="BMP"),
        "a.tif": _encoded(image, format="TIFF"),
        "rgba.tif": _encoded(image.convert("RGBA"), format="TIFF"),
        "lzw.tif": _encoded(image, format="TIFF", compression="tiff_lzw"),
        "deflate.tif": _encoded(image, format="TIFF", compression="tiff_adobe_deflate"),
        "deep.tif": _tiff_16(),
        "deep deflate.tif": _tiff_16(compression="zlib"),
        "deep planes.tif": _tiff_planes(),
        "a.webp": _encoded(image, format="WEBP", lossless=True),
        "lossy.webp": _encoded(image, format="WEBP"),
        "a.gif": _encoded(image, format="GIF"),
        "a.tga": _encoded(image, format="TGA", compression="tga_rle"),
        "a.ppm": _encoded(image, format="PPM"),
        "deep.pgm": _encoded(Image.fromarray(DEEP[..., 0]), format="PPM"),
        "a.jp2": _encoded(image, format="JPEG2000"),
        "deep.jp2": _encoded(Image.fromarray(DEEP[..., 0]), format="JPEG2000"),
    }


def _read_or_image_error(path: Path) -> None:
    found: Any
    for read in (read_image, read_mask, image_size):
        try:
            # warnings of decoders are errors here
            found = read(path)
        except ImageError as error:
            found = str(error)
        if isinstance(found, str):
            assert "\n" not in found
            assert repr(str(path)) in found
        elif read is read_image:
            assert found.dtype == np.uint8
            assert found.shape[2] == 3


@given(name=st.sampled_from(["a.jpg", "a.tif"]), content=st.binary(max_size=200))
@example("a.tif", b"II*\0\x08\0\0\0")
@example("a.tif", b"MM\0*\0\0\0\x08\0\x01")
@example("a.jpg", b"\xff\xd8\xff")
@example("a.jpg", b"BM" + bytes(60))
@settings(max_examples=60)
def test_random_bytes_give_an_image_error(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    _read_or_image_error(path)
    with pytest.raises(ImageError):
        read_image(path)


@given(data=st.data())
@settings(max_examples=200)
def test_corrupted_files_give_an_array_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(_whole_files())))
    content = bytearray(_whole_files()[name])
    # headers matter most: half of the damage lies in the first bytes, or (TIFF) the last
    place = st.one_of(
        st.integers(0, 60), st.integers(0, len(content) - 1), st.integers(max(0, len(content) - 300), len(content) - 1)
    )
    for position, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=6)):
        content[min(position, len(content) - 1)] = value
    end = data.draw(st.one_of(st.none(), st.integers(1, len(content))))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[:end])
    _read_or_image_error(path)


def test_every_file_the_corruption_starts_from_is_whole(tmp_path: Path) -> None:
    for name, content in _whole_files().items():
        (tmp_path / name).write_bytes(content)
        assert read_image(tmp_path / name).size == HEIGHT * WIDTH * 3
