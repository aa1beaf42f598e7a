"""Run the detector: the boxes of a field, and the nucleus of the cell in a single-cell image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.detection.fields import LEAST_SCORES, cells_by_tile
from hemalens.detection.maps import NUCLEUS, Maps, NetworkInput, boxes_of, network_input
from hemalens.detection.pixels import ArrayPixels, Pixels
from hemalens.detection.scale import scale_of
from hemalens.graphs.runtime import session_of
from hemalens.imaging.boxes import KINDS, WHITE, Boxes, overlaps, without_doubles
from hemalens.imaging.nucleus import Mask

CELL_PX = 128
"""Longer side at which the detector sees a single-cell image."""
LEAST_SCORE = 0.1
"""Score above which half of it a cell of a single-cell image is a proposal."""
SURE_SCORE = 0.3
"""Score from which a white cell counts as found beyond doubt."""
CENTRE_SIGMA = 0.25
"""How near the centre the cell of a single-cell image is expected, as a share of the image's mean side."""
AROUND = 0.05
"""How far a nucleus may reach out of its cell's box, as a share of its sides."""

CellFound = Literal["found", "doubtful", "several", "none"]
"""What was found in a single-cell image: one white cell, one in doubt, several, or none."""


@dataclass(frozen=True, slots=True)
class FoundNucleus:
    """The nucleus of the white cell in a single-cell image: its mask (H, W), what was found, and the cell's score."""

    mask: Mask
    found: CellFound
    score: float


class CellFinder:
    """Finds cells with the detector's graph, on one thread. `graph` is serialised; a finder may be used by many threads."""

    def __init__(self, graph: bytes) -> None:
        self._session = session_of(graph)

    def maps(self, given: NetworkInput) -> Maps:
        """The graph's maps for one input."""
        scores, distances = self._session.run(["scores", "distances"], {"image": given.pixels[None]})
        return Maps(scores[0], distances[0])

    def in_field(self, image: NDArray[np.uint8], *, scale: float | None = None, least_score: float | None = None) -> Boxes:
        """White cells, red cells and platelets of a field uint8 (H, W, 3), each once, in pixels of the field.

        `scale`: pixels of the detector's input for a pixel of the field, as `scale_of` gives it; None finds it.
        `least_score`: the score above which a cell of any kind is found; None takes that of each kind.
        """
        found = Boxes()
        for boxes in self.by_tile(ArrayPixels(image), scale=scale, least_score=least_score):
            found = found.beside(boxes)
        return found

    def by_tile(self, pixels: Pixels, *, scale: float | None = None, least_score: float | None = None) -> Iterator[Boxes]:
        """As `in_field`, tile by tile: for a scan that `detection.pixels.open_pixels` opens, in memory that stays flat."""
        scores = LEAST_SCORES if least_score is None else (least_score,) * len(KINDS)
        return cells_by_tile(self.maps, pixels, scale=scale, least_scores=scores)

    def scale_of(self, image: NDArray[np.uint8]) -> float | None:
        """Pixels of the detector's input for a pixel of a field uint8 (H, W, 3); None where no cell shows it.

        The fields of a slide share one scale: their median is surer than each.
        """
        return scale_of(self.maps, ArrayPixels(image))

    def nucleus_of(self, image: NDArray[np.uint8]) -> FoundNucleus:
        """The nucleus of the white cell near the centre of a single-cell image uint8 (H, W, 3), with all its lobes."""
        height, width = image.shape[:2]
        given = network_input(image, CELL_PX)
        maps = self.maps(given)
        cells = without_doubles(boxes_of(maps, given, least_score=LEAST_SCORE / 2).of_kind(WHITE))
        if not len(cells):
            return FoundNucleus(np.zeros((height, width), bool), "none", 0.0)
        far = np.hypot(*((cells.centres - [width / 2, height / 2]) / (CENTRE_SIGMA * (width + height) / 2)).T)
        best = int(np.argmax(cells.scores * np.exp(-(far**2) / 2)))
        mask = _nucleus_within(maps, given, cells.corners[best], (height, width))
        score = float(cells.scores[best])
        others = (cells.scores >= SURE_SCORE) & (overlaps(cells.corners, cells.corners[best : best + 1])[:, 0] < 0.5)
        if not mask.any():
            return FoundNucleus(mask, "none", score)
        found: CellFound = "several" if others.any() else "found" if score >= SURE_SCORE else "doubtful"
        return FoundNucleus(mask, found, score)


def _nucleus_within(maps: Maps, given: NetworkInput, corners: NDArray[np.float64], shape: tuple[int, int]) -> Mask:
    """The nucleus's mask (H, W) within a box of the image: where its probability, interpolated, is above one half."""
    height, width = shape
    rows, columns = -(-given.shown[0] // 4), -(-given.shown[1] // 4)
    probability = np.ascontiguousarray(maps.scores[:rows, :columns, NUCLEUS])
    # the maps reach to a whole number of places, a little beyond the image
    box = (0.0, 0.0, given.shown[1] / 4, given.shown[0] / 4)
    whole = np.asarray(Image.fromarray(probability).resize((width, height), Image.Resampling.BILINEAR, box=box))
    reach = AROUND * (corners[2:] - corners[:2])
    left, top = np.round(corners[:2] - reach).astype(int).clip(0)
    right, bottom = np.round(corners[2:] + reach).astype(int)
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = whole[top:bottom, left:right] > 0.5
    return mask
