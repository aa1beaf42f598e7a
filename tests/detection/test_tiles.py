"""Tiles of a field: they cover it, and a cell at a seam is found once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discs import DiscFinder, field
from hemalens.detection.pixels import Rectangle
from hemalens.detection.tiles import MARGIN_PX, TILE_PX, Tile, found_in_tiles, tiles_of
from hemalens.imaging.boxes import RED, WHITE, Boxes

SIZE = (700, 1000)
CORES = sorted({edge for tile in tiles_of(SIZE, 1.0) for edge in (tile.core[0], tile.core[1])} - {0})


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.1, 3))
def test_cores_cover_a_field_once_and_tiles_are_bounded(height: int, width: int, scale: float) -> None:
    tiles = list(tiles_of((height, width), scale))
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in (tile.core for tile in tiles))
    assert area == height * width
    for tile in tiles:
        left, top, right, bottom = tile.seen
        assert 0 <= left <= tile.core[0] < tile.core[2] <= right <= width
        assert 0 <= top <= tile.core[1] < tile.core[3] <= bottom <= height
        assert max(right - left, bottom - top) * scale <= TILE_PX + 2 * scale + 2
        inner = [tile.core[0] - left, tile.core[1] - top, right - tile.core[2], bottom - tile.core[3]]
        at_border = [left == 0, top == 0, right == width, bottom == height]
        assert all(margin * scale >= MARGIN_PX or border for margin, border in zip(inner, at_border, strict=True))


def test_a_field_that_fits_is_one_tile() -> None:
    assert list(tiles_of((480, 640), 1.0)) == [Tile((0, 0, 640, 480), (0, 0, 640, 480))]


@settings(max_examples=12, deadline=None)
@given(st.floats(20, 980), st.floats(20, 680), st.sampled_from([(RED, 30.0), (WHITE, 60.0), (WHITE, 120.0)]))
def test_a_disc_anywhere_is_found_once(x: float, y: float, what: tuple[int, float]) -> None:
    kind, side = what
    boxes = DiscFinder().in_field(field(SIZE, [(kind, x, y, side)]), scale=1.0, least_score=0.2)
    assert boxes.kinds.tolist() == [kind]
    whole = side / 2 <= x <= SIZE[1] - side / 2 and side / 2 <= y <= SIZE[0] - side / 2
    assert np.hypot(*(boxes.centres[0] - [x, y])) <= (3 if whole else side / 2)


@pytest.mark.parametrize("edge", CORES)
def test_touching_discs_on_a_seam_are_both_found(edge: int) -> None:
    for shift in (-18.0, -15.0, 0.0):
        discs = [(RED, edge + shift, 300.0, 30.0), (RED, edge + shift + 33, 300.0, 30.0)]
        assert len(DiscFinder().in_field(field(SIZE, discs), scale=1.0, least_score=0.2)) == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_centre_that_two_tiles_place_differently_counts_once(data: st.DataObject) -> None:
    """Each tile places the cell up to 5 px from where it is."""
    x, y = data.draw(st.floats(0, 1000)), data.draw(st.floats(0, 700))

    def find(seen: Rectangle) -> Boxes:
        dx, dy = data.draw(st.floats(-5, 5)), data.draw(st.floats(-5, 5))
        left, top, right, bottom = seen
        if not (left <= x <= right and top <= y <= bottom):
            return Boxes()
        return Boxes.of([RED], [[x + dx - 20, y + dy - 20, x + dx + 20, y + dy + 20]])

    found = list(found_in_tiles(tiles_of(SIZE, 1.0), find, scale=1.0))
    assert sum(len(boxes) for boxes in found) == 1


@pytest.mark.parametrize("off", [(-13.0, -11.0), (-23.0, -11.0), (11.0, 13.0), (11.0, 23.0), (-1.0, 1.0)])
def test_a_centre_near_the_end_of_the_seam_counts_once(off: tuple[float, float]) -> None:
    """Two tiles see one cell on either side of where a seam ends: only one of them keeps it."""
    edge = next(tile.core[0] for tile in tiles_of((400, 1000), 1.0) if tile.core[0])
    places = iter([edge + off[0], edge + off[1], *[None] * 9])

    def find(seen: Rectangle) -> Boxes:
        x = next(places)
        return Boxes() if x is None else Boxes.of([WHITE], [[x - 30, 100, x + 30, 160]])

    found = list(found_in_tiles(tiles_of((400, 1000), 1.0), find, scale=1.0))
    assert sum(len(boxes) for boxes in found) == 1


def test_tiles_give_what_one_look_gives() -> None:
    rng = np.random.default_rng(0)
    discs = [(RED, float(x), float(y), 30.0) for x in range(40, 960, 60) for y in range(40, 660, 60) if rng.random() < 0.7]
    image = field(SIZE, discs)
    boxes = DiscFinder().in_field(image, scale=1.0)
    assert len(boxes) == len(discs)
    order = np.lexsort(boxes.centres.round().T)
    wanted = np.array([[x, y] for _, x, y, _ in discs])
    np.testing.assert_allclose(boxes.centres[order], wanted[np.lexsort(wanted.T)], atol=1.5)


def test_no_tiles_no_cells() -> None:
    none: Iterator[Tile] = iter(())
    assert list(found_in_tiles(none, lambda _: Boxes(), scale=1.0)) == []
