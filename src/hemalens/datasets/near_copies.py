"""Near-duplicates and their quarter turns: perceptual hashes of the eight orientations, confirmed by thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.relatives import Orientation, Relatives

HASH_SIDE = 8
MAX_HASH_DISTANCE = 6
"""Largest Hamming distance between the 64-bit perceptual hashes of a pair whose thumbnails are compared."""
THUMBNAIL_PX = 32
MAX_GRAY_DIFFERENCE = 4.0
"""A pair is a near-duplicate when its 32x32 thumbnails differ by at most this many gray levels on average."""
ORIENTATIONS = tuple(Orientation(mirrored, 90.0 * k) for mirrored in (False, True) for k in range(4))
_ROWS = 500
_PAIRS = 4000
_HASHED_PX = 32
"""Side to which `imagehash.phash` shrinks an image."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Perceptual hashes of the eight `ORIENTATIONS`, bool (8, 64), and the gray thumbnail, float32 (32, 32)."""

    hashes: NDArray[np.bool_]
    gray: NDArray[np.float32]


def turned(array: NDArray[np.generic], orientation: Orientation) -> NDArray[np.generic]:
    """The image (H, W, ...) in one of the eight `ORIENTATIONS`."""
    return np.rot90(array[:, ::-1] if orientation.mirrored else array, round(orientation.angle_deg / 90))


def thumbnail(image: Image.Image) -> Thumbnail:
    """Describe an RGB image."""
    import imagehash

    small = np.asarray(image.convert("L").resize((_HASHED_PX, _HASHED_PX), Image.Resampling.LANCZOS))
    hashes = [
        np.asarray(imagehash.phash(Image.fromarray(np.ascontiguousarray(turned(small, o))), hash_size=HASH_SIDE).hash)
        for o in ORIENTATIONS
    ]
    gray = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX).convert("L")
    return Thumbnail(np.stack(hashes).reshape(len(ORIENTATIONS), -1), np.asarray(gray, np.float32))


def join_near_copies(looks: Sequence[Thumbnail], relatives: Relatives) -> list[tuple[int, int, Orientation, float]]:
    """Join near-duplicates and near-duplicates in a quarter turn; return what joined each set, as few pairs as suffice.

    A pair is (i, j, orientation of j against i, mean difference in gray levels), i < j. Upright pairs come first.
    """
    if len(looks) < 2:
        return []
    bits = np.stack([look.hashes for look in looks], axis=1).astype(np.float32)  # (8, n, 64)
    found = []
    for k, orientation in enumerate(ORIENTATIONS):
        for start in range(0, len(looks), _ROWS):
            part, others = bits[k, start : start + _ROWS], bits[0, start:]
            # Hamming distance of 0/1 rows by one matrix product: |a - b| = a + b - 2ab
            distance = part.sum(axis=1)[:, None] + others.sum(axis=1)[None, :] - 2 * part @ others.T
            i, j = np.nonzero(distance <= MAX_HASH_DISTANCE)
            later = j > i
            found += _confirmed(i[later] + start, j[later] + start, orientation, looks, relatives)
    return found


def _confirmed(
    i: NDArray[np.int64], j: NDArray[np.int64], orientation: Orientation, looks: Sequence[Thumbnail], relatives: Relatives
) -> list[tuple[int, int, Orientation, float]]:
    """Join the pairs whose thumbnails are alike; pairs of one set are passed over, so that memory stays flat."""
    found = []
    while len(i):
        a, b = i[:_PAIRS], j[:_PAIRS]
        i, j = i[_PAIRS:], j[_PAIRS:]
        first = np.stack([turned(looks[n].gray, orientation) for n in a])
        difference = np.abs(first - np.stack([looks[n].gray for n in b])).mean(axis=(1, 2))
        joined = False
        for n in np.flatnonzero(difference <= MAX_GRAY_DIFFERENCE):
            if relatives.join(int(a[n]), int(b[n]), orientation):
                found.append((int(a[n]), int(b[n]), orientation, round(float(difference[n]), 2)))
                joined = True
        if joined and len(i):
            root = relatives.roots()
            apart = root[i] != root[j]
            i, j = i[apart], j[apart]
    return found
