"""The centred crop: a square around the cell, scaled by the nucleus, so that cells of all laboratories have one scale.

Magnification and crop size differ between laboratories; the size of the nuclei of one cell type hardly does. A nucleus's
diameter is the spread of its lobes (`nucleus.Spread`).

The spread was chosen over the bounding box and the area on 656 cells of JTSC, CellaVision-100, Acevedo-20 and BCCD. Cell
diameters in units of the spread varied least within a cell type of one set. The ratio of the 90th to the 10th percentile is
1.28 (box 1.31, area 1.31). Their medians differed between sets by a standard deviation of 6 % (box 5 %, area 8 %).
The box depends on rotation, and the area is small for a lobed nucleus.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.imaging.nucleus import Spread
from hemalens.imaging.reading import rim_colour
from hemalens.imaging.segmentation import CellImage, Outcome, resized


class CentredCropConfig(StrictConfig):
    """The window of a centred crop.

    `extent` is the side of the square window in diameters of the nucleus. The crop keeps the window's pixels, so that its
    side gives the size of the nucleus in the image. `size_px` is null in every manifest.
    """

    extent: float = Field(default=2.0, ge=1.0, le=4.0)
    size_px: None = None


_DEFAULT = CentredCropConfig()
SMALLEST_PX, LARGEST_PX = 16, 2048
"""Limits on the side of a crop that keeps the window's pixels."""
WHOLE_FROM_PX = 128
"""Side of a window from which it begins at a whole pixel, and is copied: it is off by less than 0.4 % of the side."""
WIDEST = 1.5
"""Side of a window as a share of the image's mean side above which the nucleus's extent is in doubt."""


def centred_crop(image: NDArray[np.uint8], nucleus: Spread | None, config: CentredCropConfig = _DEFAULT) -> CellImage:
    """Crop the square around `nucleus` from `image`, uint8 (H, W, 3), at a scale set by the nucleus.

    The window is centred on the nucleus with sub-pixel precision and resized bicubic; a large one begins at the nearest
    pixel and is copied. Outside the image it has the median colour of the image's rim. "wide window": more than 1.5 times
    the image's mean side, and the scale is uncertain. Without a nucleus the whole image becomes the square.
    """
    height, width = image.shape[:2]
    if nucleus is None:
        return CellImage(resized(image, _whole_pixels(max(height, width))), "no white cell")
    side = config.extent * max(nucleus.diameter, 1.0)
    outcome: Outcome = "wide window" if side > WIDEST * (height + width) / 2 else "cell"
    # pixel i reaches from i to i + 1
    top, left = nucleus.row + 0.5 - side / 2, nucleus.column + 0.5 - side / 2
    size_px = _whole_pixels(side)
    if WHOLE_FROM_PX <= side <= LARGEST_PX:
        start = (round(top + (side - size_px) / 2), round(left + (side - size_px) / 2))
        return CellImage(_window(image, start, (size_px, size_px)), outcome)
    # whole pixels around the window, one more on each side for the interpolation
    y, x = math.floor(top) - 1, math.floor(left) - 1
    around = _window(image, (y, x), (math.ceil(top + side) + 1 - y, math.ceil(left + side) + 1 - x))
    box = (left - x, top - y, left - x + side, top - y + side)
    shown = Image.fromarray(around).resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
    return CellImage(np.asarray(shown), outcome)


def _whole_pixels(side: float) -> int:
    return min(max(round(side), SMALLEST_PX), LARGEST_PX)


def _window(image: NDArray[np.uint8], start: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels from (row, column) `start` on, (*shape, 3), in the rim's colour outside the image."""
    within, inside = [], []
    for first, length, limit in zip(start, shape, image.shape[:2], strict=True):
        low, high = max(first, 0), min(first + length, limit)
        within.append(slice(low, high))
        inside.append(slice(low - first, high - first))
    part = image[tuple(within)]
    if part.shape[:2] == shape:
        return part
    window = np.empty((*shape, 3), np.uint8)
    window[:] = rim_colour(image)
    window[tuple(inside)] = part
    return window
