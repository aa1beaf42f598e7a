"""Drawn tissue in the colours of haematoxylin and eosin: two kinds that differ in their nuclei, in a field of stroma."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Colour = tuple[int, int, int]
Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8]]
STROMA: Colour = (238, 214, 226)


@dataclass(frozen=True, slots=True)
class Look:
    """A kind of tissue: radius and distance of its nuclei as shares of the image's side, its two colours."""

    radius: float
    distance: float
    nucleus: Colour
    cytoplasm: Colour


KINDS = {
    "small_nuclei": Look(radius=0.022, distance=0.06, nucleus=(82, 58, 132), cytoplasm=(206, 164, 204)),
    "large_nuclei": Look(radius=0.05, distance=0.15, nucleus=(134, 92, 158), cytoplasm=(222, 146, 176)),
}


def drawn_tissue(kind: str, number: int, *, seed: int, side_px: int) -> Drawn:
    """Image (side_px, side_px, 3) and mask (side_px, side_px), 255 where the tissue lies; each `number` another picture."""
    look = KINDS[kind]
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    shape = (side_px, side_px)
    relief = gaussian_filter(rng.standard_normal(shape), side_px / 8, mode="wrap")
    # the tissue covers about two thirds, in one patch or a few
    tissue = relief > np.quantile(relief, rng.uniform(0.25, 0.45))
    image = np.where(tissue[..., None], look.cytoplasm, STROMA) + _fibres(rng, shape)
    inside = _nuclei(look, rng, side_px) & tissue
    image[inside] = look.nucleus + 12 * rng.standard_normal((int(inside.sum()), 1))
    image = gaussian_filter(image, (0.6, 0.6, 0)) + rng.normal(0, 2, (side_px, side_px, 3))
    return np.clip(image, 0, 255).astype(np.uint8), tissue.astype(np.uint8) * 255


def _fibres(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Streaks of one direction, (H, W, 1), as eosin shows collagen."""
    streaks = gaussian_filter(rng.standard_normal(shape), (0.8, shape[1] / 12), mode="wrap")
    return (10 * streaks / streaks.std())[..., None]


def _nuclei(look: Look, rng: np.random.Generator, side_px: int) -> NDArray[np.bool_]:
    """Round nuclei of uneven size (H, W), on a grid that is shaken."""
    steps = np.arange(-look.distance, 1 + look.distance, look.distance)
    centres = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    centres = centres + rng.uniform(-0.35, 0.35, centres.shape) * look.distance
    radii = look.radius * rng.uniform(0.7, 1.3, len(centres))
    ticks = (np.arange(side_px) + 0.5) / side_px
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    distances, nearest = cKDTree(centres).query(points)
    return (distances < radii[nearest]).reshape(side_px, side_px)
