"""Fields in memory for the training of a detector, each with the nuclei of its white cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemalens.datasets.fields.base import Field, FieldDataset
from hemalens.errors import ImageError
from hemalens.imaging.boxes import KINDS, WHITE
from hemalens.imaging.nucleus import find_nucleus
from hemalens.progress import track
from hemalens.training.detector.windows import Sheet

AROUND = 0.08
"""What is seen around a white cell's box, as a share of its sides."""
LEAST_PX = 10
"""Side of a box below which no nucleus is looked for."""
NUCLEUS_SHARE = (0.08, 0.85)
"""Shares of the box between which a region counts as its nucleus."""
SMOOTHED = 1 / 300
"""Threads thinner than this share of the image's height are no part of a nucleus."""


def sheet_of(field: Field) -> Sheet:
    """A field, read, with the nucleus that the classical rule finds within the box of each white cell.

    Within the box of a white cell of the training laboratory the rule finds the nucleus nearly always; where it finds none,
    the nucleus is unknown. Raises `ImageError`.
    """
    image = field.read()
    nucleus, unknown = np.zeros(image.shape[:2], bool), np.zeros(image.shape[:2], bool)
    for corners in field.boxes.of_kind(WHITE).corners:
        around = AROUND * (corners[2:] - corners[:2])
        left, top = np.round(corners[:2] - around).astype(int).clip(0)
        right, bottom = np.round(corners[2:] + around).astype(int)
        place = (slice(top, bottom), slice(left, right))
        cell = image[place]
        found = find_nucleus(cell) if min(cell.shape[:2]) >= LEAST_PX else np.zeros(cell.shape[:2], bool)
        if found.size and NUCLEUS_SHARE[0] < found.mean() < NUCLEUS_SHARE[1]:
            nucleus[place] |= _smooth(found, image.shape[0])
        else:
            unknown[place] = True
    complete = tuple(KINDS.index(kind) for kind in field.complete)
    return Sheet(image, field.boxes, complete, nucleus, unknown)


def _smooth(mask: NDArray[np.bool_], height: int) -> NDArray[np.bool_]:
    """The mask without holes and threads."""
    filled = ndimage.binary_fill_holes(mask)
    opened: NDArray[np.bool_] = ndimage.binary_opening(filled, iterations=max(1, round(height * SMOOTHED)))
    return opened


def read_sheets(dataset: FieldDataset) -> list[Sheet]:
    """All fields of a dataset in memory; raises `ImageError` for the first unreadable one."""
    sheets = []
    with track("reading fields", len(dataset)) as progress:
        for field in dataset.fields:
            try:
                sheets.append(sheet_of(field))
            except ImageError as error:
                raise ImageError(f"{error}", remedy="Take it out of the training data.") from error
            progress(1)
    return sheets
