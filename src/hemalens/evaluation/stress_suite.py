"""Images of single cells in other stains and lights, recoloured with their masks: does a finder still find the nucleus?

Stain is changed where it lies: nucleus, cytoplasm and the rest (red cells, background) each in absorbance, which the amount
of dye scales; light, camera and file are changed in all of the image. The shapes stay, so the masks stay true.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from hemalens.datasets.splits import seeded
from hemalens.imaging.nucleus import Spread, spread

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]
"""(H, W): 0 outside of the cell, 1 cytoplasm, 2 nucleus."""
SOFT_PX = 0.8
"""Gaussian on the masks, so that recoloured regions have no hard edges."""
BRIGHT = 0.85
"""Quantile of green outside of the cell that is background."""
EXTENT_TOLERANCE = 0.15
"""Largest relative error of an extent that counts as right."""

Plain = Callable[[Floats, int], Floats]
"""Changes pixels (H, W, 3) in [0, 255] of light, camera or file, with the seed of the noise."""


@dataclass(frozen=True, slots=True)
class Dye:
    """What becomes of a region's absorbance: its green one times `amount` in the direction `colour` (red, green, blue).

    `share` in [0, 1] mixes it with the photographed absorbance.
    """

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    amount: float = 1.0
    share: float = 1.0

    def of(self, absorbance: Floats) -> Floats:
        """The absorbance (H, W, 3), recoloured."""
        dyed = absorbance[..., 1:2] * np.array(self.colour)
        mixed: Floats = self.amount * (self.share * dyed + (1 - self.share) * absorbance)
        return mixed


@dataclass(frozen=True, slots=True)
class Condition:
    """A stain and a light: dyes of nucleus, cytoplasm and the rest, the colour of the light, and what follows."""

    nucleus: Dye = field(default_factory=lambda: Dye(share=0))
    cytoplasm: Dye = field(default_factory=lambda: Dye(share=0))
    rest: Dye = field(default_factory=lambda: Dye(share=0))
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    after: Plain = lambda pixels, seed: pixels


def _dark_edges(pixels: Floats, seed: int) -> Floats:
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    dark: Floats = pixels * (1 - 0.32 * (x**2 + y**2))[..., None]
    return dark


def _blurred(pixels: Floats, seed: int) -> Floats:
    sigma = 0.012 * sum(pixels.shape[:2]) / 2
    found: Floats = ndimage.gaussian_filter(pixels, (sigma, sigma, 0))
    return found


def _noisy(pixels: Floats, seed: int) -> Floats:
    return pixels + seeded(seed, "noise").normal(0, 14, pixels.shape)


def _jpeg_40(pixels: Floats, seed: int) -> Floats:
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer), float)


def _hazy(pixels: Floats, seed: int) -> Floats:
    return 110 + 0.5 * pixels


STRONG = Dye(share=0, amount=1.7)
CONDITIONS: Mapping[str, Condition] = {
    "as photographed": Condition(),
    "bluish red cells": Condition(rest=Dye((0.95, 1.0, 0.6), 0.9)),
    "dark gray red cells": Condition(rest=Dye((0.9, 1.0, 0.8), 1.4)),
    "yellow background": Condition(light=(1.0, 0.93, 0.66)),
    "blue light": Condition(light=(0.78, 0.88, 1.0)),
    "pale nuclei": Condition(nucleus=Dye(share=0, amount=0.6)),
    "reddish nuclei": Condition(nucleus=Dye((0.55, 1.0, 0.6), 1.0)),
    "magenta cytoplasm": Condition(cytoplasm=Dye((0.25, 1.0, 0.35), 1.3)),
    "strong stain": Condition(STRONG, STRONG, STRONG),
    "dark field edges": Condition(after=_dark_edges),
    "haze": Condition(after=_hazy),
    "blur": Condition(after=_blurred),
    "noise": Condition(after=_noisy),
    "JPEG 40": Condition(after=_jpeg_40),
}
"""The conditions by name; the first leaves the image as it is."""


def recoloured(image: Pixels, masks: Masks, condition: Condition, *, seed: int = 0) -> Pixels:
    """The image uint8 (H, W, 3) in another condition, the same for the same seed."""
    pixels = image.astype(float) + 1
    green = pixels[..., 1]
    outside = masks == 0
    background = np.median(pixels[outside & (green >= np.quantile(green[outside], BRIGHT))], axis=0)
    absorbance = np.log(background / pixels)
    found = np.zeros_like(absorbance)
    dyes = (condition.rest, condition.cytoplasm, condition.nucleus)
    for region, dye in enumerate(dyes):
        share = ndimage.gaussian_filter((masks == region).astype(float), SOFT_PX)
        found += share[..., None] * dye.of(absorbance)
    lit = (background * np.array(condition.light)) * np.exp(-found) - 1
    made: Pixels = condition.after(lit, seed).clip(0, 255).round().astype(np.uint8)
    return made


@dataclass(frozen=True, slots=True)
class Findings:
    """How well nuclei were found, n of them: shares of all."""

    n: int
    found: float
    centre_inside: float
    """The centre lies in the convex hull of the true nucleus: between its lobes it is right."""
    extent_right: float
    """The extent is within 15 % of the true one."""
    median_ratio: float
    """Median of the extent over the true one."""


def findings(found: list[Spread | None], nuclei: list[NDArray[np.bool_]]) -> Findings:
    """Compare found nuclei with true masks (H, W) that are not empty."""
    ratios = [
        np.nan if one is None else one.diameter / spread(mask).diameter for one, mask in zip(found, nuclei, strict=True)
    ]
    inside = [one is not None and _within_hull(one, mask) for one, mask in zip(found, nuclei, strict=True)]
    values = np.array(ratios)
    return Findings(
        n=len(found),
        found=float(np.isfinite(values).mean()),
        centre_inside=float(np.mean(inside)),
        extent_right=float((np.abs(values - 1) <= EXTENT_TOLERANCE).mean()),
        median_ratio=float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan"),
    )


def _within_hull(found: Spread, mask: NDArray[np.bool_]) -> bool:
    """Whether a centre lies in the convex hull of a mask."""
    from scipy.spatial import Delaunay

    rows, columns = np.nonzero(mask)
    # the corners of its pixels, so that a line of pixels has a hull too
    corners = np.concatenate([np.stack([rows + y, columns + x], axis=1) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    return bool(Delaunay(corners).find_simplex([found.row, found.column]) >= 0)
