"""Cut a field into tiles that overlap by more than a cell, and count each cell at a seam once.

A cell belongs to the tile whose core holds its centre. Two tiles may place the same centre a little differently, on either
side of the seam: a tile also keeps centres slightly outside its core, unless an earlier tile has kept that cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.detection.pixels import Rectangle
from hemalens.imaging.boxes import Boxes, overlaps

TILE_PX = 640
"""Longer side of the input that is seen at once, at most."""
MARGIN_PX = 96
"""How far a tile reaches beyond its core, in pixels of the input: a cell of 160 pixels on a seam is seen whole."""
SEAM_PX = 12
"""How far outside its core a tile keeps a centre, in pixels of the input."""
SAME = 0.4
"""Intersection over union from which two boxes at a seam are the same cell."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a field: the rectangle that is seen, and the part of it, its core, whose cells are the tile's own."""

    seen: Rectangle
    core: Rectangle


def tiles_of(size: tuple[int, int], scale: float) -> Iterator[Tile]:
    """The tiles of a field of `size` (height, width) that is seen at `scale`, row by row; one where it fits."""
    (tops, bottoms), (lefts, rights) = (_cuts(side, scale) for side in size)
    margin = int(np.ceil(MARGIN_PX / scale))
    height, width = size
    for top, bottom in zip(tops, bottoms, strict=True):
        for left, right in zip(lefts, rights, strict=True):
            seen = (max(left - margin, 0), max(top - margin, 0), min(right + margin, width), min(bottom + margin, height))
            yield Tile(seen, (left, top, right, bottom))


def _cuts(side: int, scale: float) -> tuple[list[int], list[int]]:
    """Begins and ends of the cores along one side, of nearly equal length."""
    n = 1 if side * scale <= TILE_PX else int(np.ceil(side * scale / (TILE_PX - 2 * MARGIN_PX)))
    edges = np.linspace(0, side, n + 1).round().astype(int).tolist()
    return edges[:-1], edges[1:]


def found_in_tiles(tiles: Iterator[Tile], find: Callable[[Rectangle], Boxes], *, scale: float) -> Iterator[Boxes]:
    """The cells of each tile, those at seams once; `find` gives the boxes of a rectangle in pixels of the field."""
    near = SEAM_PX / scale
    seams: list[tuple[Rectangle, Boxes]] = []
    for tile in tiles:
        own = find(tile.seen)
        own = own[_within(own.centres, tile.core, near)]
        # only rows of tiles that this one touches can hold the same cell
        seams = [(core, boxes) for core, boxes in seams if core[3] + near >= tile.core[1] - near]
        for core, boxes in seams:
            if _touch(core, tile.core, near):
                own = own[~_same(own, boxes)]
        left, top, right, bottom = tile.core
        # a later tile keeps centres up to `near` inside this core, and may place them that much off
        inside = _within(own.centres, (left, top, right, bottom), -2 * near)
        seams.append((tile.core, own[~inside]))
        yield own


def _within(centres: NDArray[np.float64], core: Rectangle, near: float) -> NDArray[np.bool_]:
    """Which centres (n, 2) lie in the core, widened by `near`."""
    x, y = centres.T
    left, top, right, bottom = core
    within: NDArray[np.bool_] = (x >= left - near) & (x < right + near) & (y >= top - near) & (y < bottom + near)
    return within


def _touch(first: Rectangle, second: Rectangle, near: float) -> bool:
    return (
        first[0] - near <= second[2] + near
        and second[0] - near <= first[2] + near
        and first[1] - near <= second[3] + near
        and second[1] - near <= first[3] + near
    )


def _same(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Which boxes (n,) are a cell of the others."""
    if not len(boxes) or not len(others):
        return np.zeros(len(boxes), bool)
    alike = (overlaps(boxes.corners, others.corners) > SAME) & (boxes.kinds[:, None] == others.kinds[None])
    same: NDArray[np.bool_] = alike.any(axis=1)
    return same
