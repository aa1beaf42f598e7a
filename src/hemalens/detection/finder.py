"""Run the detector: the boxes of a field, and the nucleus of the cell in a single-cell image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.detection.fields import LEAST_SCORES, cells_by_tile
from hemalens.detection.maps import Maps, NetworkInput
from hemalens.detection.pixels import ArrayPixels, Pixels
from hemalens.detection.scale import scale_of
from hemalens.detection.single_cell import FoundNucleus, nucleus_in
from hemalens.graphs.runtime import session_of
from hemalens.imaging.boxes import KINDS, Boxes


class CellFinder:
    """Finds cells with the detector's graph, on one thread. `graph` is serialised; a finder may be used by many threads."""

    def __init__(self, graph: bytes) -> None:
        self.graph = graph

    @cached_property
    def digest(self) -> str:
        """Digest of the graph."""
        return hashlib.sha256(self.graph).hexdigest()

    @cached_property
    def _session(self) -> Any:
        return session_of(self.graph)

    def maps(self, given: NetworkInput) -> Maps:
        """The graph's maps for one input."""
        scores, distances = self._session.run(["scores", "distances"], {"image": given.pixels[None]})
        return Maps(scores[0], distances[0])

    def in_field(self, image: NDArray[np.uint8], *, scale: float | None = None, least_score: float | None = None) -> Boxes:
        """White cells, red cells and platelets of a field uint8 (H, W, 3), each once, in pixels of the field.

        `scale`: pixels of the detector's input for a pixel of the field, as `scale_of` gives it; None finds it.
        `least_score`: the score above which a cell of any kind is found; None takes that of each kind.
        """
        return Boxes.joined(self.by_tile(ArrayPixels(image), scale=scale, least_score=least_score))

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
        return nucleus_in(self.maps, image)
