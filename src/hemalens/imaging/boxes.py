"""Boxes of the cells in a field: kinds, corners, scores, and how boxes overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["white cell", "red cell", "platelet"]
"""What is looked for in a field. A nucleated red cell is boxed as a white cell, and told apart by the classifier."""
KINDS: tuple[Kind, ...] = get_args(Kind)
WHITE, RED, PLATELET = range(len(KINDS))
"""Indices into `KINDS`."""
AROUND_CELL = 2.5
"""Side of the window in which a white cell of a field is classified, in longer sides of its box."""
Corners = NDArray[np.float64]
"""(n, 4): left, top, right, bottom in pixels of the image; pixel (0, 0) reaches from 0 to 1."""


def _no_corners() -> Corners:
    return np.zeros((0, 4))


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of a field, n of them: `kinds` (n,) index `KINDS`; `scores` (n,) in [0, 1] are 1 for annotations."""

    kinds: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    corners: Corners = field(default_factory=_no_corners)
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, kinds: Sequence[int], corners: Sequence[Sequence[float]], scores: Sequence[float] | None = None) -> Boxes:
        """Boxes from sequences; without scores they are annotations."""
        given = np.ones(len(kinds)) if scores is None else np.asarray(scores, float)
        return cls(np.asarray(kinds, np.int64).reshape(-1), np.asarray(corners, float).reshape(-1, 4), given.reshape(-1))

    @classmethod
    def joined(cls, parts: Iterable[Boxes]) -> Boxes:
        """The boxes of all parts, in their order."""
        given = [cls(), *parts]
        return cls(
            np.concatenate([each.kinds for each in given]),
            np.concatenate([each.corners for each in given]),
            np.concatenate([each.scores for each in given]),
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.int64] | Sequence[int]) -> Boxes:
        index = np.asarray(chosen) if len(chosen) else np.zeros(0, np.int64)
        return Boxes(self.kinds[index], self.corners[index], self.scores[index])

    def of_kind(self, kind: int) -> Boxes:
        """The boxes of one kind, an index into `KINDS`."""
        return self[self.kinds == kind]

    @property
    def centres(self) -> NDArray[np.float64]:
        """(n, 2): x and y."""
        return (self.corners[:, :2] + self.corners[:, 2:]) / 2

    @property
    def sides(self) -> NDArray[np.float64]:
        """(n,): the longer side of each."""
        sides: NDArray[np.float64] = (self.corners[:, 2:] - self.corners[:, :2]).max(axis=1, initial=0.0)
        return sides

    def moved(self, x: float, y: float, *, scale: float = 1.0) -> Boxes:
        """Corners times `scale`, then moved by (x, y)."""
        return Boxes(self.kinds, self.corners * scale + [x, y, x, y], self.scores)

    def beside(self, others: Boxes) -> Boxes:
        """These boxes, then the others."""
        return Boxes.joined([self, others])


def areas(corners: Corners) -> NDArray[np.float64]:
    """Areas (n,) of boxes (n, 4)."""
    sides = (corners[:, 2:] - corners[:, :2]).clip(0)
    found: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return found


def overlaps(first: Corners, second: Corners) -> NDArray[np.float64]:
    """Intersection over union (n, m) of boxes (n, 4) with boxes (m, 4)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    whole = areas(first)[:, None] + areas(second)[None] - shared
    found: NDArray[np.float64] = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return found


def without_doubles(boxes: Boxes, *, overlap: float = 0.5) -> Boxes:
    """Each cell once, highest score first: a box that overlaps one of its kind with a higher score is left out.

    Non-maximum suppression; `overlap` is the largest intersection over union that two cells may have.
    """
    order = np.argsort(-boxes.scores, kind="stable")
    apart = overlaps(boxes.corners[order], boxes.corners[order]) > overlap
    apart &= boxes.kinds[order][:, None] == boxes.kinds[order][None]
    kept: list[int] = []
    for i in range(len(order)):
        if not apart[i, kept].any():
            kept.append(i)
    return boxes[order[kept]] if kept else Boxes()


def rectangle_around(size: tuple[int, ...], corners: Sequence[float], around: float) -> tuple[int, int, int, int]:
    """The left, top, right and bottom of the square around a box in an image of `size` (height, width), cut at its border.

    It has `around` times the longer side of the box, and at least 16 pixels; right and bottom are exclusive.
    """
    left, top, right, bottom = corners
    half = max(around * max(right - left, bottom - top) / 2, 8.0)
    x, y = (left + right) / 2, (top + bottom) / 2
    height, width = size
    # at least 16 pixels, within the image
    x_min, y_min = (int(min(max(centre - half, 0), max(limit - 16, 0))) for centre, limit in ((x, width), (y, height)))
    x_max, y_max = int(np.ceil(min(x + half, width))), int(np.ceil(min(y + half, height)))
    return x_min, y_min, min(max(x_max, x_min + 16), width), min(max(y_max, y_min + 16), height)
