"""Relatives: images that show one cell, and how each is turned and mirrored against the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """Mirrored left to right or not, and then turned counter-clockwise by `angle_deg`."""

    mirrored: bool = False
    angle_deg: float = 0.0

    def then(self, later: Orientation) -> Orientation:
        """Both, `later` second."""
        turned = later.angle_deg + (-self.angle_deg if later.mirrored else self.angle_deg)
        return Orientation(self.mirrored != later.mirrored, turned % 360)

    def inverse(self) -> Orientation:
        """The orientation that takes this one back."""
        return Orientation(self.mirrored, (self.angle_deg if self.mirrored else -self.angle_deg) % 360)

    def __str__(self) -> str:
        angle = round(self.angle_deg) % 360
        parts = ["mirrored"] * self.mirrored + [f"turned by {angle} degrees"] * (angle != 0)
        return " and ".join(parts) or "not turned"


UPRIGHT = Orientation()


class Relatives:
    """Sets of related images, 0 to n - 1, joined pair by pair; each knows its orientation against its set's root.

    `n_sets` counts the sets, those of one image included.
    """

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))
        self._turned = [UPRIGHT] * n
        self.n_sets = n

    def root(self, i: int) -> int:
        """The image that stands for the set of image `i`."""
        path = []
        while self._parent[i] != i:
            path.append(i)
            i = self._parent[i]
        # from the root outwards: each parent's orientation is against the root by then
        for child in reversed(path):
            parent = self._parent[child]
            if parent != i:
                self._turned[child] = self._turned[parent].then(self._turned[child])
                self._parent[child] = i
        return i

    def orientation(self, i: int, reference: int) -> Orientation:
        """How image `i` is turned against `reference`, an image of the same set."""
        self.root(i)
        self.root(reference)
        from_root = (self._turned[image] if self._parent[image] != image else UPRIGHT for image in (reference, i))
        back, there = from_root
        return back.inverse().then(there)

    def join(self, i: int, j: int, turned: Orientation = UPRIGHT) -> bool:
        """Join the sets of `i` and `j`, which is `i` turned; False where they are one set already."""
        first, second = self.root(i), self.root(j)
        if first == second:
            return False
        of_i = self._turned[i] if i != first else UPRIGHT
        of_j = self._turned[j] if j != second else UPRIGHT
        # the smaller index stands for the set
        second_against_first = of_i.then(turned).then(of_j.inverse())
        if first > second:
            first, second, second_against_first = second, first, second_against_first.inverse()
        self._parent[second], self._turned[second] = first, second_against_first
        self.n_sets -= 1
        return True

    def roots(self) -> NDArray[np.int64]:
        """The root of every image, (n,)."""
        return np.array([self.root(i) for i in range(len(self._parent))], np.int64)

    def sets(self, of: Sequence[int] | None = None) -> list[list[int]]:
        """The sets of at least two images, in order; `of` restricts them to these images."""
        members: dict[int, list[int]] = defaultdict(list)
        for i in range(len(self._parent)) if of is None else sorted(of):
            members[self.root(i)].append(i)
        return [found for found in members.values() if len(found) > 1]
