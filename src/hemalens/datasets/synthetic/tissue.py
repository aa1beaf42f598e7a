"""Drawn tissue in the colours of haematoxylin and eosin: two kinds that differ in their nuclei, in a field of stroma.

It replaces the CAM16 patches and the pRCC regions where these are missing, in the same layouts, and is marked as synthetic.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.base import SYNTHETIC_MARKER
from hemalens.files import atomic_dir

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


PATCHES, REGIONS = "CAM16_100cls_10mask", "pRCC_nolabel"
PATCH_PX = 384
REGION_TILE_PX = 500
"""A region is four of these, with nuclei as large as in a patch of this side."""


def synthesize_tissue(
    folder: Path, *, n_per_class: int = 60, seed: int = 0, progress: Callable[[], None] = lambda: None
) -> None:
    """Draw patches in the layout of `cam16` (`n_per_class` a class, every tenth with a mask, a third of that in val and in
    test) and as many regions in the layout of `prcc`, into `folder`, whole or not at all.

    Raises `OutputError` where `folder` cannot be written. `progress` is called after each image.
    """
    n_other = max(1, n_per_class // 3)
    with atomic_dir(folder) as top:
        for label, kind in (("normal", "small_nuclei"), ("tumor", "large_nuclei")):
            number = 0
            for part, n in (("train", n_per_class), ("val", n_other), ("test", n_other)):
                for i in range(n):
                    image, mask = drawn_tissue(kind, number, seed=seed, side_px=PATCH_PX)
                    name = f"{label}_{number:04d}.png"
                    _save(top / PATCHES / part / "data" / label / name, image)
                    if part == "train" and i % 10 == 0:
                        _save(top / PATCHES / part / "mask" / label / name, mask)
                    number += 1
                    progress()
        for i in range(n_per_class):
            kind = list(KINDS)[i % len(KINDS)]
            tiles = [drawn_tissue(kind, 100_000 + 4 * i + j, seed=seed, side_px=REGION_TILE_PX)[0] for j in range(4)]
            region = np.block([[[tiles[0]], [tiles[1]]], [[tiles[2]], [tiles[3]]]])
            _save(top / REGIONS / f"region_{i:04d}.png", region)
            progress()
        for inner in (PATCHES, REGIONS):
            facts = {"seed": seed, "n_per_class": n_per_class}
            (top / inner / SYNTHETIC_MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def n_drawn(n_per_class: int) -> int:
    """How many images `synthesize_tissue` draws."""
    return 2 * (n_per_class + 2 * max(1, n_per_class // 3)) + n_per_class


def _save(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compress_level=1)


def drawn_tissue(kind: str, number: int, *, seed: int, side_px: int) -> Drawn:
    """Image (side_px, side_px, 3) and mask (side_px, side_px), 255 where the tissue lies; each `number` another picture."""
    look = KINDS[kind]
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    shape = (side_px, side_px)
    relief = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), side_px / 8, mode="wrap")
    # the tissue covers about two thirds, in one patch or a few
    tissue = relief > np.quantile(relief, rng.uniform(0.25, 0.45))
    image = np.where(tissue[..., None], look.cytoplasm, STROMA) + _fibres(rng, shape)
    inside = _nuclei(look, rng, side_px) & tissue
    image[inside] = look.nucleus + 12 * rng.standard_normal((int(inside.sum()), 1))
    image = scipy.ndimage.gaussian_filter(image, (0.6, 0.6, 0)) + rng.normal(0, 2, (side_px, side_px, 3))
    return np.clip(image, 0, 255).astype(np.uint8), tissue.astype(np.uint8) * 255


def _fibres(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Streaks of one direction, (H, W, 1), as eosin shows collagen."""
    streaks = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), (0.8, shape[1] / 12), mode="wrap")
    shown: NDArray[np.float64] = (10 * streaks / streaks.std())[..., None]
    return shown


def _nuclei(look: Look, rng: np.random.Generator, side_px: int) -> NDArray[np.bool_]:
    """Round nuclei of uneven size (H, W), on a grid that is shaken."""
    steps = np.arange(-look.distance, 1 + look.distance, look.distance)
    centres = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    centres = centres + rng.uniform(-0.35, 0.35, centres.shape) * look.distance
    radii = look.radius * rng.uniform(0.7, 1.3, len(centres))
    ticks = (np.arange(side_px) + 0.5) / side_px
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    distances, nearest = scipy.spatial.cKDTree(centres).query(points)
    inside: NDArray[np.bool_] = (distances < radii[nearest]).reshape(side_px, side_px)
    return inside
