"""TIFF: pages from the headers alone, compressions of microscopes, and damage that must stay small and quick."""

from __future__ import annotations

import importlib.util
import io
import struct
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemalens.errors import ImageError
from hemalens.imaging.reading import image_size, read_image
from hemalens.imaging.tiff import COMPRESSIONS, read_pages, upright

DEEP = np.random.default_rng(0).integers(0, 65536, (40, 48, 3), dtype=np.uint16)
UPPER_8 = (DEEP // 256).astype(np.uint8)


def _pages(path: Path) -> list[Any]:
    with open(path, "rb") as file:
        return read_pages(file)


def _write(path: Path, values: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, values, **options)
    return path


# Pages


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_pages_are_found_with_their_sizes(tmp_path: Path, byteorder: Any, bigtiff: bool) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=bigtiff, byteorder=byteorder) as writer:
        for height in (20, 30, 40):
            writer.write(np.zeros((height, 24, 3), np.uint8), photometric="rgb")
    pages = _pages(tmp_path / "a.tif")
    assert [(page.width, page.height, page.bits, page.n_channels) for page in pages] == [
        (24, 20, 8, 3),
        (24, 30, 8, 3),
        (24, 40, 8, 3),
    ]


def test_each_page_is_read_and_named(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    path = _write(tmp_path / "a.tif", colours, photometric="rgb")
    for number, expected in enumerate(colours, start=1):
        np.testing.assert_array_equal(read_image(path, page=number), expected)
        assert image_size(path, page=number) == (24, 20)
    with pytest.raises(ImageError, match=r"no page 4 in '.*a.tif'; expected 1 to 3"):
        read_image(path, page=4)


def test_reduced_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, photometric="rgb")
        writer.write(image[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(image[..., 0] > 127, photometric="mask", subfiletype=4)
    assert len(_pages(tmp_path / "a.tif")) == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)


def test_a_pyramid_of_ome_is_one_page(tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(image, photometric="rgb", subifds=1, tile=(32, 32))
        writer.write(image[::2, ::2], photometric="rgb", subfiletype=1, tile=(32, 32))
    assert len(_pages(tmp_path / "a.ome.tif")) == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), image)


def test_a_second_page_after_a_reduced_copy_is_the_right_one(tmp_path: Path) -> None:
    first, second = np.random.default_rng(4).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(first, photometric="rgb")
        writer.write(first[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(second, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page=2), second)


def test_a_loop_of_pages_is_an_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", np.zeros((20, 24, 3), np.uint8), photometric="rgb")
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (n_tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * n_tags, first)
    path.write_bytes(content)
    with pytest.raises(ImageError, match="the pages form a loop"):
        read_image(path)


# Compressions


WAYS = [("none", 1), *((name, predictor) for name in ("lzw", "zlib", "zstd", "packbits", "lzma") for predictor in (1, 2))]


@pytest.mark.parametrize(("compression", "predictor"), WAYS)
@pytest.mark.parametrize("layout", ["rgb", "tiles", "planes", "gray", "alpha", "gray alpha"])
def test_16_bits_of_any_compression_keep_their_upper_8(
    tmp_path: Path, compression: str, predictor: int, layout: str
) -> None:
    alpha = {"extrasamples": ["unassalpha"]}
    gray = np.repeat(UPPER_8[..., :1], 3, axis=2)
    values, expected, options = {
        "rgb": (DEEP, UPPER_8, {"photometric": "rgb"}),
        "tiles": (DEEP, UPPER_8, {"photometric": "rgb", "tile": (16, 16)}),
        "planes": (DEEP.transpose(2, 0, 1), UPPER_8, {"photometric": "rgb", "planarconfig": "separate"}),
        "gray": (DEEP[..., 0], gray, {}),
        "alpha": (np.concatenate([DEEP, DEEP[..., :1]], axis=2), UPPER_8, {"photometric": "rgb", **alpha}),
        "gray alpha": (DEEP[..., :2], gray, {"photometric": "minisblack", "planarconfig": "contig", **alpha}),
    }[layout]
    path = tmp_path / "a.tif"
    _write(path, values, compression=compression, predictor=predictor, **options)
    np.testing.assert_array_equal(read_image(path), expected)


def test_a_jpeg_of_12_bits_inside_is_read_as_12_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    path = tmp_path / "a.tif"
    _write(path, ramp, compression="jpeg", compressionargs={"level": 100, "bitspersample": 12})
    image = read_image(path)
    assert np.abs(image[..., 0].astype(int) - (ramp >> 4)).max() <= 3


def test_12_bits_packed_are_read_as_12_bits(tmp_path: Path) -> None:
    values = (DEEP >> 4).astype(np.uint16)
    path = _write(tmp_path / "a.tif", values, photometric="rgb", bitspersample=12)
    np.testing.assert_array_equal(read_image(path), (values >> 4).astype(np.uint8))


def test_a_compression_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", DEEP, photometric="rgb", compression="jpeg2000")
    with pytest.raises(ImageError, match=r"a compression that is not read; expected .*LZW.*; got JPEG 2000. Save it"):
        read_image(path)


def test_without_imagecodecs_the_compression_and_the_extra_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = DEEP.transpose(2, 0, 1)
    path = _write(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", compression="lzw")
    honest = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imagecodecs" else honest(name))
    with pytest.raises(ImageError, match=r"a.tif' with LZW compression needs .*'imagecodecs'.* 'hemalens\[tiff\]'"):
        read_image(path)
    plain = _write(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(plain), UPPER_8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_follows_the_standard(orientation: int) -> None:
    stored = np.arange(6).reshape(2, 3)
    expected = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored, 1),
    }
    np.testing.assert_array_equal(upright(stored, orientation), expected[orientation])


# Bombs


def _with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a short or long tag of its first page."""
    changed = bytearray(content)
    (first,) = struct.unpack_from("<I", changed, 4)
    (n_tags,) = struct.unpack_from("<H", changed, first)
    for entry in range(first + 2, first + 2 + 12 * n_tags, 12):
        if struct.unpack_from("<H", changed, entry)[0] == tag:
            struct.pack_into("<HII", changed, entry + 2, 4, 1, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


def _stream(values: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("tag", "value", "match"),
    [
        (256, 60_000, "strips or tiles are there"),
        (257, 4_000_000, "too large"),
        (277, 60_000, "unsupported pixel type|damaged"),
        (322, 4_000_000_000, "unsupported pixel type"),
    ],
)
def test_a_header_that_asks_for_much_memory_is_refused(tmp_path: Path, tag: int, value: int, match: str) -> None:
    planes = DEEP.transpose(2, 0, 1)
    content = _stream(planes, photometric="rgb", planarconfig="separate", tile=(16, 16), compression="zlib")
    path = tmp_path / "a.tif"
    path.write_bytes(_with_tag(content, tag, value))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=match):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_jpeg_inside_that_is_larger_than_its_page_is_refused(tmp_path: Path) -> None:
    content = bytearray(
        _stream((DEEP >> 4)[..., 0], compression="jpeg", compressionargs={"level": 90, "bitspersample": 12})
    )
    start = next(i for i in range(len(content)) if content[i] == 0xFF and content[i + 1] in (0xC1, 0xC0, 0xC2, 0xC3))
    struct.pack_into(">HH", content, start + 5, 60_000, 60_000)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match="a JPEG of 60000x60000 px inside"):
        read_image(tmp_path / "a.tif")


# Any bytes


@cache
def _whole() -> dict[str, bytes]:
    small = DEEP[:20, :24]
    planes = small.transpose(2, 0, 1)
    separate: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    return {
        "planes": _stream(planes, **separate),
        "lzw": _stream(planes, **separate, compression="lzw", predictor=2),
        "zstd": _stream(planes, **separate, compression="zstd"),
        "deflate": _stream(planes, **separate, compression="zlib", tile=(16, 16)),
        "packed": _stream(small >> 4, photometric="rgb", bitspersample=12),
        "jpeg": _stream((small >> 4)[..., 0], compression="jpeg", compressionargs={"bitspersample": 12}),
        "big": _stream(small, photometric="rgb", bigtiff=True, byteorder=">"),
        "pages": _stream(np.stack([small, small]), photometric="rgb"),
    }


def _either(read: Callable[[], NDArray[np.uint8]]) -> None:
    """An image, or an `ImageError`; anything else fails."""
    try:
        image = read()
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


@given(data=st.data(), name=st.sampled_from(["planes", "lzw", "zstd", "deflate", "packed", "jpeg", "big", "pages"]))
@settings(max_examples=150)
def test_mutated_files_give_an_image_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    content = bytearray(_whole()[name])
    place = st.one_of(st.integers(0, 300), st.integers(0, len(content) - 1))
    for position, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)):
        content[min(position, len(content) - 1)] = value
    end = data.draw(st.one_of(st.none(), st.integers(1, len(content))))
    path = tmp_path_factory.getbasetemp() / "mutated.tif"
    path.write_bytes(content[:end])
    for page in (None, 2):
        _either(lambda page=page: read_image(path, page=page))  # type: ignore[misc]


@given(content=st.binary(max_size=400), magic=st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
@example(b"\x08\0\0\0" + b"\xff\xff" * 40, b"II*\0")
@settings(max_examples=100)
def test_pages_of_any_bytes_end(magic: bytes, content: bytes) -> None:
    try:
        pages = read_pages(io.BufferedReader(io.BytesIO(magic + content)))  # type: ignore[arg-type]
    except (ValueError, struct.error):
        return
    assert pages


def test_every_compression_that_is_read_has_a_name() -> None:
    assert {1, 5, 7, 8, 50000} <= set(COMPRESSIONS)
