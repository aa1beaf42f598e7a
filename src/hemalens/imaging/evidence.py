"""Draw a map of evidence over an image: orange for, blue against, the image in gray below.

Colours are mixed in Oklab (Ottosson 2020), in which equal steps look equal: twice the evidence is twice as far from gray.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_TO_CONES = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
_FOR, _AGAINST = 48.0, 250.0
"""Hues of orange and blue in Oklab, in degrees, which colour-blind readers distinguish."""
_LIGHTNESS, _CHROMA = 0.66, 0.16
"""Of both full colours, so that neither looks stronger."""
_OPACITY, _PALER = 0.75, 0.65
"""Of full colour, so that the cell stays visible; and of the gray image's contrast."""


def overlay(image: NDArray[np.uint8], evidence: Floats, scale: float) -> NDArray[np.uint8]:
    """The image uint8 (H, W, 3) in pale gray under a map (H, W): orange above 0, blue below, full at `scale`.

    Where the map is 0 nothing but the gray image is seen.
    """
    gray = image @ np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
    paper = (255 - _PALER * (255 - gray)) / 255
    return _coloured(_to_oklab(np.repeat(paper[..., None], 3, axis=-1)), np.clip(evidence / scale, -1, 1))


def colour_bar(width: int, height: int) -> NDArray[np.uint8]:
    """The colours from full blue to full orange, left to right, on white, uint8 (height, width, 3)."""
    steps = np.repeat(np.linspace(-1, 1, width)[None], height, axis=0)
    return _coloured(_to_oklab(np.ones((height, width, 3))), steps)


def _coloured(lab: Floats, share: Floats) -> NDArray[np.uint8]:
    """Oklab colours (H, W, 3) mixed with full orange or blue by shares (H, W) in [-1, 1]."""
    opacity = _OPACITY * np.abs(share)[..., None]
    full = np.where(share[..., None] > 0, _full(_FOR), _full(_AGAINST))
    return _to_srgb((1 - opacity) * lab + opacity * full)


def _full(hue: float) -> Floats:
    angle = np.radians(hue)
    return np.array([_LIGHTNESS, _CHROMA * np.cos(angle), _CHROMA * np.sin(angle)])


def _to_oklab(srgb: Floats) -> Floats:
    """sRGB in [0, 1] -> Oklab, on the last axis."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: Floats = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab


def _to_srgb(lab: Floats) -> NDArray[np.uint8]:
    """Oklab -> sRGB uint8, on the last axis."""
    linear = np.clip((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)
