"""Square windows of fields: place, magnification and orientation drawn, boxes and nuclei with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.detection.maps import STRIDE
from hemalens.imaging.boxes import PLATELET, WHITE, Boxes

WHITE_SIDES = (0.094, 0.677)
"""Range of the white cells' side in a window, as a share of its side: 18 to 130 px of 192."""
RED_TO_WHITE = 1.5
"""Side of a white cell over that of the other cells, where a field has no white one."""
LARGEST_ZOOM = 6.0
AT_WHITE_CELL, AT_PLATELET = 0.6, 0.15
"""Shares of the windows near a white cell and near a platelet: large platelets are what is taken for white cells."""
WITHIN_FIELD, LIKE_RIM = 0.6, 0.7
"""Shares of the windows that are moved into the field, and filled with the field's own colour outside it."""
NUCLEUS_BIT, UNKNOWN_BIT = 1, 2
"""Bits of a sheet's marks."""
Plane = TypeVar("Plane", np.uint8, np.float32, np.bool_)
REACH = 0.45
"""How far such a cell lies off the window's middle, at most, as a share of the side."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A field to draw windows from: image uint8 (H, W, 3), its boxes, and which kinds are complete.

    `marks` uint8 (H, W) has the bits `NUCLEUS_BIT`, and `UNKNOWN_BIT` where it is unknown whether there is a nucleus.
    """

    image: NDArray[np.uint8]
    boxes: Boxes
    complete: tuple[int, ...]
    marks: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a field: image uint8 (side, side, 3), boxes in its pixels; nuclei and unknown places at a quarter.

    `nucleus` (q, q) in [0, 1] is the share of a place that is nucleus, `unknown` bool (q, q).
    """

    image: NDArray[np.uint8]
    boxes: Boxes
    complete: tuple[int, ...]
    nucleus: NDArray[np.float32]
    unknown: NDArray[np.bool_]


def drawn_window(sheet: Sheet, side: int, rng: np.random.Generator) -> Window:
    """A window of the field at a magnification and place drawn by `rng`, turned by quarters and flipped."""
    height, width = sheet.image.shape[:2]
    sides = sheet.boxes.sides
    white = sheet.boxes.of_kind(WHITE)
    typical = (
        float(np.median(white.sides)) if len(white) else RED_TO_WHITE * float(np.median(sides)) if len(sides) else 90.0
    )
    wanted = math.exp(rng.uniform(*np.log(WHITE_SIDES))) * side
    scale = min(max(wanted / max(typical, 1.0), side / (max(height, width) * 1.5)), LARGEST_ZOOM)
    across = side / scale
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    where = rng.random()
    kind = WHITE if where < AT_WHITE_CELL else PLATELET if where < AT_WHITE_CELL + AT_PLATELET else None
    near = Boxes() if kind is None else sheet.boxes.of_kind(kind)
    if len(near):
        x, y = near.centres[rng.integers(len(near))] + rng.uniform(-REACH, REACH, 2) * across
    if rng.random() < WITHIN_FIELD:
        x, y = _moved_in(x, across, width), _moved_in(y, across, height)
    n = max(STRIDE, math.ceil(across))
    window = _cut(sheet, (math.floor(y - across / 2), math.floor(x - across / 2)), n, side, rng)
    return _turned(window, int(rng.integers(4)), flip=bool(rng.random() < 0.5))


def _moved_in(centre: float, across: float, limit: int) -> float:
    return min(max(centre, across / 2), max(limit - across / 2, across / 2))


def _cut(sheet: Sheet, start: tuple[int, int], n: int, side: int, rng: np.random.Generator) -> Window:
    """The square of `n` pixels from (row, column) `start` on, at `side` pixels."""
    image = sheet.image
    colour = np.median(image[::8, ::8].reshape(-1, 3), axis=0) if rng.random() < LIKE_RIM else rng.choice([0, 255])
    canvas = np.empty((n, n, 3), np.uint8)
    canvas[:] = np.asarray(colour, np.uint8)
    marks = np.zeros((2, n, n), np.uint8)
    within, inside = [], []
    for first, limit in zip(start, image.shape[:2], strict=True):
        low, high = max(first, 0), max(min(first + n, limit), 0)
        within.append(slice(low, max(low, high)))
        inside.append(slice(low - first, max(low, high) - first))
    place, taken = tuple(inside), tuple(within)
    canvas[place] = image[taken]
    for mark, bit in zip(marks, (NUCLEUS_BIT, UNKNOWN_BIT), strict=True):
        mark[place] = (sheet.marks[taken] & bit > 0) * np.uint8(255)
    q, scale = side // STRIDE, side / n
    nucleus, unknown = (_shrunk(mark, q) for mark in marks)
    boxes = sheet.boxes.moved(-start[1], -start[0])
    boxes = boxes.moved(0, 0, scale=scale)
    corners = boxes.corners
    seen = (corners[:, 2] > 0) & (corners[:, 3] > 0) & (corners[:, 0] < side) & (corners[:, 1] < side)
    shown = np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BILINEAR))
    return Window(shown, boxes[seen], sheet.complete, nucleus, unknown > 0)


def _shrunk(mark: NDArray[np.uint8], q: int) -> NDArray[np.float32]:
    """The mean of a mark, 0 or 255, over each place of the map (q, q), in [0, 1]."""
    means = np.asarray(Image.fromarray(mark).resize((q, q), Image.Resampling.BOX), np.float32)
    return means / np.float32(255)


def _turned(window: Window, quarters: int, *, flip: bool) -> Window:
    """The window turned counterclockwise by quarters, then flipped left to right."""
    side, corners = window.image.shape[0], window.boxes.corners
    for _ in range(quarters):
        left, top, right, bottom = corners.T
        corners = np.stack([top, side - right, bottom, side - left], axis=1)
    if flip:
        left, top, right, bottom = corners.T
        corners = np.stack([side - right, top, side - left, bottom], axis=1)

    def turned(plane: NDArray[Plane]) -> NDArray[Plane]:
        way = np.rot90(plane, quarters)
        return np.ascontiguousarray(way[:, ::-1] if flip else way)

    return Window(
        turned(window.image),
        replace(window.boxes, corners=corners),
        window.complete,
        turned(window.nucleus),
        turned(window.unknown),
    )
