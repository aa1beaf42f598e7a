"""The pixels of a field, read in rectangles: an array in memory, or any other thing that has the same two members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
