"""Turned and mirrored copies at any angle, as augmentation writes them: candidates by amplitudes, proof by alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.alignment import SIDE_PX, Start, align, best_rotation, descriptor, polar_spectrum
from hemalens.datasets.nearest import nearest
from hemalens.datasets.relatives import Orientation, Relatives

MIN_SIDE_PX = 48
"""Images with a shorter side have too little detail to separate two cells of one type."""
MIN_SIMILARITY = 0.94
"""Correlation of the details of an aligned pair from which on it shows one cell; of two cells of one smear at most 0.93."""
_MIN_SHARED = 0.6
_MIN_CORRELATION = 0.75
N_NEIGHBOURS = 24
"""Images of the most similar amplitudes that each image is compared with."""
_N_ALIGNED = 4
_PAIRS, _ALIGNMENTS = 2000, 250
_LUMINANCE = np.array([0.2, 0.6, 0.2], np.float32)
_FILLED_BLACK, _FILLED_WHITE = 40, 250
"""Darker and brighter pixels fill a frame; no stained cell and no background has them."""


@dataclass(frozen=True, slots=True)
class View:
    """An image for the comparison: gray uint8 (SIDE_PX, SIDE_PX), the cell's centre, the spectrum around it."""

    gray: NDArray[np.uint8]
    centre: complex
    spectrum: NDArray[np.complex64]


def view(image: Image.Image) -> View | None:
    """Describe an RGB image; None for one without structure, or with a side below `MIN_SIDE_PX`."""
    side = min(image.size)
    if side < MIN_SIDE_PX:
        return None
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = _without_fill(np.asarray(square, np.float32))
    gray = pixels @ _LUMINANCE
    centre = _cell_centre(pixels[..., 1])
    spectrum = polar_spectrum(gray, centre)
    return View(gray.round().astype(np.uint8), centre, spectrum) if spectrum.any() else None


def _without_fill(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Black and white pixels, such as an augmentation fills corners with, become the median colour of the others."""
    filled = scipy.ndimage.binary_dilation((pixels.max(axis=2) < _FILLED_BLACK) | (pixels.min(axis=2) > _FILLED_WHITE))
    if filled.any() and not filled.all():
        pixels = np.where(filled[..., None], np.median(pixels[~filled], axis=0), pixels)
    return pixels


def _cell_centre(green: NDArray[np.float32]) -> complex:
    """Centre of the dark (stained) pixels near the middle, by mean shift; it moves with the cell."""
    weight = np.clip(np.quantile(green, 0.4) - green, 0, None)
    y, x = np.mgrid[: green.shape[0], : green.shape[1]]
    at = (green.shape[1] - 1) / 2 + 1j * (green.shape[0] - 1) / 2
    for width in 0.35 * SIDE_PX * np.maximum(0.9 ** np.arange(8), 0.7):
        near = weight * np.exp(-(np.abs(x + 1j * y - at) ** 2) / (2 * width**2))
        total = near.sum()
        if total < 1e-6:
            break
        at = complex((near * x).sum() / total, (near * y).sum() / total)
    return complex(at)


def join_turned_copies(
    views: Sequence[View | None], relatives: Relatives, progress: Callable[[int], None] = lambda n: None
) -> list[tuple[int, int, Orientation]]:
    """Join images that show one cell at any angle, mirrored or not, shifted or scaled by some 10 %.

    Returns the pairs (i, j, orientation of j against i) that joined two sets, the surest first. `progress` is called with
    numbers of images that add up to the number of views.
    """
    known = np.array([i for i, found in enumerate(views) if found is not None], np.int64)
    progress(len(views) - len(known))
    if len(known) < 2:
        progress(len(known))
        return []
    seen: list[View] = [found for found in views if found is not None]
    spectra = np.stack([found.spectrum for found in seen])
    pairs = _candidates(descriptor(spectra), progress)
    root = relatives.roots()
    pairs = pairs[root[known[pairs[:, 0]]] != root[known[pairs[:, 1]]]]
    pairs, start = _correlating(spectra, pairs)
    found = []
    for begin in range(0, len(pairs), _ALIGNMENTS):
        part = np.arange(begin, min(begin + _ALIGNMENTS, len(pairs)))
        apart = [relatives.root(int(known[i])) != relatives.root(int(known[j])) for i, j in pairs[part]]
        part = part[apart]
        if not len(part):
            continue
        first, second = ([seen[n] for n in pairs[part, side]] for side in (0, 1))
        stacks = [np.stack([each.gray for each in side]).astype(np.float32) for side in (first, second)]
        centres = [np.array([each.centre for each in side]) for side in (first, second)]
        begun = Start(start.correlation[part], start.mirrored[part], start.alpha[part])
        aligned = align(stacks[0], stacks[1], (centres[0], centres[1]), begun)
        same = (aligned.similarity >= MIN_SIMILARITY) & (aligned.shared >= _MIN_SHARED)
        for n in np.flatnonzero(same):
            i, j = (int(known[k]) for k in pairs[part[n]])
            turned = _orientation(bool(begun.mirrored[n]), complex(aligned.alpha[n]))
            if relatives.join(i, j, turned):
                found.append((i, j, turned))
    return found


def _candidates(amplitudes: NDArray[np.float32], progress: Callable[[int], None]) -> NDArray[np.int64]:
    """Pairs (k, 2), first < second, of which one is among the nearest of the other."""
    n = len(amplitudes)
    own, near = nearest(amplitudes, N_NEIGHBOURS, progress=progress)
    pairs = np.unique(np.minimum(own, near) * n + np.maximum(own, near))
    return np.stack([pairs // n, pairs % n], axis=1)


def _correlating(spectra: NDArray[np.complex64], pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], Start]:
    """The pairs among the few that correlate best for one of the two images, the best first, and their rotations."""
    parts = [
        best_rotation(spectra[pairs[start : start + _PAIRS, 0]], spectra[pairs[start : start + _PAIRS, 1]])
        for start in range(0, len(pairs), _PAIRS)
    ]
    if not parts:
        return pairs, Start(np.zeros(0), np.zeros(0, bool), np.zeros(0, complex))
    correlation, mirrored, alpha = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("correlation", "mirrored", "alpha")
    )
    left = np.full(len(spectra), _N_ALIGNED)
    kept = []
    for n in np.argsort(-correlation, kind="stable"):
        if correlation[n] < _MIN_CORRELATION:
            break
        i, j = pairs[n]
        if left[i] > 0 or left[j] > 0:
            kept.append(n)
            left[i] -= 1
            left[j] -= 1
    chosen = np.array(kept, np.int64)
    return pairs[chosen], Start(correlation[chosen], mirrored[chosen], alpha[chosen])


def _orientation(mirrored: bool, alpha: complex) -> Orientation:
    """Of z -> alpha * z, or alpha * conj(z), with y downwards: left-right mirror is -conj(z), counter-clockwise -angle."""
    turn = -alpha if mirrored else alpha
    return Orientation(mirrored, float(-np.degrees(np.angle(turn))) % 360)
