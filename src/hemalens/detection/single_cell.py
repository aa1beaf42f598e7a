"""The nucleus of the white cell in a single-cell image: where it lies and how wide it is, to a fraction of a pixel.

The detector sees the image at 96 px. Of the white cells that it proposes, the one with the best score near the centre
counts. Its nucleus is the region within its box whose probability is above one half. A nucleus that is then very small or
very large is looked at again at a better scale.

The side was chosen on cells of Acevedo-20 and BCCD, with the classical rule as reference: at larger sides no more extents
agree with it, and the network takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from hemalens.detection.maps import NUCLEUS, STRIDE, Maps, NetworkInput, boxes_of, network_input
from hemalens.imaging.boxes import WHITE, Boxes, overlaps, without_doubles
from hemalens.imaging.nucleus import EIGHT, Spread
from hemalens.imaging.segmentation import Outcome

SIDE_PX = 96
"""Longer side at which the detector sees a single-cell image."""
LEAST_SCORE = 0.05
"""Score above which a white cell is a proposal."""
SURE_SCORE = 0.3
"""Score from which a white cell counts as found beyond doubt."""
CENTRE_SIGMA = 0.25
"""How near the centre the cell is expected, as a share of the image's mean side."""
AROUND = 0.05
"""How far a nucleus may reach out of its cell's box, as a share of its sides."""
LEAST_PROBABILITY = 0.5
"""Probability above which a place is nucleus."""
LEAST_LOBE = 0.04
"""Least area of a lobe as a share of the largest one's: less is a granule or a platelet."""
FINE = 4
"""Places of the interpolated map a place of the detector's map: pixels of its input."""
SMALL_PX, LARGE_PX, GOOD_PX = 16.0, 75.0, 36.0
"""Diameters in the detector's input below and above which a nucleus is looked at again, and the diameter it then has."""
LEAST_SEEN_PX = 12
"""Shorter side of a second look, in pixels of the image."""
SAME_CELL = 0.5
"""Intersection over union from which two boxes are of one cell."""
CUT_SHARE = 0.5
"""Length along one side of the image, in diameters, from which the border cuts a nucleus; two sides cut it always."""
ALIKE = 0.7
"""Longer side of a neighbour at least, as a share of the cell's."""
WHOLE_SHARE = 0.5
"""Share of a neighbour's longer side that must be seen where the border cuts it: its centre is then in the image."""

FindMaps = Callable[[NetworkInput], Maps]
"""Gives the detector's maps for an input."""


@dataclass(frozen=True, slots=True)
class FoundNucleus:
    """The nucleus of the white cell in a single-cell image, in pixels of the image, None without one.

    `outcome`: "cell", or what makes it doubtful. `score` is the cell's, in [0, 1].
    """

    spread: Spread | None
    outcome: Outcome
    score: float


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at an image finds: the spread, its diameter in pixels of the input, the cell, and its doubts."""

    spread: Spread
    seen_px: float
    corners: NDArray[np.float64]
    score: float
    cut: bool
    several: bool


def nucleus_in(find: FindMaps, image: NDArray[np.uint8]) -> FoundNucleus:
    """The nucleus of the white cell near the centre of a single-cell image uint8 (H, W, 3), with all its lobes."""
    found = _look(find, image)
    if found is None:
        return FoundNucleus(None, "no white cell", 0.0)
    if not SMALL_PX <= found.seen_px <= LARGE_PX:
        found = _looked_again(find, image, found) or found
    outcome: Outcome = "cell"
    if found.several:
        outcome = "another white cell"
    elif found.cut:
        outcome = "touches border"
    elif found.score < SURE_SCORE:
        outcome = "low score"
    return FoundNucleus(found.spread, outcome, found.score)


def _look(find: FindMaps, image: NDArray[np.uint8], longer_px: int = SIDE_PX) -> _Look | None:
    """The cell near the centre of an image and its nucleus, seen at a size; None without a white cell or a nucleus."""
    height, width = image.shape[:2]
    given = network_input(image, longer_px)
    maps = find(given)
    cells = without_doubles(boxes_of(maps, given, least_score=LEAST_SCORE).of_kind(WHITE))
    if not len(cells):
        return None
    far = np.hypot(*((cells.centres - [width / 2, height / 2]) / (CENTRE_SIGMA * (width + height) / 2)).T)
    # the nearest of cells with equal scores first; the one with a nucleus counts
    for best in np.argsort(-cells.scores * np.exp(-(far**2) / 2), kind="stable"):
        found = _nucleus_of(maps.scores[..., NUCLEUS], given, cells, int(best))
        if found is not None:
            spread, seen_px, cut = found
            others = _others(cells, int(best), (height, width))
            return _Look(spread, seen_px, cells.corners[best], float(cells.scores[best]), cut, others)
    return None


def _looked_again(find: FindMaps, image: NDArray[np.uint8], first: _Look) -> _Look | None:
    """The same cell at a scale at which its nucleus is `GOOD_PX` wide; None where it is not the same."""
    height, width = image.shape[:2]
    if first.seen_px > LARGE_PX:
        better = _look(find, image, max(round(SIDE_PX * GOOD_PX / first.seen_px), 4 * STRIDE))
        return better and _with_spread(first, better.spread, better.cut)
    side = max(SIDE_PX / GOOD_PX * first.spread.diameter, LEAST_SEEN_PX)
    top, left = (max(0, round(at - side / 2)) for at in (first.spread.row, first.spread.column))
    part = np.ascontiguousarray(image[top : top + round(side), left : left + round(side)])
    better = _look(find, part)
    if better is None:
        return None
    spread = Spread(better.spread.row + top, better.spread.column + left, better.spread.diameter)
    apart = np.hypot(spread.row - first.spread.row, spread.column - first.spread.column)
    # at the border of the part it may not be seen whole
    if better.cut or apart > max(first.spread.diameter, spread.diameter) / 2:
        return None
    at_border = first.cut and (top == 0 or left == 0 or top + round(side) >= height or left + round(side) >= width)
    return _with_spread(first, spread, at_border)


def _with_spread(first: _Look, spread: Spread, cut: bool) -> _Look:
    return _Look(spread, first.seen_px, first.corners, first.score, cut, first.several)


def _nucleus_of(
    probability: NDArray[np.float32], given: NetworkInput, cells: Boxes, best: int
) -> tuple[Spread, float, bool] | None:
    """The nucleus within the box of one cell: its spread, its diameter in the input, and whether the border cuts it."""
    rows, columns = (-(-shown // STRIDE) for shown in given.shown)
    scale = np.array(given.scale[::-1])
    corners = cells.corners[best] * np.tile(scale, 2) / STRIDE
    reach = AROUND * (corners[2:] - corners[:2])
    left, top = np.floor(corners[:2] - reach).astype(int).clip(0).tolist()
    right, bottom = np.minimum(np.ceil(corners[2:] + reach), [columns, rows]).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    size = ((right - left) * FINE, (bottom - top) * FINE)
    shown = np.ascontiguousarray(probability[:rows, :columns])
    fine = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom)))
    mask = fine > LEAST_PROBABILITY
    # the map reaches to a whole number of places, a little beyond the image
    mask[max(0, given.shown[0] - top * FINE) :] = False
    mask[:, max(0, given.shown[1] - left * FINE) :] = False
    mask = _lobes(mask, _nearer_another(cells, best, mask.shape, (left, top), scale))
    if not mask.any():
        return None
    (row, down), (column, across) = (_moments(mask.sum(axis=axis)) for axis in (1, 0))
    per_row, per_column = 1 / given.scale[0], 1 / given.scale[1]
    diameter = 2 * float(np.sqrt(2 * (down * per_row**2 + across * per_column**2)))
    spread = Spread((row + top * FINE) * per_row - 0.5, (column + left * FINE) * per_column - 0.5, diameter)
    seen_px = 2 * float(np.sqrt(2 * (down + across)))
    return spread, seen_px, _is_cut(mask, (top * FINE, left * FINE), given.shown, seen_px)


def _is_cut(mask: NDArray[np.bool_], start: tuple[int, int], shown: tuple[int, int], seen_px: float) -> bool:
    """Whether the image's border cuts a nucleus whose mask begins at (row, column) `start` of an input `shown`."""
    last = (shown[0] - 1 - start[0], shown[1] - 1 - start[1])
    along = [
        np.count_nonzero(mask[0]) if start[0] == 0 else 0,
        np.count_nonzero(mask[:, 0]) if start[1] == 0 else 0,
        np.count_nonzero(mask[last[0]]) if last[0] < mask.shape[0] else 0,
        np.count_nonzero(mask[:, last[1]]) if last[1] < mask.shape[1] else 0,
    ]
    return bool(sum(n > 0 for n in along) > 1 or max(along) >= CUT_SHARE * seen_px)


def _moments(counts: NDArray[np.intp]) -> tuple[float, float]:
    """Mean and variance of places weighted by `counts`, from the first one's outer edge, each place one wide."""
    place = np.arange(len(counts)) + 0.5
    total = counts.sum()
    mean = float((place * counts).sum() / total)
    return mean, float((counts * (place - mean) ** 2).sum() / total)


def _lobes(mask: NDArray[np.bool_], foreign: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """The mask without specks, and without the regions that lie in another cell for the greater part."""
    labels, n_labels = ndimage.label(mask, EIGHT)
    if n_labels <= 1 and foreign is None:
        return mask
    areas = np.bincount(labels.ravel(), minlength=n_labels + 1)
    areas[0] = 0
    own = areas
    if foreign is not None:
        own = np.where(2 * np.bincount(labels[foreign], minlength=n_labels + 1) > areas, 0, areas)
    kept = own > LEAST_LOBE * own.max(initial=0)
    return np.asarray(kept[labels], np.bool_)


def _nearer_another(
    cells: Boxes, best: int, shape: tuple[int, ...], start: tuple[int, int], scale: NDArray[np.float64]
) -> NDArray[np.bool_] | None:
    """The pixels (h, w) of the input, from (x, y) `start` in places on, that lie nearer the centre of another sure cell.

    Distances are in sides of the cells' boxes; None without another cell.
    """
    beside = (cells.scores >= SURE_SCORE) & (np.arange(len(cells)) != best)
    if not beside.any():
        return None
    y, x = np.ogrid[: shape[0], : shape[1]]

    def distance(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = corners[:2] * scale - np.array(start) * FINE, corners[2:] * scale - np.array(start) * FINE
        middle, half = (low + high) / 2, (high - low).clip(1) / 2
        found: NDArray[np.float64] = np.hypot((x + 0.5 - middle[0]) / half[0], (y + 0.5 - middle[1]) / half[1])
        return found

    own = distance(cells.corners[best])
    return np.asarray(np.any([distance(corners) < own for corners in cells.corners[beside]], axis=0), np.bool_)


def _others(cells: Boxes, best: int, shape: tuple[int, int]) -> bool:
    """Whether another white cell is seen whole, or with its centre in the image; a box ends at the image's border."""
    apart = overlaps(cells.corners, cells.corners[best : best + 1])[:, 0] < SAME_CELL
    rest = cells[(cells.scores >= SURE_SCORE) & apart]
    limit = np.array([shape[1], shape[0]])
    own = (cells.corners[best, 2:] - cells.corners[best, :2]).max()
    for corners in rest.corners:
        sides = corners[2:] - corners[:2]
        cut = (corners[:2] <= 1) | (corners[2:] >= limit - 1)
        # in a corner both of its sides are shortened
        whole = max(sides.max(), ALIKE * own)
        if not (cut & (sides < WHOLE_SHARE * whole)).any():
            return True
    return False
