"""From an image to the detector's input, and from its maps to boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from hemalens.imaging.boxes import KINDS, Boxes

STRIDE = 4
"""Pixels of the input that a place of the maps stands for, across and down."""
MULTIPLE = 16
"""What the sides of the input are multiples of."""
N_SCORES, N_DISTANCES = len(KINDS) + 1, 4
"""Maps of the detector: scores of each kind and of the nucleus; distances to left, top, right and bottom in pixels."""
NUCLEUS = N_SCORES - 1


@dataclass(frozen=True, slots=True)
class Maps:
    """What the graph gives for one input of (h, w) pixels: `scores` (h / 4, w / 4, 4) in [0, 1], `distances` likewise."""

    scores: NDArray[np.float32]
    distances: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """An image at the size that the detector sees: `pixels` uint8 (h, w, 3), of which `shown` (rows, columns) are image.

    `scale` (down, across) is pixels of the input a pixel of the image.
    """

    pixels: NDArray[np.uint8]
    shown: tuple[int, int]
    scale: tuple[float, float]


def network_input(image: NDArray[np.uint8], longer_px: int) -> NetworkInput:
    """The image (H, W, 3) with a longer side of `longer_px`, padded with its median colour to whole multiples of 16."""
    return input_at(image, longer_px / max(image.shape[:2]), reducing_gap=1.0)


def input_at(image: NDArray[np.uint8], scale: float, *, reducing_gap: float = 2.0) -> NetworkInput:
    """The image (H, W, 3) with its sides times `scale`, padded with its median colour to whole multiples of 16.

    `reducing_gap` as in Pillow's `resize`: at 1.0 fastest, at 2.0 nearly as smooth as possible.
    """
    height, width = image.shape[:2]
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    shown = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=reducing_gap))
    padded = (-(-rows // MULTIPLE) * MULTIPLE, -(-columns // MULTIPLE) * MULTIPLE)
    if padded != (rows, columns):
        canvas = np.empty((*padded, 3), np.uint8)
        canvas[:] = np.median(shown.reshape(-1, 3)[::7], axis=0)
        canvas[:rows, :columns] = shown
        shown = canvas
    return NetworkInput(shown, (rows, columns), (rows / height, columns / width))


def boxes_of(maps: Maps, given: NetworkInput, *, least_score: float) -> Boxes:
    """The boxes in the maps of one input, in pixels of its image: local maxima of the scores.

    Source: Zhou et al., Objects as Points, 2019; distances to four sides as in FCOS (Tian et al. 2019).
    """
    scores = maps.scores[..., : len(KINDS)]
    peaks = (scores == ndimage.maximum_filter(scores, size=(3, 3, 1))) & (scores > least_score)
    rows, columns, kinds = np.nonzero(peaks)
    inside = (rows * STRIDE < given.shown[0]) & (columns * STRIDE < given.shown[1])
    rows, columns, kinds = rows[inside], columns[inside], kinds[inside]
    left, top, right, bottom = maps.distances[rows, columns].T.astype(float)
    x, y = (columns + 0.5) * STRIDE, (rows + 0.5) * STRIDE
    limit_y, limit_x = given.shown
    corners = np.stack(
        [(x - left).clip(0), (y - top).clip(0), (x + right).clip(max=limit_x), (y + bottom).clip(max=limit_y)], axis=1
    )
    down, across = given.scale
    return Boxes(kinds.astype(np.int64), corners / [across, down, across, down], scores[rows, columns, kinds].astype(float))
