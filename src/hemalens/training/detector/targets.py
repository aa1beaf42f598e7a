"""What the detector's maps should be for a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.detection.maps import STRIDE
from hemalens.imaging.boxes import KINDS
from hemalens.training.detector.windows import Window

LEAST_VISIBLE = 0.3
"""Share of a box inside the window below which its cell is neither looked for nor taken for background."""
SPREAD, LEAST_SPREAD = 1 / 6, 0.5
"""Standard deviation of a cell's Gaussian as a share of its box, and its least value in places."""
NEAR_CENTRE = 0.6
"""Height of the Gaussian above which a place learns the distances to the sides."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets at a quarter of the window, q = side / 4.

    `scores` (k, q, q): a Gaussian around each centre, 1 at the centre itself; `known` bool (k, q, q): where they count.
    `distances` (4, q, q) to left, top, right and bottom, in places; `weights` (q, q) of these, summing to 1 a cell.
    `nucleus` (q, q) in [0, 1], `nucleus_known` bool (q, q).
    """

    scores: NDArray[np.float32]
    known: NDArray[np.bool_]
    distances: NDArray[np.float32]
    weights: NDArray[np.float32]
    nucleus: NDArray[np.float32]
    nucleus_known: NDArray[np.bool_]


def targets_of(window: Window) -> Targets:
    """The targets of a window; a cell that the border cuts has the box of what is seen."""
    q = len(window.nucleus)
    y, x = np.mgrid[0:q, 0:q]
    scores = np.zeros((len(KINDS), q, q), np.float32)
    known = np.zeros(scores.shape, bool)
    known[list(window.complete)] = True
    distances, weights = np.zeros((4, q, q), np.float32), np.zeros((q, q), np.float32)
    corners = window.boxes.corners / STRIDE
    # small cells last: they lie on top of large ones
    for i in np.argsort(-(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), kind="stable"):
        kind, whole, seen = window.boxes.kinds[i], corners[i], corners[i].clip(0, q)
        if _area(seen) < LEAST_VISIBLE * _area(whole):
            left, top, right, bottom = seen.astype(int)
            known[kind, top : bottom + 1, left : right + 1] = False
            continue
        left, top, right, bottom = seen
        column, row = (min(int((a + b) / 2), q - 1) for a, b in ((left, right), (top, bottom)))
        down, across = (max(SPREAD * side, LEAST_SPREAD) for side in (bottom - top, right - left))
        bump = np.exp(-((x - column) ** 2 / (2 * across**2) + (y - row) ** 2 / (2 * down**2))).astype(np.float32)
        scores[kind] = np.maximum(scores[kind], bump)
        scores[kind, row, column] = 1
        known[kind, row, column] = True
        near = bump > NEAR_CENTRE
        sides = (x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5)
        distances[:, near] = np.stack([side[near] for side in sides])
        weights[near] = bump[near] / bump[near].sum()
    return Targets(scores, known, distances, weights, window.nucleus, ~window.unknown)


def _area(corners: NDArray[np.float64]) -> float:
    return float(max(corners[2] - corners[0], 0) * max(corners[3] - corners[1], 0))
