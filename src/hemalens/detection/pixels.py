"""The pixels of a field, read in rectangles: an array in memory, or any other thing that has the same two members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hemalens.imaging.boxes import rectangle_around
from hemalens.imaging.reading import read_image
from hemalens.imaging.scans import Scan, is_scan

Rectangle = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""


class Pixels(Protocol):
    """A field whose pixels are read in rectangles, so that a large one never lies in memory as a whole."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def read(self, rectangle: Rectangle) -> NDArray[np.uint8]:
        """The pixels of a rectangle inside the field, uint8 (h, w, 3)."""


@dataclass(frozen=True, slots=True)
class ArrayPixels:
    """A field in memory, uint8 (H, W, 3)."""

    image: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def read(self, rectangle: Rectangle) -> NDArray[np.uint8]:
        """The pixels of a rectangle, a view."""
        left, top, right, bottom = rectangle
        return self.image[top:bottom, left:right]


@contextmanager
def open_pixels(path: Path, *, page: int | None = None, bits: int | None = None) -> Iterator[Pixels]:
    """A field by its file: in memory up to 64 million pixels, a larger TIFF tile by tile; raises `ImageError`.

    `page` and `bits` as in `read_image`.
    """
    if is_scan(path, page=page):
        with Scan(path, page=page) as scan:
            yield scan
    else:
        yield ArrayPixels(read_image(path, page=page, bits=bits))


def cut_out(pixels: Pixels, corners: Sequence[float], around: float) -> NDArray[np.uint8]:
    """The square around a box, of `around` times its longer side, cut at the border of the field."""
    return np.ascontiguousarray(pixels.read(rectangle_around(pixels.size, corners, around)))
