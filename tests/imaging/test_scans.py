"""Large TIFFs, read in rectangles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.errors import ImageError
from hemalens.imaging import scans
from hemalens.imaging.scans import Scan, is_scan

IMAGE = np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8)
STORED: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (32, 48), "compression": "zlib"},
    "tiles of BigTIFF": {"tile": (64, 64), "bigtiff": True},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "one strip": {},
    "differences": {"tile": (32, 32), "compression": "zlib", "predictor": True},
    "other byte order": {"tile": (32, 32), "byteorder": ">"},
}


def written(path: Path, values: np.ndarray = IMAGE, **options: Any) -> Path:
    options.setdefault("photometric", "rgb" if values.ndim == 3 else "minisblack")
    tifffile.imwrite(path, values, **options)
    return path


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
def test_rectangles_are_those_of_the_image(tmp_path: Path, options: dict[str, Any]) -> None:
    with Scan(written(tmp_path / "a.tif", **options)) as scan:
        assert scan.size == (150, 220)
        for left, top, right, bottom in [(0, 0, 220, 150), (0, 0, 1, 1), (47, 31, 97, 65), (219, 149, 220, 150)]:
            np.testing.assert_array_equal(scan.read((left, top, right, bottom)), IMAGE[top:bottom, left:right])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 219), st.integers(0, 149), st.integers(1, 220), st.integers(1, 150))
def test_any_rectangle(tmp_path_factory: pytest.TempPathFactory, left: int, top: int, width: int, height: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tif"
    if not path.exists():
        written(path, tile=(32, 48), compression="zlib")
    right, bottom = min(left + width, 220), min(top + height, 150)
    with Scan(path) as scan:
        np.testing.assert_array_equal(scan.read((left, top, right, bottom)), IMAGE[top:bottom, left:right])


def test_gray_and_alpha_become_rgb(tmp_path: Path) -> None:
    gray, alpha = IMAGE[..., 0], np.concatenate([IMAGE, IMAGE[..., :1]], axis=2)
    with Scan(written(tmp_path / "gray.tif", gray, tile=(32, 32))) as scan:
        np.testing.assert_array_equal(scan.read((0, 0, 220, 150)), np.repeat(gray[..., None], 3, axis=2))
    with Scan(written(tmp_path / "alpha.tif", alpha, tile=(32, 32), extrasamples=["unassalpha"])) as scan:
        np.testing.assert_array_equal(scan.read((0, 0, 220, 150)), IMAGE)


def test_a_page_is_named(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for values in (IMAGE, 255 - IMAGE):
            writer.write(values, photometric="rgb", tile=(32, 32))
    with Scan(tmp_path / "a.tif", page=2) as scan:
        np.testing.assert_array_equal(scan.read((0, 0, 220, 150)), 255 - IMAGE)
    with pytest.raises(ImageError, match="has several pages"):
        Scan(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="no page 3"):
        Scan(tmp_path / "a.tif", page=3)


def test_kept_parts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "CACHED_BYTES", 3 * 32 * 32 * 3)
    with Scan(written(tmp_path / "a.tif", tile=(32, 32), compression="zlib")) as scan:
        np.testing.assert_array_equal(scan.read((0, 0, 220, 150)), IMAGE)
        assert len(scan._kept) == 3


REFUSED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "16 bits": (IMAGE.astype(np.uint16), {}, "not read in parts"),
    "planes": (IMAGE.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb"}, "not read in parts"),
    "turned": (IMAGE, {"extratags": [(274, "H", 1, 6, True)]}, "not read in parts"),
    "floats": (IMAGE[..., 0].astype(np.float32), {}, "unsupported pixel type"),
}


@pytest.mark.parametrize(("values", "options", "says"), REFUSED.values(), ids=REFUSED)
def test_kinds_that_are_refused(tmp_path: Path, values: np.ndarray, options: dict[str, Any], says: str) -> None:
    path = written(tmp_path / "a.tif", values, tile=(32, 32), **options)
    with pytest.raises(ImageError, match=says):
        Scan(path)


def test_parts_that_are_too_large_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "MAX_PIXELS", 10_000)
    path = written(tmp_path / "a.tif", compression="zlib", rowsperstrip=150)
    assert is_scan(path)
    with Scan(path) as scan, pytest.raises(ImageError, match=r"at most 0 million pixels.*Save it as a tiled TIFF"):
        scan.read((0, 0, 10, 10))


def test_a_side_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "MAX_SIDE_PX", 200)
    with pytest.raises(ImageError, match=r"too large.*200 px a side.*220x150 px"):
        Scan(written(tmp_path / "a.tif"))


@pytest.mark.parametrize("kept", [3, 40, 0.5, 0.9])
def test_a_cut_off_file_is_damaged(tmp_path: Path, kept: float) -> None:
    whole = written(tmp_path / "a.tif", tile=(32, 32)).read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    with pytest.raises(ImageError, match="damaged or truncated"), Scan(path) as scan:
        scan.read((0, 0, 220, 150))


def test_a_damaged_tile_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"damaged!"
    path.write_bytes(content)
    with Scan(path) as scan:
        np.testing.assert_array_equal(scan.read((0, 0, 32, 32)), IMAGE[:32, :32])
        with pytest.raises(ImageError, match=r"a\.tif.*damaged"):
            scan.read((0, 0, 220, 150))


def test_what_is_no_scan(tmp_path: Path) -> None:
    written(tmp_path / "small.tif")
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0")
    assert not any(is_scan(tmp_path / name) for name in ("small.tif", "text.tif", "damaged.tif", "absent.tif", "."))
    with pytest.raises(ImageError, match="does not exist"):
        Scan(tmp_path / "absent.tif")
