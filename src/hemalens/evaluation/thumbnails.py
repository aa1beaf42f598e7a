"""Pictures for reports: small copies of images as text, and outlines of segmented cells."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.errors import InputError

Colour = tuple[int, int, int]
"""Red, green and blue in 0 to 255."""

GREEN, WHITE, CYAN = (64, 255, 96), (255, 255, 255), (0, 229, 255)
OUTLINE_COLOURS: tuple[Colour, ...] = (GREEN, WHITE, CYAN)
"""Colours that stand out from stained cells and, with the dark rim, from a pale background."""
THUMBNAIL_PX = 96

_SHORTEST_PX = 320
"""Longer side of the smallest image an outline is drawn on: scaled down to a thumbnail, the line has smooth edges."""
_LINE = 1 / 75
"""Width of the line as a fraction of the longer side: 2 pixels of a thumbnail of 160."""
_RIM = 1 / 180
"""Width of the dark rim on either side of the line, likewise."""
_RIM_LIGHT = 0.2
"""Brightness of the rim, as a fraction."""


def thumbnail(image: NDArray[np.uint8], size_px: int = THUMBNAIL_PX) -> str:
    """A small copy of an image, uint8 (H, W, 3) RGB, as a JPEG in base64.

    Its longer side is `size_px`; a smaller image keeps its size.
    """
    small = Image.fromarray(image)
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def outlined(
    image: NDArray[np.uint8], *masks: NDArray[np.bool_], colours: Sequence[Colour] = OUTLINE_COLOURS
) -> NDArray[np.uint8]:
    """The image, uint8 (H, W, 3) RGB, with the outline of each mask, bool (H, W), in the colour of the same place.

    A small image is scaled up until its longer side has 320 pixels, and lines are as wide as the image asks for: they
    can be seen in a thumbnail. Later outlines hide earlier ones; an empty mask has none; one that reaches the border of
    the image is closed along it. Raises `InputError` for a mask of another shape or kind and for too few colours.
    """
    if len(masks) > len(colours):
        raise InputError("too few colours", expected=f"{len(masks)}, one for each mask", got=str(len(colours)))
    height, width = image.shape[:2]
    for mask in masks:
        if mask.shape != (height, width) or mask.dtype != np.bool_:
            raise InputError(
                "a mask does not fit its image", expected=f"bool {(height, width)}", got=f"{mask.dtype} {mask.shape}"
            )
    scale = max(1.0, _SHORTEST_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawn = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    edges = [_edge(mask, size) for mask in masks]
    line_px, rim_px = _LINE * max(size) / 2, _RIM * max(size)
    for edge in edges:
        rim = _thickened(edge, line_px + rim_px)
        drawn[rim] = (drawn[rim] * _RIM_LIGHT).astype(np.uint8)
    for edge, colour in zip(edges, colours, strict=False):
        drawn[_thickened(edge, line_px)] = colour
    return drawn


def _edge(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The outermost pixels of a mask that is scaled to (width, height)."""
    from skimage.segmentation import find_boundaries

    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)
    # outside of the image is no cell, so that a mask that covers all of it has an edge too
    padded = np.pad(np.asarray(smooth) > 127, 1)
    edge: NDArray[np.bool_] = find_boundaries(padded, mode="inner")[1:-1, 1:-1]
    return edge


def _thickened(edge: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Every pixel within a distance of an edge."""
    from skimage.morphology import isotropic_dilation

    if not edge.any():
        return edge  # the distance to nothing is undefined
    thick: NDArray[np.bool_] = isotropic_dilation(edge, radius_px)
    return thick
