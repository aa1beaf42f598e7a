"""Geometry of the synthetic cells: windows, smooth noise and signed distances.

Shapes are signed distances in micrometres, negative inside, so that one field gives the anti-aliased coverage, the mask
and the rim of a shape.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.synthetic.cells import Morphology, Nucleus, Range
from hemalens.datasets.synthetic.laboratory import Laboratory

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """Part of the image around one cell: slices into the image and coordinates from the cell centre."""

    rows: slice
    columns: slice
    x_um: Field  # (h, w)
    y_um: Field  # (h, w)
    pixels_per_um: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.x_um.shape
        return height, width

    def coverage(self, distance_um: Field, softness_um: float = 0.0) -> Field:
        """Return how much of each pixel lies inside, 0 to 1, for a signed distance (h, w)."""
        width_um = 1.0 / self.pixels_per_um + softness_um
        covered: Field = np.clip(0.5 - distance_um / width_um, 0.0, 1.0)
        return covered


def sample(rng: np.random.Generator, bounds: Range) -> float:
    """Return a value from the triangular law over (lowest, highest)."""
    lowest, highest = bounds
    return float(rng.triangular(lowest, (lowest + highest) / 2, highest)) if highest > lowest else lowest


def length(x: Field, y: Field) -> Field:
    """Return the length of the vectors (x, y), both (h, w): `np.hypot` minds overflow and takes 20 times as long."""
    root: Field = np.sqrt(x * x + y * y)
    return root


def white_noise(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """Return independent noise, float32 (h, w), with zero mean and unit variance.

    Each value is the sum of four random bytes, close to a Gaussian within 3.4 standard deviations and several times
    faster than an exact one, which would take a third of the time of an image.
    """
    n_values = shape[0] * shape[1]
    random_bytes = np.frombuffer(rng.bytes(4 * n_values), dtype=np.uint8).reshape(4, *shape)
    total: Field = random_bytes.sum(axis=0, dtype=np.uint16).astype(np.float32)
    return (total - np.float32(4 * 127.5)) * np.float32(1.0 / math.sqrt(4 * (256**2 - 1) / 12))


def smooth_noise(shape: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> Field:
    """Return Gaussian noise smoothed by `sigma_px`, float32 (h, w), with zero mean and unit variance.

    Coarse noise is made small and enlarged: it holds no fine detail, and filtering it in full would dominate the time.
    """
    factor = max(1, int(sigma_px / 1.5))
    sigma = sigma_px / factor
    height, width = -(-shape[0] // factor) + 2, -(-shape[1] // factor) + 2
    field = scipy.ndimage.gaussian_filter(white_noise((height, width), rng), sigma, mode="wrap", truncate=3.0)
    field *= 2.0 * math.sqrt(math.pi) * sigma  # a 2-D Gaussian kernel keeps 1 / (4 pi sigma^2) of the variance
    if factor > 1:
        enlarged = Image.fromarray(field).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        field = np.asarray(enlarged, dtype=np.float32)
    inner: Field = field[factor : factor + shape[0], factor : factor + shape[1]]
    return inner


def window_around(laboratory: Laboratory, shape: tuple[int, int], centre_um: tuple[float, float], half_um: float) -> Window:
    """Return the window of half width `half_um` around (x, y), cut at the borders of an image of `shape` (H, W)."""
    scale = laboratory.pixels_per_um
    edges = [
        (max(0, int((centre - half_um) * scale)), min(side, int((centre + half_um) * scale) + 1))
        for centre, side in zip(centre_um, shape[::-1], strict=True)
    ]
    (left, right), (top, bottom) = edges
    x_um = (np.arange(left, right, dtype=np.float32) + 0.5) / scale - centre_um[0]
    y_um = (np.arange(top, bottom, dtype=np.float32) + 0.5) / scale - centre_um[1]
    x_grid, y_grid = np.meshgrid(x_um.astype(np.float32), y_um.astype(np.float32))
    return Window(slice(top, bottom), slice(left, right), x_grid, y_grid, scale)


def outline_distance(morphology: Morphology, window: Window, radius_um: float, rng: np.random.Generator) -> Field:
    """Return the signed distance (h, w) to a circle whose radius is perturbed by a random Fourier series."""
    angles = np.linspace(-math.pi, math.pi, 720, endpoint=False)
    orders = np.arange(2, morphology.n_harmonics + 1)
    amplitudes = rng.normal(0.0, 1.0, size=orders.size) / np.sqrt(orders - 1.0)
    amplitudes *= morphology.irregularity * math.sqrt(2) / math.sqrt(float(np.sum(1.0 / (orders - 1.0))))
    phases = rng.uniform(0, 2 * math.pi, size=orders.size)
    table = 1.0 + (amplitudes[:, None] * np.cos(orders[:, None] * angles + phases[:, None])).sum(axis=0)
    limit = 3 * morphology.irregularity
    table_um = (radius_um * np.clip(table, 1 - limit, 1 + limit)).astype(np.float32)
    theta = np.arctan2(window.y_um, window.x_um)
    index = ((theta + np.float32(math.pi)) * np.float32(720 / (2 * math.pi))).astype(np.int32) % 720
    distance_um: Field = length(window.x_um, window.y_um) - table_um[index]
    return distance_um


def _smooth_union(first: Field, second: Field, blend_um: float) -> Field:
    """Return the union of two signed distances (h, w) with the corner rounded over `blend_um` (polynomial minimum)."""
    overlap = np.maximum(np.float32(blend_um) - np.abs(first - second), 0.0)
    joined: Field = np.minimum(first, second) - overlap * overlap * np.float32(0.25 / blend_um)
    return joined


def nucleus_distance(nucleus: Nucleus, window: Window, radius_um: float, rng: np.random.Generator) -> Field:
    """Return the signed distance (h, w) to a chain of lobes: ellipses along an arc, joined by bridges."""
    n_lobes = int(rng.choice(list(nucleus.lobe_weights), p=list(nucleus.lobe_weights.values())))
    lobe_um = radius_um * math.sqrt(sample(rng, nucleus.area_fraction) / n_lobes)
    is_band = rng.random() < nucleus.band_probability
    bridge = 0.9 if is_band else sample(rng, nucleus.bridge_width)
    if is_band:
        lobe_um *= 0.8
    turns = np.array([0.0, *(sample(rng, nucleus.turn_rad) for _ in range(n_lobes - 1))])
    # More than about 250 degrees would close the chain into a ring.
    arc = np.cumsum(turns * min(1.0, 4.4 / max(float(turns.sum()), 1e-6))) + rng.uniform(0, 2 * math.pi)
    reach = radius_um * sample(rng, nucleus.arc_radius) * rng.uniform(0.8, 1.2, size=n_lobes)
    centres = np.stack([reach * np.cos(arc), reach * np.sin(arc)], axis=1)
    direction, shift = rng.uniform(0, 2 * math.pi), radius_um * sample(rng, nucleus.eccentricity)
    centres += shift * np.array([math.cos(direction), math.sin(direction)]) - 0.6 * centres.mean(axis=0)

    x_um, y_um = window.x_um, window.y_um
    if nucleus.warp_um > 0:
        sigma_px = 1.3 * window.pixels_per_um
        x_um = x_um + nucleus.warp_um * smooth_noise(window.shape, sigma_px, rng)
        y_um = y_um + nucleus.warp_um * smooth_noise(window.shape, sigma_px, rng)
    distance: Field = np.full(window.shape, np.inf, dtype=np.float32)
    for (centre_x, centre_y), angle in zip(centres.tolist(), arc.tolist(), strict=True):
        size_um = lobe_um * (rng.uniform(0.85, 1.15) if n_lobes > 1 else 1.0)
        stretch = math.sqrt(sample(rng, nucleus.elongation))
        tilt = angle + rng.normal(0.0, 0.25)
        u = (x_um - centre_x) * math.cos(tilt) + (y_um - centre_y) * math.sin(tilt)
        v = (y_um - centre_y) * math.cos(tilt) - (x_um - centre_x) * math.sin(tilt)
        lobe = length(u * stretch, v / stretch) - size_um
        distance = _smooth_union(distance, lobe, 0.2)
    for start, end in itertools.pairwise(centres.tolist()):
        span_x, span_y = end[0] - start[0], end[1] - start[1]
        x, y = x_um - start[0], y_um - start[1]
        along = np.clip((x * span_x + y * span_y) / max(span_x**2 + span_y**2, 1e-6), 0.0, 1.0)
        strand = length(x - along * span_x, y - along * span_y)
        distance = _smooth_union(distance, strand - bridge * lobe_um, 0.3 + 0.9 * bridge)
    return distance
