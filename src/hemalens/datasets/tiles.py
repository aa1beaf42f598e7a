"""Tiles of large regions, at their original resolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import ImageError, one_line
from hemalens.imaging.reading import image_size


def tiled(dataset: CellDataset, tile_px: int) -> CellDataset:
    """Cut every region into the fewest, evenly spaced squares of `tile_px` that cover it; its tiles are one group.

    A region is the record's box, or the whole image; a region no larger than a tile stays whole. Raises `ImageError` for an
    unreadable image.
    """
    records = tuple(tile for record in dataset.records for tile in _tiles(record, tile_px))
    return replace(dataset, records=records)


def _tiles(record: Record, tile_px: int) -> list[Record]:
    left, top, right, bottom = record.box or (0, 0, *image_size(record.path, page=record.page))
    if right - left <= 0 or bottom - top <= 0:
        raise ImageError(f"the box of {one_line(record.name)} is empty")
    group = record.group or record.file_name
    if right - left <= tile_px and bottom - top <= tile_px:
        return [replace(record, group=group)]
    return [
        replace(record, box=(x, y, min(x + tile_px, right), min(y + tile_px, bottom)), group=group)
        for y in _starts(top, bottom, tile_px)
        for x in _starts(left, right, tile_px)
    ]


def _starts(low: int, high: int, tile_px: int) -> list[int]:
    """Evenly spaced starts of the tiles that cover [low, high)."""
    n = max(1, -(-(high - low) // tile_px))
    if n == 1:
        return [low]
    return [int(start) for start in np.rint(np.linspace(low, high - tile_px, n))]
