"""Laboratories of the synthetic domain: how a smear is stained, magnified, lit and photographed.

A stain is written as the RGB colour that white light keeps after passing through one unit of it. Densities add up along
the light path (Beer-Lambert law), so overlapping red cells darken as they do on a real smear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stains:
    """Colours of white light after one density unit of each stained substance, RGB in (0, 255]."""

    chromatin: RGB
    """Nuclear DNA with azure B and eosin: the Romanowsky purple."""
    basophilic: RGB
    """Cytoplasm rich in RNA: blue."""
    acidophilic: RGB
    """Cytoplasm rich in basic protein: pink."""
    azurophil: RGB
    """Fine granules of neutrophils, monocytes and platelets: lilac to red-purple."""
    eosinophil_granule: RGB
    """Large granules of eosinophils: orange-red."""
    basophil_granule: RGB
    """Coarse granules of basophils: blue-black."""
    haemoglobin: RGB
    """Red cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """Domain parameters of one laboratory: slide, stain, microscope and camera."""

    name: str
    image_size_px: int
    """Side of the square image in pixels."""
    pixels_per_um: float
    """Magnification at the camera."""
    background_rgb: RGB
    """Colour of an empty field, RGB in (0, 255]."""
    stains: Stains
    stain_strength: float
    """Factor on all densities of leukocytes and platelets; 1 is a normal stain."""
    stain_jitter: float
    """Standard deviation of the logarithm of the stain strength and, halved, of the hue, between images."""
    red_cells_per_100_um2: float
    """Mean number of red cell centres in 100 square micrometres."""
    red_cell_diameter_um: tuple[float, float]
    """Smallest and largest red cell diameter."""
    red_cell_density: float
    """Density at the thick ring of a red cell."""
    platelets_per_image: float
    """Mean number of platelets lying beside the target cell."""
    background_mottle: float
    """Standard deviation of the cloudy plasma density."""
    illumination_gradient: float
    """Largest relative brightness change from the centre to the edge along one direction."""
    vignetting: float
    """Relative brightness loss at the middle of an edge."""
    blur_sigma_px: float
    """Gaussian blur of the optics in pixels, at the best focus."""
    focus_jitter: float
    """Standard deviation of the logarithm of the blur between images."""
    noise_levels: float
    """Standard deviation of the sensor noise in grey levels."""
    white_balance_jitter: float
    """Standard deviation of the relative gain of red, and of blue the other way, between images."""
    exposure_jitter: float
    """Standard deviation of the relative gain of all channels together between images."""
    jpeg_quality: int
    """Quality of the JPEG round trip, 1 to 95; 0 keeps the pixels as they are."""


def absorbance(rgb: RGB) -> NDArray[np.float32]:
    """Return the natural-log absorbance of one density unit per channel, shape (3,), for a colour in (0, 255]."""
    return np.array([-math.log(channel / 255.0) for channel in rgb], dtype=np.float32)


LABORATORIES: dict[str, Laboratory] = {
    "lab_a": Laboratory(
        name="lab_a",
        image_size_px=240,
        pixels_per_um=6.2,
        background_rgb=(252, 229, 207),
        stains=Stains(
            chromatin=(98, 62, 142),
            basophilic=(128, 138, 204),
            acidophilic=(236, 188, 196),
            azurophil=(168, 104, 160),
            eosinophil_granule=(226, 128, 114),
            basophil_granule=(74, 46, 116),
            haemoglobin=(204, 164, 170),
        ),
        stain_strength=1.0,
        stain_jitter=0.1,
        red_cells_per_100_um2=1.35,
        red_cell_diameter_um=(6.3, 8.0),
        red_cell_density=1.0,
        platelets_per_image=0.7,
        background_mottle=0.01,
        illumination_gradient=0.02,
        vignetting=0.02,
        blur_sigma_px=0.7,
        focus_jitter=0.2,
        noise_levels=2.0,
        white_balance_jitter=0.01,
        exposure_jitter=0.015,
        jpeg_quality=0,
    ),
    "lab_b": Laboratory(
        name="lab_b",
        image_size_px=160,
        pixels_per_um=7.2,
        background_rgb=(238, 226, 150),
        stains=Stains(
            chromatin=(134, 52, 96),
            basophilic=(158, 148, 182),
            acidophilic=(238, 198, 176),
            azurophil=(176, 104, 110),
            eosinophil_granule=(218, 98, 78),
            basophil_granule=(92, 42, 78),
            haemoglobin=(218, 198, 176),
        ),
        stain_strength=0.95,
        stain_jitter=0.12,
        red_cells_per_100_um2=0.6,
        red_cell_diameter_um=(6.4, 8.0),
        red_cell_density=0.7,
        platelets_per_image=0.15,
        background_mottle=0.03,
        illumination_gradient=0.1,
        vignetting=0.08,
        blur_sigma_px=1.5,
        focus_jitter=0.25,
        noise_levels=5.0,
        white_balance_jitter=0.03,
        exposure_jitter=0.03,
        jpeg_quality=70,
    ),
}
"""Synthetic laboratories by name: `lab_a` is sharp and cream-pink, `lab_b` yellow, close-up, blurred and noisy."""
