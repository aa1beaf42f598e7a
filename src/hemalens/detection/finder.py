"""Run the detector: the boxes of a field, and the nucleus of the cell in a single-cell image."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemalens.detection.maps import Maps, NetworkInput, boxes_of, network_input
from hemalens.detection.single_cell import FoundNucleus, nucleus_in
from hemalens.graphs.runtime import session_of
from hemalens.imaging.boxes import Boxes, without_doubles

FIELD_PX = 512
"""Longer side at which the detector sees a field."""
LEAST_SCORE = 0.1
"""Score above which a cell of a field is a proposal. Scores differ between laboratories: a classifier has the last word."""


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

    def in_field(self, image: NDArray[np.uint8], *, least_score: float = LEAST_SCORE) -> Boxes:
        """White cells, red cells and platelets of a field uint8 (H, W, 3), each once, in pixels of the field."""
        given = network_input(image, FIELD_PX)
        return without_doubles(boxes_of(self.maps(given), given, least_score=least_score))

    def nucleus_of(self, image: NDArray[np.uint8]) -> FoundNucleus:
        """The nucleus of the white cell near the centre of a single-cell image uint8 (H, W, 3), with all its lobes."""
        return nucleus_in(self.maps, image)
