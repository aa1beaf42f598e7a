"""More than 8 bits: whole values out of Pillow, and the bits that they are read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hemalens.imaging.depth import BITS, DeepImage, bits_of
from hemalens.imaging.reading import deep_image, read_image

VALUES = np.random.default_rng(0).integers(0, 4096, (20, 24, 3), dtype=np.uint16)
VALUES[0, 0] = 4095


def _png(path: Path, values: NDArray[np.uint16]) -> None:
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16), (65535, 16)],
)
def test_the_fewest_bits_that_hold_a_value(largest: int, bits: int) -> None:
    assert bits_of(largest) == bits


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_all_bits_of_16_are_found(tmp_path: Path, suffix: str, n_channels: int) -> None:
    values = np.concatenate([VALUES, VALUES[..., :1]], axis=2)[..., :n_channels]
    values = values[..., 0] if n_channels == 1 else values
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        _png(path, values)
    else:
        extra: dict[str, Any] = {"extrasamples": ["unassalpha"]} if n_channels in (2, 4) else {}
        photometric = "rgb" if n_channels > 2 else "minisblack"
        tifffile.imwrite(path, values, photometric=photometric, planarconfig="contig" if n_channels > 1 else None, **extra)
    found = deep_image(path)
    assert found is not None
    np.testing.assert_array_equal(found.values, VALUES[..., 0] if n_channels < 3 else VALUES)
    assert found.largest == 4095


def test_8_bits_are_not_deep(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "a.png")
    assert deep_image(tmp_path / "a.png") is None


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_12_bits_alone_are_read_by_their_largest_value(tmp_path: Path, byteorder: Any) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="rgb", byteorder=byteorder)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), (VALUES // 16).astype(np.uint8))


def test_the_bits_of_a_set_come_before_the_largest_value(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", bits=16), (VALUES // 256).astype(np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", bits=14), (VALUES // 64).astype(np.uint8))


@pytest.mark.parametrize("tag", [281, 341])
def test_a_largest_value_in_the_header_counts(tmp_path: Path, tag: int) -> None:
    dark = (VALUES // 8).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", dark, photometric="rgb", extratags=[(tag, "H", 3, (4095, 4095, 4095), True)])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), (dark // 16).astype(np.uint8))


def test_a_header_that_states_too_few_bits_is_not_believed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES, photometric="rgb", extratags=[(281, "H", 3, (1023, 1023, 1023), True)])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), (VALUES // 16).astype(np.uint8))


def test_the_orientation_is_applied_to_all_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(VALUES[..., 0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], np.rot90(VALUES[..., 0] // 16, -1))


@given(
    values=st.lists(st.integers(0, 65535), min_size=1, max_size=20),
    bits=st.one_of(st.none(), st.sampled_from(BITS)),
    stated=st.one_of(st.none(), st.integers(9, 16)),
)
def test_no_value_is_cut_off_and_order_is_kept(values: list[int], bits: int | None, stated: int | None) -> None:
    image = DeepImage(np.array([values], np.uint16), stated)
    levels = image.to_8_bits(bits)[0].astype(int)
    order = np.argsort(values, kind="stable")
    assert (np.diff(levels[order]) >= 0).all()
    shift = next(s for s in range(9) if max(values) >> s <= 255)
    assert (levels <= np.array(values) >> shift).all()
