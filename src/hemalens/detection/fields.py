"""The cells of a whole field of any size and magnification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hemalens.detection.maps import boxes_of, input_at
from hemalens.detection.pixels import Pixels, Rectangle
from hemalens.detection.scale import Look, scale_of
from hemalens.detection.tiles import found_in_tiles, tiles_of
from hemalens.imaging.boxes import Boxes, without_doubles

FIELD_PX = 256
"""Longer side at which a field is seen in which no cell gives a scale."""
LEAST_SCORES = (0.25, 0.4, 0.35)
"""Score above which a cell of each kind is found.

Chosen on the held-out fields of the training laboratories: the best F1 for white cells and platelets, the least mean error
of the count a field for red cells, averaged over the laboratories.
"""
OVERLAP = 0.3
"""Largest intersection over union of two cells of a kind."""


def cells_by_tile(
    look: Look, pixels: Pixels, *, scale: float | None = None, least_scores: Sequence[float] = LEAST_SCORES
) -> Iterator[Boxes]:
    """The cells of a field, tile by tile, in pixels of the field; each cell once.

    `scale`: pixels of the detector's input for a pixel of the field; None finds it.
    """
    used = scale or scale_of(look, pixels) or FIELD_PX / max(pixels.size)

    def find(rectangle: Rectangle) -> Boxes:
        given = input_at(pixels.read(rectangle), used)
        found = boxes_of(look(given), given, least_score=min(least_scores))
        found = found[found.scores > np.asarray(least_scores)[found.kinds]]
        return without_doubles(found, overlap=OVERLAP).moved(rectangle[0], rectangle[1])

    return found_in_tiles(tiles_of(pixels.size, used), find, scale=used)
