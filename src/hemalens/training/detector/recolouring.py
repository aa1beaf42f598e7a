"""Other colours for red cells, nuclei and cytoplasm, each alone, as other stains give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from hemalens.config import StrictConfig
from hemalens.imaging.boxes import RED, WHITE, Boxes, Corners

DARKEST = 2.0
"""Least gray level whose absorbance is computed."""
PALER = 0.8
"""Most of the nucleus's absorbance that cytoplasm has after it was dyed."""
RIM = 1.15
"""Where an ellipse's weight begins to fall, in squared radii."""


class RecolouringConfig(StrictConfig):
    """How far the colours of red cells, nuclei and cytoplasm change, each by itself, in absorbance.

    A strength s of a factor means: uniform in its logarithm between -s and s. `share`: of the windows that are changed.
    `red_hue`, `nucleus_hue`: factors on each of R, G and B. `red_dark`, `nucleus_dark` (low, high): logarithm of a factor
    on all three, so that red cells may become bluish, yellow or dark, and nuclei pale. `red_dye`: largest absorbance of a
    further dye in red cells. `cytoplasm_dye`: most of the nucleus's mean absorbance that cytoplasm gets besides its own, as
    a basophilic one has it, and `cytoplasm_hue` the strength of factors on its R, G and B; cytoplasm stays paler than the
    nucleus.
    """

    share: float = Field(default=0.6, ge=0, le=1)
    red_hue: float = Field(default=0.6, ge=0, le=2)
    red_dark: tuple[float, float] = (-0.5, 0.7)
    red_dye: float = Field(default=0.35, ge=0, le=2)
    nucleus_hue: float = Field(default=0.35, ge=0, le=2)
    nucleus_dark: tuple[float, float] = (-1.0, 0.3)
    cytoplasm_dye: float = Field(default=0.7, ge=0, le=1)
    cytoplasm_hue: float = Field(default=0.4, ge=0, le=2)


def recoloured(
    image: NDArray[np.uint8],
    nucleus: NDArray[np.float32],
    boxes: Boxes,
    config: RecolouringConfig,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """A copy of a window, uint8 (side, side, 3), with other absorbances in its red cells, nuclei and cytoplasm.

    `nucleus` (q, q) in [0, 1] and the ellipses in the `boxes`, in places of the same map, say where.
    """
    absorbance = -np.log(np.maximum(image.astype(np.float32), DARKEST) / 255)
    side = image.shape[0]
    of_nucleus = _enlarged(nucleus, side)
    red_cells = boxes.of_kind(RED).corners
    if len(red_cells) and rng.random() < config.share:
        weight = _enlarged(ellipses(red_cells, len(nucleus)), side) * (1 - of_nucleus)
        absorbance = absorbance * (1 + weight * (_gains(config.red_hue, config.red_dark, rng) - 1))
        absorbance = absorbance + weight * rng.uniform(0, config.red_dye, 3) * rng.random() * (rng.random() < 0.5)
    if nucleus.any() and rng.random() < config.share:
        absorbance = absorbance * (1 + of_nucleus * (_gains(config.nucleus_hue, config.nucleus_dark, rng) - 1))
    white_cells = boxes.of_kind(WHITE).corners
    if len(white_cells) and nucleus.any() and rng.random() < config.share:
        weight = _enlarged(ellipses(white_cells, len(nucleus)), side) * (1 - of_nucleus)
        absorbance = absorbance + weight * _basophilic(absorbance, of_nucleus, weight, config, rng)
    changed: NDArray[np.uint8] = (np.exp(-absorbance) * 255).clip(0, 255).astype(np.uint8)
    return changed


def _basophilic(
    absorbance: NDArray[np.float32],
    of_nucleus: NDArray[np.float32],
    weight: NDArray[np.float32],
    config: RecolouringConfig,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """What absorbance (3,) cytoplasm gets from the nucleus's dye, so that it stays paler than the nucleus."""
    means = [np.average(absorbance.reshape(-1, 3), axis=0, weights=w.ravel() + 1e-6) for w in (of_nucleus, weight)]
    most = min(config.cytoplasm_dye, max(0.0, PALER - means[1].sum() / max(means[0].sum(), 1e-6)))
    dye: NDArray[np.float64] = rng.uniform(0, most) * means[0] * _gains(config.cytoplasm_hue, (0.0, 0.0), rng)
    return dye


def _gains(hue: float, dark: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    gains: NDArray[np.float64] = np.exp(rng.uniform(-hue, hue, 3) + rng.uniform(*dark))
    return gains


def ellipses(corners: Corners, side: int) -> NDArray[np.float32]:
    """Weights (side, side) in [0, 1] of the ellipses in boxes (n, 4), in places of the map, with a soft rim."""
    y, x = np.mgrid[0:side, 0:side] + 0.5
    weights = np.zeros((side, side), np.float32)
    for left, top, right, bottom in corners:
        down, across = max((bottom - top) / 2, 0.5), max((right - left) / 2, 0.5)
        squared = ((x - (left + right) / 2) / across) ** 2 + ((y - (top + bottom) / 2) / down) ** 2
        weights = np.maximum(weights, ((RIM - squared) * 5).clip(0, 1).astype(np.float32))
    return weights


def _enlarged(weights: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Weights (q, q) in [0, 1] at (side, side, 1)."""
    image = Image.fromarray((weights * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)[..., None] / np.float32(255)
