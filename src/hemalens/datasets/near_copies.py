"""Near-duplicates and their quarter turns: perceptual hashes of the eight orientations, confirmed by thumbnails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.hash_index import MAX_DISTANCE, Codes, HashIndex, Indices, packed, parts_of
from hemalens.datasets.relatives import Orientation, Relatives

HASH_SIDE = 8
MAX_HASH_DISTANCE = MAX_DISTANCE
"""Largest Hamming distance between the 64-bit perceptual hashes of a pair whose thumbnails are compared."""
THUMBNAIL_PX = 32
MAX_GRAY_DIFFERENCE = 4.0
"""A pair is a near-duplicate when its 32x32 thumbnails differ by at most this many gray levels on average."""
ORIENTATIONS = tuple(Orientation(mirrored, 90.0 * k) for mirrored in (False, True) for k in range(4))
_ROWS = 500
_PAIRS = 4000
_CANDIDATES = 1_000_000
_HASHED_PX = 32
"""Side to which an image is shrunk before its perceptual hash, as `imagehash.phash` does."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Perceptual hashes of the eight `ORIENTATIONS`, uint64 (8,), and the gray thumbnail, uint8 (32, 32)."""

    hashes: Codes
    gray: NDArray[np.uint8]


def turned(array: NDArray[np.generic], orientation: Orientation) -> NDArray[np.generic]:
    """The image (H, W, ...) in one of the eight `ORIENTATIONS`."""
    return np.rot90(array[:, ::-1] if orientation.mirrored else array, round(orientation.angle_deg / 90))


def thumbnail(image: Image.Image) -> Thumbnail:
    """Describe an RGB image."""
    small = np.asarray(image.convert("L").resize((_HASHED_PX, _HASHED_PX), Image.Resampling.LANCZOS))
    gray = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX).convert("L")
    return Thumbnail(perceptual_hashes(np.stack([turned(small, o) for o in ORIENTATIONS])), np.asarray(gray))


def perceptual_hashes(grays: NDArray[np.generic]) -> Codes:
    """Hashes (n,) of gray images (n, 32, 32): which of the lowest 8 x 8 cosine frequencies lie above their median."""
    frequencies = scipy.fft.dct(scipy.fft.dct(grays.astype(np.float64), axis=1), axis=2)[:, :HASH_SIDE, :HASH_SIDE]
    flat = frequencies.reshape(len(grays), -1)
    return packed(flat > np.median(flat, axis=1)[:, None])


def join_near_copies(looks: Sequence[Thumbnail], relatives: Relatives) -> list[tuple[int, int, Orientation, float]]:
    """Join near-duplicates and near-duplicates in a quarter turn; return what joined each set, as few pairs as suffice.

    A pair is (i, j, orientation of j against i, mean difference in gray levels), i < j. Upright pairs come first.
    """
    if len(looks) < 2:
        return []
    codes = np.stack([look.hashes for look in looks], axis=1)  # (8, n)
    grays = np.stack([look.gray for look in looks])
    means = grays.mean(axis=(1, 2))
    index = HashIndex(codes[0])
    found = []
    for k, orientation in enumerate(ORIENTATIONS):
        for start in range(0, len(looks), _ROWS):
            for i, j in _candidates(index, codes[k, start : start + _ROWS], start, relatives):
                # a turn leaves the mean as it is, and means differ by no more than pixels do
                near = (j > i) & (np.abs(means[i] - means[j]) <= MAX_GRAY_DIFFERENCE + 1e-3)
                found += _confirmed(i[near], j[near], orientation, grays, relatives)
    return found


def _candidates(index: HashIndex, codes: Codes, start: int, relatives: Relatives) -> Iterator[tuple[Indices, Indices]]:
    """Pairs (i, j) of near hashes in order, i from `start` on.

    Where there are many, images with one hash that are one set already are passed over for the images of that set.
    """
    of, entries = index.near(codes)
    counts = np.bincount(of, weights=index.sizes(entries), minlength=len(codes)).astype(np.int64)
    ends = np.searchsorted(of, np.arange(len(codes)), side="right")
    n_sets, roots = -1, np.zeros(0, np.int64)
    for rows in parts_of(counts, _CANDIDATES):
        part = slice(ends[rows.start - 1] if rows.start else 0, ends[rows.stop - 1])
        if counts.sum() > _CANDIDATES and relatives.n_sets != n_sets:
            n_sets, roots = relatives.n_sets, relatives.roots()
        apart = index.common(roots)[entries[part]] != roots[of[part] + start] if len(roots) else slice(None)
        yield _pairs(index, of[part][apart], entries[part][apart], start)


def _pairs(index: HashIndex, of: Indices, entries: Indices, start: int) -> tuple[Indices, Indices]:
    i, j = np.repeat(of, index.sizes(entries)) + start, index.members(entries)
    order = np.lexsort((j, i))
    return i[order], j[order]


def _confirmed(
    i: Indices, j: Indices, orientation: Orientation, grays: NDArray[np.uint8], relatives: Relatives
) -> list[tuple[int, int, Orientation, float]]:
    """Join the pairs whose thumbnails are alike; pairs of one set are passed over, so that memory stays flat."""
    found = []
    while len(i):
        a, b = i[:_PAIRS], j[:_PAIRS]
        i, j = i[_PAIRS:], j[_PAIRS:]
        first = np.stack([turned(grays[n], orientation) for n in a]).astype(np.float32)
        difference = np.abs(first - grays[b]).mean(axis=(1, 2))
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
