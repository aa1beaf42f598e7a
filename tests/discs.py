"""A stand-in for the detector that finds flat discs by their colours, and fields with such discs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemalens.detection.finder import CellFinder
from hemalens.detection.maps import N_DISTANCES, N_SCORES, STRIDE, Maps, NetworkInput
from hemalens.imaging.boxes import PLATELET, RED, WHITE

COLOURS = {WHITE: (90, 40, 140), RED: (220, 120, 120), PLATELET: (150, 90, 230)}
BACKGROUND = (245, 240, 235)
BEST_PX, WIDTH = {WHITE: 57, RED: 32, PLATELET: 12}, 0.8
"""Side in the input at which each kind has its highest score, and how fast the score falls with its logarithm."""


def field(size: tuple[int, int], discs: Sequence[tuple[int, float, float, float]]) -> NDArray[np.uint8]:
    """A field of (height, width) with discs of (kind, x, y, side)."""
    image = np.full((*size, 3), BACKGROUND, np.uint8)
    for kind, x, y, side in discs:
        r = side / 2
        top, left = max(int(y - r) - 1, 0), max(int(x - r) - 1, 0)
        rows, columns = np.mgrid[top : min(int(y + r) + 2, size[0]), left : min(int(x + r) + 2, size[1])]
        inside = np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= r
        image[rows[inside], columns[inside]] = COLOURS[kind]
    return image


class DiscFinder(CellFinder):
    """Finds discs; keeps the sides of its inputs in `inputs`."""

    def __init__(self) -> None:
        self.inputs: list[tuple[int, ...]] = []

    def maps(self, given: NetworkInput) -> Maps:
        """A peak at the centre of each disc, whose score depends on its side as a trained network's does."""
        pixels = given.pixels.astype(np.int16)
        self.inputs.append(pixels.shape)
        q = (pixels.shape[0] // STRIDE, pixels.shape[1] // STRIDE)
        scores, distances = np.zeros((*q, N_SCORES), np.float32), np.ones((*q, N_DISTANCES), np.float32)
        for kind, colour in COLOURS.items():
            alike = np.abs(pixels - colour).max(axis=2) < 20
            if not alike.any():
                continue
            labels, _ = ndimage.label(alike)
            for rows, columns in ndimage.find_objects(labels):
                top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
                side = max(bottom - top, right - left)
                row, column = (
                    min(int((a + b) / 2 / STRIDE), n - 1) for a, b, n in ((top, bottom, q[0]), (left, right, q[1]))
                )
                y, x = (row + 0.5) * STRIDE, (column + 0.5) * STRIDE
                scores[row, column, kind] = 0.9 * np.exp(-((np.log(side / BEST_PX[kind]) / WIDTH) ** 2) / 2)
                distances[row, column] = x - left, y - top, right - x, bottom - y
        return Maps(scores, distances)
