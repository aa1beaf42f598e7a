"""Regions in tiles: every pixel is covered, no tile is larger than it may be or lies outside, one region is one group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hemalens.datasets import CellDataset
from hemalens.datasets.base import Record
from hemalens.datasets.tiles import tiled
from hemalens.errors import ImageError
from hemalens.imaging.reading import Box


def _dataset(*records: Record) -> CellDataset:
    labels = tuple(sorted({record.label for record in records if record.label is not None}))
    return CellDataset("regions", records, labels, "as_labelled", "none", "none")


def _tile_boxes(path: Path, tile_px: int, box: Box | None = None) -> list[Box]:
    tiles = tiled(_dataset(Record(path, "tissue", "here", box=box)), tile_px)
    return [record.box for record in tiles.records if record.box is not None]


@st.composite
def _boxes(draw: st.DrawFn) -> Box:
    left, top = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    return left, top, left + draw(st.integers(1, 120)), top + draw(st.integers(1, 120))


@given(box=_boxes(), tile_px=st.integers(8, 60))
def test_tiles_cover_every_pixel_and_lie_inside_the_region(box: Box, tile_px: int) -> None:
    left, top, right, bottom = box
    tiles = _tile_boxes(Path("region.png"), tile_px, box)
    times = np.zeros((bottom, right), int)
    for x, y, x_end, y_end in tiles:
        assert left <= x < x_end <= right
        assert top <= y < y_end <= bottom
        # squares, but for a region that is narrower than a tile
        assert (x_end - x, y_end - y) == (min(tile_px, right - left), min(tile_px, bottom - top))
        times[y:y_end, x:x_end] += 1
    assert times[top:bottom, left:right].min() == 1
    assert times.sum() == times[top:bottom, left:right].sum()
    assert len(set(tiles)) == len(tiles)


@given(box=_boxes(), tile_px=st.integers(8, 60))
def test_no_tile_is_more_than_needed_and_they_are_evenly_spaced(box: Box, tile_px: int) -> None:
    left, top, right, bottom = box
    tiles = _tile_boxes(Path("region.png"), tile_px, box)
    columns, rows = sorted({x for x, *_ in tiles}), sorted({y for _, y, *_ in tiles})
    assert len(tiles) == len(columns) * len(rows)
    assert (len(columns), len(rows)) == (-(-(right - left) // tile_px), -(-(bottom - top) // tile_px))
    for starts in (columns, rows):
        assert np.ptp(np.diff(starts)) <= 1 if len(starts) > 2 else True


def test_a_published_region_of_2000_px_is_sixteen_tiles_that_do_not_overlap() -> None:
    tiles = _tile_boxes(Path("region.png"), 500, (0, 0, 2000, 2000))
    assert tiles == [(x, y, x + 500, y + 500) for y in range(0, 2000, 500) for x in range(0, 2000, 500)]


def test_tiles_of_whole_images_show_what_lies_there(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "region.png")
    tiles = tiled(_dataset(Record(tmp_path / "region.png", "tissue", "here", label="tissue")), 30)
    assert len(tiles) == 2 * 3
    for record in tiles.records:
        assert record.box is not None
        x, y, x_end, y_end = record.box
        np.testing.assert_array_equal(record.read(), pixels[y:y_end, x:x_end])
    assert len(set(tiles.contents)) == len(tiles), "each is an image of its own"
    assert {(r.label, r.source_label, r.domain) for r in tiles.records} == {("tissue", "tissue", "here")}


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_an_image_that_lies_on_its_side_is_covered_as_it_stands_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    stored = np.random.default_rng(0).integers(0, 256, (20, 70, 3), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / f"region.{suffix}", exif=exif)
    assert _tile_boxes(tmp_path / f"region.{suffix}", 25) == [
        (0, 0, 20, 25),
        (0, 22, 20, 47),
        (0, 45, 20, 70),
    ]


def test_tiles_of_a_region_are_one_group_and_those_of_another_another(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "small.png"):
        side = 10 if name == "small.png" else 40
        Image.new("RGB", (side, side)).save(tmp_path / name)
    records = [Record(tmp_path / name, "tissue", "here") for name in ("a.png", "b.png", "small.png")]
    patient = Record(tmp_path / "a.png", "tissue", "here", group="patient 1", box=(0, 0, 40, 20))
    tiles = tiled(_dataset(*records, patient), 20)
    groups = [[r.group for r in tiles.records if r.path.name == name] for name in ("a.png", "b.png", "small.png")]
    assert groups == [["a.png"] * 4 + ["patient 1"] * 2, ["b.png"] * 4, ["small.png"]]


def test_a_region_no_larger_than_a_tile_stays_whole(tmp_path: Path) -> None:
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    (record,) = tiled(_dataset(Record(tmp_path / "a.png", "tissue", "here")), 30).records
    assert record.box is None
    (record,) = tiled(_dataset(Record(tmp_path / "a.png", "tissue", "here", box=(2, 3, 20, 30))), 30).records
    assert record.box == (2, 3, 20, 30)


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        _tile_boxes(tmp_path / "missing.png", 30)
    with pytest.raises(ImageError, match=r"the box of '.*missing.png' is empty"):
        _tile_boxes(tmp_path / "missing.png", 30, (5, 5, 5, 20))
