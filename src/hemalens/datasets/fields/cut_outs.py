"""Windows of fields that show no white cell: about red cells, platelets, and places without a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.fields.base import Field
from hemalens.imaging.boxes import KINDS, PLATELET, RED, WHITE, Boxes, Corners
from hemalens.imaging.reading import Box

RED_SIDES, PLATELET_SIDES, PLACE_SIDES = (1.0, 2.4), (1.6, 2.6), (0.8, 3.0)
"""Side of a window, least and largest: in diameters of the field's median red cell, in sides of the platelet's own box, and
again in red cells."""
MOST_RED, MOST_PLATELETS, MOST_PLACES = 2, 2, 1
"""Windows of each kind in a field: fields of many red cells count as much as those of few."""
MOST_COVERED = 0.06
"""Share of a window that boxes of white cells may cover; of a place's window also those of platelets."""
LEAST_PX = 16
"""Least side of a window."""
N_TRIES = 20
"""Places that are tried in a field."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a window is drawn: its centre, the diameter of the cell it shows, and its sides in diameters."""

    centre: tuple[float, float]
    diameter: float
    sides: tuple[float, float]


def windows_of(field: Field, size: tuple[int, int], rng: np.random.Generator) -> list[tuple[str, Box]]:
    """Windows (label, box) drawn in a field whose image has `size` (width, height); all lie within the image.

    A window is drawn only of a kind that is boxed completely, in a field whose white cells are: no other place is known to
    show none.
    """
    boxes = field.boxes
    white, red, platelets = (boxes.of_kind(kind) for kind in range(len(KINDS)))
    complete = {KINDS.index(kind) for kind in field.complete}
    if WHITE not in complete:
        return []
    diameter = float(np.median(red.sides)) if len(red) else 0.0
    found: list[tuple[str, Box]] = []

    def draw(label: str, places: Iterator[_Place], most: int, avoided: Boxes) -> None:
        windows = (_window(place, size, rng) for place in places)
        free = (box for box in windows if box is not None and covered(box, avoided.corners) < MOST_COVERED)
        found.extend((label, box) for box in islice(free, most))

    if RED in complete:
        draw("erythrocyte", _cells(red, lambda i: diameter, RED_SIDES, rng), MOST_RED, white)
    if PLATELET in complete:
        draw("platelet", _cells(platelets, lambda i: float(platelets.sides[i]), PLATELET_SIDES, rng), MOST_PLATELETS, white)
    if complete == {WHITE, RED, PLATELET} and diameter:
        draw("artefact", _places(boxes, size, diameter, rng), MOST_PLACES, white.beside(platelets))
    return found


def _cells(
    boxes: Boxes, diameter_of: Callable[[int], float], sides: tuple[float, float], rng: np.random.Generator
) -> Iterator[_Place]:
    for i in rng.permutation(len(boxes)):
        x, y = boxes.centres[i]
        yield _Place((float(x), float(y)), diameter_of(int(i)), sides)


def _places(boxes: Boxes, size: tuple[int, int], diameter: float, rng: np.random.Generator) -> Iterator[_Place]:
    """Places of a field that lie in no box."""
    for x, y in rng.uniform((0, 0), size, (N_TRIES, 2)):
        left, top, right, bottom = boxes.corners.T
        if not ((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).any():
            yield _Place((float(x), float(y)), diameter, PLACE_SIDES)


def _window(place: _Place, size: tuple[int, int], rng: np.random.Generator) -> Box | None:
    """A square about a place, moved into the image; None where the image is smaller."""
    side = max(LEAST_PX, round(place.diameter * rng.uniform(*place.sides)))
    if side > min(size):
        return None
    x, y = (int(np.clip(round(at - side / 2), 0, limit - side)) for at, limit in zip(place.centre, size, strict=True))
    return x, y, x + side, y + side


def covered(window: Box, corners: Corners) -> float:
    """Share of a window that boxes (n, 4) cover, each counted for itself."""
    box: NDArray[np.float64] = np.asarray(window, float)
    shared = (np.minimum(corners[:, 2:], box[2:]) - np.maximum(corners[:, :2], box[:2])).clip(0)
    return float(shared.prod(axis=1).sum() / (box[2:] - box[:2]).prod())
