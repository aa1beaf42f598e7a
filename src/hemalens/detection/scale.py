"""Find a field's magnification from the field itself: where the detector is most certain, then the size of its cells.

The detector sees red cells of 16 to 90 pixels of its input; below and above, its scores fall and its boxes are wrong. So
a ladder of looks, each at twice the last scale, is judged by the area of the cells that are found, weighted by the squares
of their scores. The best look shows the cells at a size where their boxes are right. From their median side follows the
scale at which red cells have `RED_PX` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hemalens.detection.maps import Maps, NetworkInput, boxes_of, network_input
from hemalens.detection.pixels import Pixels, Rectangle
from hemalens.imaging.boxes import RED, WHITE, Boxes, areas, without_doubles

Look = Callable[[NetworkInput], Maps]
"""Runs the detector's graph on one input."""

RED_PX = 28.0
"""Side of a typical red cell in the input when a field is searched."""
WHITE_TO_RED = 1.8
"""Side of a white cell over that of a red cell, for fields with hardly any red cells."""
LOOK_PX = 192
"""Longer side of the input of each look, as in training."""
LEAST_LOOK_PX = 96
"""Of the first look: a single cell may fill the image."""
LARGEST_SEEN_PX = 2048
"""Longer side of what the first look sees of a large field: red cells of 500 pixels have 47 in it."""
LARGEST_ENLARGEMENT = 4.0
N_PLACES, N_SEEN = 3, 2
"""A look that sees a part of the field: of a grid of 3 x 3 places, the two with the most contrast are seen."""
LEAST_SCORE, SURE_SCORE = 0.2, 0.3
"""Scores from which cells count for a look's certainty, and for the cells' size."""
ENOUGH_RED = 3
"""Red cells whose median side is taken; with fewer, white cells are measured too."""
CERTAIN, FALLEN = 0.05, 0.5
"""The ladder ends where the best certainty is above the first, and the last below this share of the best."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step of the ladder finds: its certainty, and the side of a red cell in pixels of the field or None."""

    certainty: float
    red_side: float | None


def scale_of(look: Look, pixels: Pixels) -> float | None:
    """Pixels of the detector's input for a pixel of the field; None where no cell is found at any scale."""
    best = Seen(0.0, None)
    for seen_px, input_px in ladder(pixels.size):
        seen = _seen(look, pixels, seen_px, input_px)
        if seen.red_side is not None and seen.certainty > best.certainty:
            best = seen
        elif best.certainty > CERTAIN and seen.certainty < FALLEN * best.certainty:
            break
    return None if best.red_side is None else RED_PX / best.red_side


def ladder(size: tuple[int, int]) -> list[tuple[int, int]]:
    """(side in the field, side in the input) of each look at a field of `size`: each sees half as far as the last."""
    seen = min(max(size), LARGEST_SEEN_PX)
    steps = [(seen, LEAST_LOOK_PX)] if max(size) <= LARGEST_SEEN_PX else []
    while True:
        steps.append((seen, LOOK_PX))
        if LOOK_PX / seen * 2 > LARGEST_ENLARGEMENT or seen < LEAST_LOOK_PX:
            return steps
        seen = -(-seen // 2)


def _seen(look: Look, pixels: Pixels, seen_px: int, input_px: int) -> Seen:
    """Look at the whole field, or at its places with the most contrast."""
    certainty, found = 0.0, Boxes()
    places = _places(pixels, seen_px)
    for place in places:
        image = pixels.read(place)
        given = network_input(image, max(16, round(input_px * max(image.shape[:2]) / seen_px)))
        boxes = without_doubles(boxes_of(look(given), given, least_score=LEAST_SCORE))
        boxes = boxes[boxes.kinds <= RED]
        certainty += float((boxes.scores**2 * areas(boxes.corners)).sum()) / (image.shape[0] * image.shape[1])
        found = found.beside(boxes)
    return Seen(certainty / len(places), _red_side(found[found.scores > SURE_SCORE]))


def _red_side(boxes: Boxes) -> float | None:
    """The median side of red cells; white cells stand in for them where there are few."""
    red, white = boxes.of_kind(RED).sides, boxes.of_kind(WHITE).sides / WHITE_TO_RED
    sides = red if len(red) >= ENOUGH_RED else np.concatenate([red, white])
    return float(np.median(sides)) if len(sides) else None


def _places(pixels: Pixels, seen_px: int) -> list[Rectangle]:
    """Squares of `seen_px` at most: the whole field where it fits, else those with the most contrast of a grid's."""
    height, width = pixels.size
    if seen_px >= max(height, width):
        return [(0, 0, width, height)]
    tops, lefts = (
        np.unique(np.linspace(0, max(side - seen_px, 0), N_PLACES).astype(int)).tolist() for side in (height, width)
    )
    places = [(left, top, min(left + seen_px, width), min(top + seen_px, height)) for top in tops for left in lefts]
    step = max(1, seen_px // 64)
    contrast = [float(pixels.read(place)[::step, ::step, 1].std()) for place in places]
    return [places[i] for i in np.argsort(contrast)[::-1][:N_SEEN]]
