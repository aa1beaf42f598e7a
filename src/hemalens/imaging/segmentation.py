"""Stain-based segmentation of the white cell without trained weights, mask agreement, and the masked cell image.

The segmentation works for every Romanowsky stain. It finds the nucleus (`nucleus`), and compares each pixel's colour with
two histograms from the image itself, near the nucleus and far from it. The outline is the closed curve around the nucleus
with the most evidence for the cell inside, along strong edges and without sharp bends.

Published matrices for stain deconvolution are for haematoxylin and eosin in tissue. A Romanowsky stain has no fixed
vectors, since azure and eosin bind together and their ratio differs by laboratory.

Weights and thresholds were chosen on every fourth image of the two sets of Zheng et al. (Micron 107, 2018) and on
synthetic cells; the other images of those sets were not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.errors import ImageError, InputError
from hemalens.imaging.nucleus import CHROMATIN, EIGHT, Mask, Plane, absorbance_of, central_nucleus, otsu, reduced, spread

CellFound = Literal["found", "doubtful", "several", "none"]
"""What an image shows: one white cell, one in doubt, several, or none."""
Outcome = Literal["cell", "touches border", "low score", "wide window", "another white cell", "no white cell"]
"""How a cell was cut out, by what was found: a whole cell, or the reason for doubt."""
FOUND: dict[Outcome, CellFound] = {
    "cell": "found",
    "touches border": "doubtful",
    "low score": "doubtful",
    "wide window": "doubtful",
    "another white cell": "several",
    "no white cell": "none",
}

# The nucleus within the cell.
_NUCLEUS_SMOOTHING = 0.03
"""Gaussian on the signal before the nucleus is cut out, in radii of the cell: evens out the chromatin's clumps."""
_NUCLEUS_STAIN = 0.8
"""Share of the typical signal that always counts as nucleus: a cell without cytoplasm is not split."""
_SPECK_SHARE = 0.01
"""Parts and holes of the nucleus up to this share of the cell are noise."""

# The evidence of a pixel. Distances are in radii of a disk that spreads as the nucleus does with its lobes.
_NEAR, _FAR = 0.5, 1.3
"""Distances from the nucleus for the first histograms: below, of the cell; above, of the background."""
_CORNERS = 0.28
"""Share of the image, the furthest from the nucleus, that always counts as background."""
_OUTER = 0.4
"""Smallest distance of background pixels in later rounds."""
_REACH, _REACH_WEIGHT = 0.8, 0.7
"""Distance beyond which the evidence for the cell falls, and its slope."""
_FAINT = 0.05
"""Absorbance, as a share of the nucleus's, that separates the cell from the background."""
_FIELD_WEIGHT, _STAIN_WEIGHT, _HUE_WEIGHT, _STEEP = 2.0, 0.2, 0.1, 10.0
"""Prior weights of emptiness, stain and hue, and their steepness."""
_EXCLUDED = -3.0
"""Evidence of pixels that cannot be part of the cell."""
_N_BINS, _BIN_SIGMA, _UNSEEN, _BIAS = 20, 0.6, 1e-4, 0.4
"""Colour histograms: bins per channel, Gaussian over bins, share added to each, and bias of their log ratio."""
_N_ROUNDS = 2

# The outline.
_N_RAYS = 48
_MAX_EXTENTS = 4.0
"""Largest radius of the cell in radii of the nucleus."""
_MAX_STEP = 3
"""Largest change of the radius from ray to ray, in pixels of the reduced copy."""
_EDGE_WEIGHT, _BEND_WEIGHT = 10.0, 0.2


@dataclass(frozen=True, slots=True)
class CellMask:
    """The segmented white cell of one image."""

    cell: Mask
    """(H, W), the whole cell with its nucleus; all False where none was found."""
    nucleus: Mask | None
    """(H, W), part of `cell`; None where no cell was found."""


def segment_cell(image: NDArray[np.uint8]) -> CellMask:
    """Segment the one white cell near the centre of a single-cell image, uint8 (H, W, 3) RGB.

    Deterministic, for any Romanowsky stain and scale. The mask is empty where no nucleus is found.
    """
    height, width = image.shape[:2]
    empty = CellMask(np.zeros((height, width), bool), None)
    small, scale = reduced(image)
    absorbance = absorbance_of(small)
    chromatin = absorbance @ CHROMATIN
    seed, others = central_nucleus(chromatin)
    if not seed.any():
        return empty
    centre, radii, cell = _outline(absorbance, seed, others)
    nucleus = _nucleus_within(chromatin, cell, seed)
    full = _fill((centre + 0.5) / np.array(small.shape[:2]) * (height, width) - 0.5, radii / scale, (height, width))
    share = np.asarray(Image.fromarray(nucleus.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    return CellMask(full, full & (share > 0.5)) if full.any() else empty


def _outline(absorbance: Plane, seed: Mask, others: Mask) -> tuple[Plane, Plane, Mask]:
    """(row, column) of the centre, radius on each ray (n_rays,), in pixels, and the mask within, (h, w)."""
    nucleus = spread(seed)
    centre = np.array([nucleus.row, nucleus.column])
    extent = max(1.0, nucleus.diameter / 2)
    distance = scipy.ndimage.distance_transform_edt(~seed)
    reach = distance / extent
    brightness = -scipy.ndimage.gaussian_filter(absorbance.sum(axis=2), 1.0)
    prior = _stain_evidence(absorbance, seed) - _REACH_WEIGHT * (reach - _REACH).clip(0)
    if others.any():
        prior[scipy.ndimage.distance_transform_edt(~others) < distance] = _EXCLUDED
    bins = _colour_bins(absorbance)
    # corners count as background even where the cell fills the image
    far = min(_FAR, float(np.quantile(reach, 1 - _CORNERS)))
    inside, outside = reach < min(_NEAR, far), reach > far
    radii = np.zeros(_N_RAYS)
    for _ in range(_N_ROUNDS):
        evidence = _learnt_evidence(bins, inside, outside) + prior
        evidence[seed] = 1.0
        radii = _cheapest_curve(evidence.clip(-1, 1), brightness, centre, extent)
        inside = _fill(centre, radii, seed.shape)
        outside = ~inside & (reach > _OUTER)
    return centre, radii, inside


def _stain_evidence(absorbance: Plane, seed: Mask) -> Plane:
    """Prior evidence for the cell, (h, w), without the image's colour histograms.

    Positive for stain of any kind, negative for a stain that absorbs more blue than red, as haemoglobin does.
    """
    red, blue = absorbance[..., 0], absorbance[..., 2]
    total = absorbance.sum(axis=2)
    strength = max(float(np.median(total[seed])), 1e-6)
    stain = np.tanh(_STEEP * (total / strength - _FAINT))
    evidence: Plane = np.where(stain < 0, _FIELD_WEIGHT, _STAIN_WEIGHT) * stain
    evidence += _HUE_WEIGHT * np.tanh(_STEEP * (2 * red - blue) / strength)
    return evidence


def _colour_bins(absorbance: Plane) -> NDArray[np.int64]:
    """The bin of each pixel in a histogram of three absorbances, (h, w)."""
    top = np.maximum(np.percentile(absorbance.reshape(-1, 3), 99, axis=0), 1e-6)
    # square root: finer bins where cytoplasm, red cells and background lie
    bins = (np.sqrt((absorbance / top).clip(0, 1)) * (_N_BINS - 1e-6)).astype(np.int64)
    flat: NDArray[np.int64] = bins @ np.array([_N_BINS**2, _N_BINS, 1])
    return flat


def _learnt_evidence(bins: NDArray[np.int64], inside: Mask, outside: Mask) -> Plane:
    """Log ratio of the colour histograms inside and outside, less the bias, between -1 and 1, (h, w)."""
    shape = (_N_BINS,) * 3
    shares = []
    for part in (inside, outside):
        counts = np.bincount(bins[part], minlength=_N_BINS**3).reshape(shape).astype(float)
        shares.append(
            scipy.ndimage.gaussian_filter(counts, _BIN_SIGMA, mode="nearest") / max(counts.sum(), 0.1 * bins.size)
        )
    ratio = np.log((shares[0] + _UNSEEN) / (shares[1] + _UNSEEN)).ravel()[bins]
    evidence: Plane = np.tanh(scipy.ndimage.gaussian_filter(ratio, 1.0) / 2 - _BIAS)
    return evidence


def _cheapest_curve(evidence: Plane, brightness: Plane, centre: Plane, extent: float) -> Plane:
    """Radius on each ray (n_rays,) of the closed curve with most evidence and edge, and least bending.

    `extent` is the nucleus' radius. Dynamic programming over two turns; the middle one is independent of the start.
    """
    n_radii = int(min(np.hypot(*evidence.shape), 2 + _MAX_EXTENTS * extent)) + 1
    angle = np.arange(_N_RAYS)[:, None] * (2 * np.pi / _N_RAYS)
    radius = np.arange(n_radii)[None, :]
    at = np.stack([centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)])
    inside = scipy.ndimage.map_coordinates(evidence, at, order=1, mode="constant", cval=-1.0)
    profile = scipy.ndimage.map_coordinates(brightness, at, order=1, mode="nearest")
    # a pixel further out covers a longer arc
    gain = np.cumsum(inside * radius, axis=1) / extent
    contrast = max(float(np.ptp(brightness)), 1e-6)
    gain += _EDGE_WEIGHT * np.gradient(profile, axis=1).clip(0) / contrast
    bend = _BEND_WEIGHT * np.arange(-_MAX_STEP, _MAX_STEP + 1)[:, None] ** 2
    order = np.tile(np.arange(_N_RAYS), 2)
    every = np.arange(n_radii)
    best = gain[0]
    padded = np.full(n_radii + 2 * _MAX_STEP, -np.inf)
    reachable = np.lib.stride_tricks.sliding_window_view(padded, n_radii)  # (steps, n_radii), follows `padded`
    step = np.zeros((len(order), n_radii), int)
    for i, ray in enumerate(order[1:], 1):
        padded[_MAX_STEP:-_MAX_STEP] = best
        options = reachable - bend
        step[i] = options.argmax(axis=0)
        best = options[step[i], every] + gain[ray]
    chosen = np.zeros(len(order), int)
    chosen[-1] = int(best.argmax())
    for i in range(len(order) - 1, 0, -1):
        chosen[i - 1] = chosen[i] + step[i, chosen[i]] - _MAX_STEP
    half = _N_RAYS // 2
    # the curve runs along the outer side of its last pixels
    return np.roll(chosen[half : half + _N_RAYS], half) + 0.5


def _fill(centre: Plane, radii: Plane, shape: tuple[int, ...]) -> Mask:
    """The pixels within the curve, bool of `shape`."""
    rows, columns = np.indices(shape)
    rows, columns = rows - centre[0], columns - centre[1]
    angle = np.arctan2(rows, columns) % (2 * np.pi)
    limit = np.interp(angle, np.arange(_N_RAYS + 1) * (2 * np.pi / _N_RAYS), np.append(radii, radii[0]))
    inside: Mask = np.hypot(rows, columns) < limit
    return inside


def _nucleus_within(chromatin: Plane, cell: Mask, seed: Mask) -> Mask:
    """The pixels of `cell` that are stained like its nucleus rather than its cytoplasm, (h, w), small gaps closed."""
    area = int(cell.sum())
    if area == 0:
        return cell
    smooth = scipy.ndimage.gaussian_filter(chromatin, _NUCLEUS_SMOOTHING * float(np.sqrt(area / np.pi)))
    threshold = otsu(smooth[cell])
    if (seed & cell).any():
        threshold = min(threshold, _NUCLEUS_STAIN * float(np.median(smooth[seed & cell])))
    nucleus: Mask = cell & (smooth > threshold)
    speck = int(_SPECK_SHARE * area) + 1
    for part in (nucleus, ~nucleus & cell):
        labels, _ = scipy.ndimage.label(part, EIGHT)
        small = np.bincount(labels.ravel()) <= speck
        small[0] = False
        nucleus = nucleus ^ small[labels]
    return nucleus


def intersection_over_union(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks, bool (H, W) each, 0 to 1; 1 for two empty ones.

    Raises `InputError` where the shapes differ.
    """
    _check_same_shape(mask, truth)
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def dice(mask: Mask, truth: Mask) -> float:
    """Dice coefficient of two masks, bool (H, W) each, 0 to 1: twice the intersection over the sum; 1 for two empty ones.

    Raises `InputError` where the shapes differ.
    """
    _check_same_shape(mask, truth)
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def _check_same_shape(mask: Mask, truth: Mask) -> None:
    if mask.shape != truth.shape:
        raise InputError("the masks have different shapes", expected=str(truth.shape), got=str(mask.shape))


RESIZED_PX = 224
"""Side to which BC-SAM resizes every image first."""


class CellImageConfig(StrictConfig):
    """How a masked cell becomes an image of fixed size.

    `cut_from`: the image at its own size, or resized to 224 px first; the margin is in px of what is cut. `connectivity`:
    pixels of one component touch at 4 sides, or also at 4 corners. `resampling` to the final size: Pillow's antialiased
    "bicubic", or a cubic "spline" through the pixels. Without `crop` the cell keeps its position and size, and only its
    background is blanked. BC-SAM (Cai et al., ISBI 2024) uses "resized", 4 and "spline".
    """

    size_px: int = Field(default=128, ge=16, le=2048)
    margin_px: int = Field(default=10, ge=0, le=512)
    background: int = Field(default=128, ge=0, le=255)
    crop: bool = True
    # manifests without these three keys were written when there was no other way
    cut_from: Literal["original", "resized"] = "original"
    connectivity: Literal[4, 8] = 8
    resampling: Literal["bicubic", "spline"] = "bicubic"


@dataclass(frozen=True, slots=True)
class CellImage:
    """One cell on a plain background, ready for a classifier."""

    pixels: NDArray[np.uint8]
    """(size_px, size_px, 3) RGB."""
    outcome: Outcome


_DEFAULT = CellImageConfig()


def cut_source(image: NDArray[np.uint8], config: CellImageConfig) -> NDArray[np.uint8]:
    """The image (H, W, 3) that is segmented and cut: as given, or (224, 224, 3), aspect ignored.

    Bilinear without antialiasing, as in BC-SAM's code.
    """
    if config.cut_from == "original":
        return image
    height, width = image.shape[:2]
    factors = (RESIZED_PX / height, RESIZED_PX / width, 1)
    small: NDArray[np.uint8] = scipy.ndimage.zoom(image, factors, order=1, mode="nearest", grid_mode=True)
    return small


def cell_image(image: NDArray[np.uint8], mask: Mask, config: CellImageConfig = _DEFAULT) -> CellImage:
    """Cut the cell under `mask`, bool (H, W), out of `image`, uint8 (H, W, 3), onto a plain background.

    Both are those of `cut_source`. The largest component of the mask counts (of equal ones the first in scan order), its
    holes are background. Its bounding box gets a margin on each side and is resized to a square, cubic, aspect ignored.
    A component at the image's border is reported as such. An empty mask is "no white cell", and returns the whole image,
    resized. Raises `ImageError` where mask and image differ in size. Source: BC-SAM (Cai et al., ISBI 2024), whose
    published crop loses the last row and column of the bounding box; here they are kept.
    """
    check_mask_fits(image, mask)
    component = largest_component(mask, connectivity=config.connectivity)
    if not component.any():
        return CellImage(resized(image, config.size_px, config.resampling), "no white cell")
    rows, columns = scipy.ndimage.find_objects(component.view(np.uint8))[0]
    height, width = mask.shape
    touches = rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width
    crop = np.where(component[..., None], image, np.uint8(config.background))
    crop, margin = (crop[rows, columns], config.margin_px) if config.crop else (crop, 0)
    padded = np.pad(crop, ((margin, margin), (margin, margin), (0, 0)), constant_values=config.background)
    return CellImage(resized(padded, config.size_px, config.resampling), "touches border" if touches else "cell")


def largest_component(mask: Mask, *, connectivity: Literal[4, 8] = 8) -> Mask:
    """The largest connected part of a mask (of equal ones the first in scan order); with 8, diagonal pixels touch."""
    labels, n_labels = scipy.ndimage.label(mask, EIGHT if connectivity == 8 else None)
    largest: Mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if n_labels else np.zeros_like(mask)
    return largest


def check_mask_fits(image: NDArray[np.uint8], mask: Mask) -> None:
    """Raises `ImageError` where the mask has another size than the image."""
    if mask.shape != image.shape[:2]:
        raise ImageError("the mask has another size than the image", expected=str(image.shape[:2]), got=str(mask.shape))


def resized(
    image: NDArray[np.uint8], size_px: int, resampling: Literal["bicubic", "spline"] = "bicubic"
) -> NDArray[np.uint8]:
    """The image (H, W, 3) as a square of `size_px`, cubic, aspect ignored.

    "bicubic" is Pillow's, antialiased; "spline" interpolates between the centres of the outermost pixels.
    """
    if resampling == "bicubic":
        return np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BICUBIC))
    height, width = image.shape[:2]
    square: NDArray[np.uint8] = scipy.ndimage.zoom(image, (size_px / height, size_px / width, 1), order=3)
    return square
