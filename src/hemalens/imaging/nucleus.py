"""Find the white cell's nucleus by its stain, without trained weights, and measure its spread.

The absorbance of each colour channel against the background removes the effect of lamp and camera. Chromatin
absorbs red and green more than blue, haemoglobin blue and green but hardly any red. The nucleus is the most
chromatin-like region near the centre, with lobes that are close and stained alike.

It serves where no detector can: in the classical segmenter, and as the teacher of the detector's nuclei. The window around
a cell comes from the detector (`detection.single_cell`), which is right in more stains (benchmarks/finding.py).

Weights and thresholds were chosen on every fourth image of the two sets of Zheng et al. (Micron 107, 2018) and on
synthetic cells; the other images of those sets were not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
import skimage
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]
Plane = NDArray[np.float64]

_WORK_PX = 120
"""Longer side of the reduced copy in which nucleus and outline are found."""
_SMOOTHING_PX = 1.0
"""Gaussian on the reduced copy: smaller than any nucleus, larger than sensor noise."""

# A chromatin signal is in natural absorbance units; gaps are in radii of a disk of the main region's area.
CHROMATIN = np.array([1.0, 1.0, -1.0])
"""Weights of the absorbances of red, green and blue in the chromatin signal."""
_MIN_CHROMATIN = 0.08
"""Smallest chromatin signal of a nucleus."""
_MIN_NUCLEUS_SHARE = 0.001
"""Smallest share of the image that counts as a nucleus; a platelet in a wide field covers about 0.004."""
_N_SPLITS = 2
_SPLIT_RATIO = 2.4
"""A second threshold counts where the stain above it is this many times the stain below: nuclei over red cells."""
_CENTRE_SIGMA = 0.15
"""How near the centre the nucleus is expected, as a share of the image's mean side."""
_LOBE_SHARE, _LOBE_STAIN, _LOBE_GAP = 0.1, 0.75, 1.2
"""Least area and least stain of a lobe as shares of the main region's, and its largest gap to that."""
_NEIGHBOUR_GAP = 2.5
"""Gap beyond which a nucleus belongs to a neighbour."""
_NOISE_CORRELATION = 0.5
"""Correlation of neighbouring pixels below which an image is noise; the least of 500 photographs of cells is 0.95."""
_FLAT = 1e-6
"""Range of values within rounding errors."""
EIGHT = np.ones((3, 3), bool)
"""Neighbourhood in which diagonal pixels touch."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Where a mask lies and how large it is, in px; pixel (0, 0) has its centre at (0, 0)."""

    row: float
    column: float
    diameter: float
    """Of a disk with the mask's root-mean-square distance from its centre."""


def find_nucleus(image: NDArray[np.uint8]) -> Mask:
    """The nucleus of the white cell near the centre of a single-cell image, uint8 (H, W, 3) -> (H, W), with its lobes.

    Deterministic, for any Romanowsky stain and scale; all False where no nucleus is found.
    """
    height, width = image.shape[:2]
    seed, _ = central_nucleus(absorbance_of(reduced(image)[0]) @ CHROMATIN)
    if seed.shape == (height, width):
        return seed
    share = Image.fromarray(seed.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(share) > 0.5


def is_noise(image: NDArray[np.uint8]) -> bool:
    """Whether no channel of an image, uint8 (H, W, 3), shows anything: neighbouring pixels are independent."""
    values = np.ascontiguousarray(reduced(image)[0].transpose(2, 0, 1), np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    variance = _mean_product(values, values)
    if (variance < _FLAT).all():
        return False
    down, across = _mean_product(values[:, 1:], values[:, :-1]), _mean_product(values[..., 1:], values[..., :-1])
    correlation = (down + across) / 2 / variance.clip(_FLAT)
    return bool(correlation.max() < _NOISE_CORRELATION)


def _mean_product(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the products of two stacks (c, h, w) of planes, (c,)."""
    products: NDArray[np.float32] = (first * second).mean(axis=(1, 2))
    return products


def spread(mask: Mask) -> Spread:
    """Centre and diameter of a mask (H, W) that is not empty, from the variances of its rows and columns.

    For a disk it is the diameter. Unlike the bounding box it does not depend on rotation, and unlike the area it includes
    the gaps between lobes.
    """
    (row, down), (column, across) = (_moments(np.count_nonzero(mask, axis=axis)) for axis in (1, 0))
    return Spread(row, column, 2 * float(np.sqrt(2 * (down + across))))


def _moments(counts: NDArray[np.intp]) -> tuple[float, float]:
    """Mean and variance of the indices, weighted by `counts`."""
    place = np.arange(len(counts))
    mean = float(np.average(place, weights=counts))
    return mean, float(np.average((place - mean) ** 2, weights=counts))


def reduced(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """A copy of the image of at most 120 px on its longer side, and its scale; a smaller image is unchanged."""
    height, width = image.shape[:2]
    scale = min(1.0, _WORK_PX / max(height, width))
    if scale == 1:
        return image, scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)), scale


def otsu(values: Plane) -> float:
    """Otsu's threshold, or the maximum where the values hardly differ."""
    return float(skimage.filters.threshold_otsu(values)) if np.ptp(values) > _FLAT else float(values.max())


def absorbance_of(image: NDArray[np.uint8]) -> Plane:
    """Natural absorbance of each channel against the background, (h, w, 3), at least 0.

    The background is the most frequent green value above the Otsu threshold: everything stained absorbs green.
    """
    smooth = scipy.ndimage.gaussian_filter(image.astype(float), (_SMOOTHING_PX, _SMOOTHING_PX, 0))
    green = smooth[..., 1]
    counts, edges = np.histogram(green[green >= otsu(green)], 64, (0, 256))
    mode = edges[int(np.argmax(counts))]
    field = np.median(smooth[(green >= mode - 2) & (green <= mode + 6)], axis=0)
    found: Plane = np.log((field + 1) / (smooth + 1)).clip(0)
    return found


@dataclass(frozen=True, slots=True)
class _Regions:
    """Strongly stained regions, numbered in `labels` (h, w) from 1: which are parts of the central nucleus, (n,) each."""

    labels: NDArray[np.int32]
    areas: NDArray[np.intp]
    own: Mask
    """The region nearest the centre, and its lobes."""
    alike: Mask
    """Stained as it is, and no speck beside it."""
    apart: Mask
    """At the image's border, or far from it."""

    def mask(self, chosen: Mask) -> Mask:
        """The pixels of the chosen regions, (h, w)."""
        return np.isin(self.labels, 1 + np.flatnonzero(chosen))


def central_nucleus(chromatin: Plane) -> tuple[Mask, Mask]:
    """(the strongly stained region nearest the centre with its lobes, the other such regions), (h, w) each.

    The first is empty where no region is stained strongly.
    """
    regions = _regions(chromatin)
    if regions is None:
        nothing = np.zeros(chromatin.shape, bool)
        return nothing, nothing
    return regions.mask(regions.own), regions.mask(regions.alike & regions.apart & ~regions.own)


def _regions(chromatin: Plane) -> _Regions | None:
    """The strongly stained regions of a chromatin signal (h, w); None where no region is a nucleus."""
    labels, n_labels = scipy.ndimage.label(chromatin > _chromatin_threshold(chromatin), EIGHT)
    if n_labels == 0:
        return None
    rows, columns = np.indices(chromatin.shape)
    height, width = chromatin.shape
    distance = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2) / (_CENTRE_SIGMA * (height + width) / 2)
    index = np.arange(1, n_labels + 1)
    areas = np.bincount(labels.ravel())[1:]
    scores = scipy.ndimage.sum_labels(chromatin * np.exp(-(distance**2) / 2), labels, index)
    scores[areas < _MIN_NUCLEUS_SHARE * labels.size] = 0
    best = int(np.argmax(scores))
    if scores[best] <= 0:
        return None
    main = labels == index[best]
    gap = scipy.ndimage.minimum(scipy.ndimage.distance_transform_edt(~main), labels, index)
    large = areas >= _LOBE_SHARE * areas[best]
    alike = large & (scipy.ndimage.mean(chromatin, labels, index) > _LOBE_STAIN * chromatin[main].mean())
    # a region at the border belongs to a neighbour
    cut = np.isin(index, np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    gap = gap / np.sqrt(areas[best] / np.pi)
    own = (gap < _LOBE_GAP) & alike & ~cut
    own[best] = True
    return _Regions(labels, areas, own, alike, cut | (gap > _NEIGHBOUR_GAP))


def _chromatin_threshold(chromatin: Plane) -> float:
    """Otsu's threshold, raised to that of the pixels above it where those hold red cells besides a nucleus."""
    threshold, values = _MIN_CHROMATIN, chromatin.ravel()
    for i in range(_N_SPLITS):
        split = otsu(values)
        above, below = values[values > split], values[values <= split]
        few = above.size <= _MIN_NUCLEUS_SHARE * chromatin.size
        if few or (i > 0 and above.mean() < _SPLIT_RATIO * below.mean()):
            break
        threshold, values = max(split, _MIN_CHROMATIN), above
    return threshold
