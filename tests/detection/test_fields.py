"""The cells of whole fields, of any size and magnification."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

from discs import DiscFinder, field
from hemalens.detection.fields import FIELD_PX, OVERLAP
from hemalens.detection.pixels import ArrayPixels, open_pixels
from hemalens.detection.tiles import TILE_PX
from hemalens.imaging.boxes import PLATELET, RED, WHITE, overlaps
from hemalens.imaging.reading import MAX_PIXELS

BLOOD = [(WHITE, 300.0, 200.0, 180.0), (PLATELET, 500.0, 400.0, 36.0), (PLATELET, 60.0, 420.0, 36.0)]
BLOOD += [(RED, x, y, 100.0) for x in (60.0, 560.0) for y in (70.0, 190.0, 310.0)] + [(RED, 300.0, 400.0, 100.0)]


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.0, 2.5])
def test_all_cells_are_found_at_any_magnification(factor: float) -> None:
    image = field(
        (round(480 * factor), round(640 * factor)), [(k, x * factor, y * factor, s * factor) for k, x, y, s in BLOOD]
    )
    boxes = DiscFinder().in_field(image)
    assert [int((boxes.kinds == kind).sum()) for kind in (WHITE, RED, PLATELET)] == [1, 7, 2]
    np.testing.assert_allclose(boxes.of_kind(WHITE).centres[0], [300 * factor, 200 * factor], atol=4 * max(factor, 1))
    assert boxes.of_kind(RED).sides == pytest.approx(100 * factor, rel=0.15)


def test_a_given_scale_is_the_only_look() -> None:
    finder = DiscFinder()
    finder.in_field(field((480, 640), BLOOD), scale=0.32)
    assert [shape[:2] for shape in finder.inputs] == [(160, 208)]


@pytest.mark.parametrize("size", [(480, 640), (1, 300), (300, 1), (1, 1), (20, 4000)])
def test_an_empty_field_has_no_cells(size: tuple[int, int]) -> None:
    finder = DiscFinder()
    assert len(finder.in_field(field(size, []))) == 0
    assert max(finder.inputs[-1][:2]) == FIELD_PX


def test_noise_has_no_cells() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert len(DiscFinder().in_field(noise)) == 0


def test_a_gray_field_is_read_like_any_other() -> None:
    gray = np.repeat(field((200, 300), [(RED, 100, 100, 60)])[..., :1], 3, axis=2)
    assert len(DiscFinder().in_field(gray)) == 0


def test_a_single_cell_is_a_field() -> None:
    boxes = DiscFinder().in_field(field((120, 120), [(WHITE, 60, 60, 70)]))
    assert boxes.kinds.tolist() == [WHITE]
    assert overlaps(boxes.corners, np.array([[25.0, 25, 95, 95]]))[0, 0] > 0.8


def test_no_input_is_larger_than_a_tile() -> None:
    finder = DiscFinder()
    finder.in_field(field((300, 5000), [(RED, x, 150.0, 40.0) for x in range(50, 4950, 100)]))
    assert max(max(shape[:2]) for shape in finder.inputs) <= TILE_PX + 16


def test_least_score_is_a_threshold_of_every_kind() -> None:
    finder, image = DiscFinder(), field((480, 640), BLOOD)
    every = finder.in_field(image, scale=0.32, least_score=0.0)
    assert len(finder.in_field(image, scale=0.32, least_score=0.899)) < len(every) == len(BLOOD)
    assert (overlaps(every.corners, every.corners) <= OVERLAP).sum() == len(every) * (len(every) - 1)


@pytest.mark.slow
def test_memory_stays_flat_over_a_scan(tmp_path: Path) -> None:
    part = field((512, 512), [(RED, x, y, 120.0) for x in (128.0, 384.0) for y in (128.0, 384.0)])
    n = 16
    tile = [part[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)]

    def tiles() -> object:
        for row in range(2 * n):
            for column in range(2 * n):
                yield tile[row % 2 * 2 + column % 2]

    path = tmp_path / "scan.tif"
    tifffile.imwrite(
        path, tiles(), shape=(512 * n, 512 * n, 3), dtype=np.uint8, tile=(256, 256), compression="zlib", photometric="rgb"
    )
    assert (512 * n) ** 2 > MAX_PIXELS
    tracemalloc.start()
    try:
        with open_pixels(path) as pixels:
            found = sum(len(boxes) for boxes in DiscFinder().by_tile(pixels, scale=0.25))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 4 * n * n
    assert peak < 150e6 < (512 * n) ** 2 * 3


def test_a_small_file_is_an_array(tmp_path: Path) -> None:
    image = field((40, 50), [(RED, 20, 20, 20)])
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    with open_pixels(tmp_path / "a.tif") as pixels:
        assert isinstance(pixels, ArrayPixels)
        assert pixels.size == (40, 50)
        np.testing.assert_array_equal(pixels.read((3, 5, 30, 25)), image[5:25, 3:30])
