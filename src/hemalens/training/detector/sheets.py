"""Fields to draw training windows from, each with the nuclei of its white cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemalens.datasets.fields.base import Field
from hemalens.errors import ImageError, one_line
from hemalens.files import large_array
from hemalens.imaging.boxes import KINDS, WHITE, Corners
from hemalens.imaging.nucleus import find_nucleus
from hemalens.imaging.reading import image_size, read_mask
from hemalens.progress import track
from hemalens.training.detector.windows import NUCLEUS_BIT, UNKNOWN_BIT, Sheet

AROUND = 0.08
"""What is seen around a white cell's box, as a share of its sides."""
LEAST_PX = 10
"""Side of a box below which no nucleus is looked for."""
NUCLEUS_SHARE = (0.08, 0.85)
"""Shares of the box between which a region counts as its nucleus."""
SMOOTHED = 1 / 300
"""Threads thinner than this share of the image's height are no part of a nucleus."""
NUCLEUS_VALUE = 192
"""Least value of a nucleus in a mask: 255 in masks of nuclei, beside 128 for cytoplasm and 0 for the rest."""
N_PLANES = 4
"""Bytes of a pixel: red, green, blue and the marks."""


@dataclass(frozen=True, slots=True)
class NucleusCounts:
    """White cells of the training fields: all, those with a nucleus, and those of these whose nucleus a mask gives."""

    n_white: int
    n_with_nucleus: int
    n_masked: int


def classical_marks(image: NDArray[np.uint8], cells: Corners) -> tuple[NDArray[np.uint8], int]:
    """The marks (H, W) by the classical rule in each white cell's box (n, 4), and in how many it found a nucleus.

    Within the box of a white cell of the training laboratory the rule finds the nucleus nearly always; where it finds none,
    the nucleus is unknown.
    """
    marks, n_found = np.zeros(image.shape[:2], np.uint8), 0
    for corners in cells:
        around = AROUND * (corners[2:] - corners[:2])
        left, top = np.round(corners[:2] - around).astype(int).clip(0)
        right, bottom = np.round(corners[2:] + around).astype(int).clip(0)
        place = (slice(top, bottom), slice(left, right))
        cell = image[place]
        found = find_nucleus(cell) if min(cell.shape[:2]) >= LEAST_PX else np.zeros(cell.shape[:2], bool)
        if found.size and NUCLEUS_SHARE[0] < found.mean() < NUCLEUS_SHARE[1]:
            marks[place] |= _smooth(found, image.shape[0]) * np.uint8(NUCLEUS_BIT)
            n_found += 1
        else:
            marks[place] |= np.uint8(UNKNOWN_BIT)
    return marks, n_found


def _smooth(mask: NDArray[np.bool_], height: int) -> NDArray[np.bool_]:
    """The mask without holes and threads."""
    filled = ndimage.binary_fill_holes(mask)
    opened: NDArray[np.bool_] = ndimage.binary_opening(filled, iterations=max(1, round(height * SMOOTHED)))
    return opened


def masked_marks(field: Field, cells: Corners, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], int]:
    """The marks (H, W) of a field by its mask of nuclei, and how many of the boxes (n, 4) hold a nucleus.

    Raises `ImageError` for an unreadable mask, and one of another size than the image, `shape` (H, W).
    """
    path = field.record.mask_path
    if path is None:
        raise ImageError(f"{one_line(field.record.name)} has no mask")
    mask = read_mask(path, page=field.record.page) >= NUCLEUS_VALUE
    if mask.shape != shape:
        raise ImageError(
            f"the mask {one_line(path)} is not of its field's size",
            expected=f"{shape[1]}x{shape[0]} px",
            got=f"{mask.shape[1]}x{mask.shape[0]} px",
        )
    inside = [tuple(slice(max(round(a), 0), max(round(b), 0)) for a, b in ((c[1], c[3]), (c[0], c[2]))) for c in cells]
    return mask * np.uint8(NUCLEUS_BIT), sum(bool(mask[place].any()) for place in inside)


@contextmanager
def with_remedy() -> Iterator[None]:
    """Add to an `ImageError` what can be done about it."""
    try:
        yield
    except ImageError as error:
        remedy = "Repair it, take it out of the training data, or use --drop-unreadable."
        raise ImageError(error.what, expected=error.expected, got=error.got, remedy=remedy) from error


def read_sheets(fields: Sequence[Field], scratch: Path) -> tuple[list[Sheet], NucleusCounts]:
    """All fields, with the nuclei of their masks, or those of the classical rule where a field has no mask.

    A pixel takes four bytes: 1,000 fields of 640x480 px take 1.2 GB. Beyond 1 GB the pixels lie in the file `scratch`,
    mapped to memory. Raises `ImageError` for the first unreadable field or mask.
    """
    with with_remedy():
        sizes = [image_size(field.record.path, page=field.record.page) for field in fields]
    ends = np.cumsum([0, *(N_PLANES * width * height for width, height in sizes)])
    pixels: NDArray[np.uint8] = large_array((int(ends[-1]),), np.uint8, scratch)
    sheets, n_found, n_masked = [], 0, 0
    with track("reading fields", len(fields)) as progress, with_remedy():
        for field, (width, height), start, end in zip(fields, sizes, ends[:-1], ends[1:], strict=True):
            planes = pixels[start:end]
            image = planes[: 3 * width * height].reshape(height, width, 3)
            marks = planes[3 * width * height :].reshape(height, width)
            image[:] = field.read()
            cells = field.boxes.of_kind(WHITE).corners
            if field.record.mask_path is None:
                marks[:], n = classical_marks(image, cells)
            else:
                marks[:], n = masked_marks(field, cells, (height, width))
                n_masked += n
            n_found += n
            sheets.append(Sheet(image, field.boxes, tuple(KINDS.index(kind) for kind in field.complete), marks))
            progress(1)
    n_white = sum(len(field.boxes.of_kind(WHITE)) for field in fields)
    return sheets, NucleusCounts(n_white, n_found, n_masked)
