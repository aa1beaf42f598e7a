"""Which cells of a field count: the rule for cells that the field's border cuts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hemalens.imaging.boxes import Boxes

NEAR, NEAR_PX = 0.04, 1.5
"""A box this near a border, as a share of its sides or in pixels, is cut by it: found boxes end a little off the image."""


def touched_borders(boxes: Boxes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(n, 4): whether each box reaches the left, top, right and bottom border of a field of `shape` (height, width)."""
    height, width = shape[:2]
    corners = boxes.corners
    near = np.maximum(NEAR * (corners[:, 2:] - corners[:, :2]), NEAR_PX)
    found: NDArray[np.bool_] = np.concatenate([corners[:, :2] <= near, corners[:, 2:] >= [width, height] - near], axis=1)
    return found


def cut_by_border(boxes: Boxes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(n,): whether the border of a field of `shape` (height, width) cuts each cell, so that a part of it is not seen."""
    cut: NDArray[np.bool_] = touched_borders(boxes, shape).any(axis=1)
    return cut


def counted(boxes: Boxes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(n,): whether each cell of a field counts, by the rule of the counting chamber.

    A cell at the left or top border counts, one at the right or bottom border does not. Over many fields each cell counts
    once, large ones as often as small ones. A cell that reaches two opposite borders is as large as the field: it counts.
    """
    left, top, right, bottom = touched_borders(boxes, shape).T
    kept: NDArray[np.bool_] = ~(right | bottom) | (left & right) | (top & bottom)
    return kept
