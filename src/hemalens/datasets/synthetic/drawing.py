"""Drawing of one synthetic single-cell image with its mask.

The image is built as light passes through a smear: stain densities of red cells, platelets and the target cell add up
(Beer-Lambert law), then follow the lamp, the optics, the sensor and the camera's compression. Colour planes come first,
(3, H, W), until the photograph: arithmetic on whole planes is several times faster than on interleaved pixels.
"""

from __future__ import annotations

import difflib
import io
import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets.synthetic.cells import CELL_TYPES, MORPHOLOGIES, Chromatin, Granules, Morphology, Nucleus
from hemalens.datasets.synthetic.laboratory import Laboratory, absorbance
from hemalens.datasets.synthetic.red_cells import red_cell_density
from hemalens.datasets.synthetic.shapes import (
    Field,
    Window,
    length,
    nucleus_distance,
    outline_distance,
    sample,
    smooth_noise,
    white_noise,
    window_around,
)

MASK_CYTOPLASM = 128
MASK_NUCLEUS = 255


@dataclass(frozen=True, slots=True)
class DrawnCell:
    """Stain absorbance and outlines of one cell in its window."""

    absorbance: Field  # (3, h, w)
    coverage: Field  # (h, w), 0 to 1
    outline_um: Field  # (h, w), signed distance
    nucleus_um: Field | None  # (h, w), signed distance


def draw_cell(
    cell_type: str, laboratory: Laboratory, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one cell of a type as a laboratory would photograph it.

    Returns the RGB image, uint8 (H, W, 3), and the mask, uint8 (H, W): 0 background, 128 cytoplasm, 255 nucleus.
    H and W are `laboratory.image_size_px`. The same generator state gives the same image.

    Raises ValueError for a type that is not in `CELL_TYPES`.
    """
    if cell_type not in MORPHOLOGIES:
        matches = difflib.get_close_matches(cell_type, CELL_TYPES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, matches))}?" if matches else "use one of the expected names."
        raise ValueError(f"unknown cell type: expected one of {', '.join(CELL_TYPES)}; got {cell_type!r}; {hint}")
    morphology = MORPHOLOGIES[cell_type]
    side_px, scale = laboratory.image_size_px, laboratory.pixels_per_um
    radius_um = sample(rng, morphology.diameter_um) / 2
    # The target may sit off centre, but never so far that the centre of the image leaves it.
    offset_um = rng.uniform(-0.25, 0.25, size=2) * min(radius_um, 3.0)
    centre_um = (side_px / 2 / scale + float(offset_um[0]), side_px / 2 / scale + float(offset_um[1]))

    shape = (side_px, side_px)
    density, _ = red_cell_density(laboratory, shape, [(*centre_um, radius_um)], rng)
    field = density * jittered(laboratory.stains.haemoglobin, laboratory, rng)
    for _ in range(int(rng.poisson(laboratory.platelets_per_image))):
        _add_bystander_platelet(field, laboratory, centre_um, radius_um, rng)
    window = window_around(laboratory, shape, centre_um, radius_um * 1.3 + 0.6)
    cell = draw_morphology(morphology, window, radius_um, laboratory, rng)
    add_cell(field, window, cell)

    mask = np.zeros(shape, dtype=np.uint8)
    view = mask[window.rows, window.columns]
    view[cell.outline_um < 0] = MASK_CYTOPLASM
    if cell.nucleus_um is not None:
        view[cell.nucleus_um < 0] = MASK_NUCLEUS
    return photograph(field, laboratory, rng), mask


def jittered(rgb: tuple[float, float, float], laboratory: Laboratory, rng: np.random.Generator) -> Field:
    """Return the absorbance (3, 1, 1) of a stain with the hue variation between slides."""
    hue = np.exp(rng.normal(0.0, laboratory.stain_jitter / 2, size=3)).astype(np.float32)
    return (absorbance(rgb) * hue)[:, None, None]


def add_cell(field: Field, window: Window, cell: DrawnCell) -> None:
    """Lay a drawn cell over the absorbance `field` (3, H, W) in place, hiding what is below it."""
    view = field[:, window.rows, window.columns]
    view *= 1.0 - 0.92 * cell.coverage
    view += cell.absorbance


def _add_bystander_platelet(
    field: Field, laboratory: Laboratory, centre_um: tuple[float, float], radius_um: float, rng: np.random.Generator
) -> None:
    """Lay one platelet over `field` (3, H, W) in place, beside the target cell."""
    morphology = MORPHOLOGIES["platelet"]
    side_um = laboratory.image_size_px / laboratory.pixels_per_um
    platelet_radius_um = sample(rng, morphology.diameter_um) / 2
    x_um, y_um = rng.uniform(2.0, side_um - 2.0, size=2)
    if math.hypot(x_um - centre_um[0], y_um - centre_um[1]) < radius_um + platelet_radius_um + 1.0:
        return
    window = window_around(laboratory, field.shape[1:], (float(x_um), float(y_um)), platelet_radius_um * 1.5 + 0.6)
    add_cell(field, window, draw_morphology(morphology, window, platelet_radius_um, laboratory, rng))


def _chromatin_density(
    chromatin: Chromatin, nucleus: Nucleus, window: Window, depth_um: Field, rng: np.random.Generator
) -> Field:
    """Return the stain density (h, w) of a nucleus at `depth_um` below its contour: clumps or lace, folds, nucleoli."""
    texture = smooth_noise(window.shape, sample(rng, chromatin.clump_um) * window.pixels_per_um, rng)
    clumps = np.tanh(1.2 * texture)
    if chromatin.lace > 0:
        strands = np.clip(1.1 - 1.5 * np.abs(texture), -1.3, 1.0)  # ridges along the zero line of the noise form a net
        clumps = chromatin.lace * strands + (1.0 - chromatin.lace) * clumps
    relative = 1.0 + sample(rng, chromatin.contrast) * clumps
    relative += 0.22 * np.exp(-np.square(depth_um / 0.35)) - 0.1 * np.exp(-depth_um / 0.5)
    if rng.random() < nucleus.fold_probability:
        angle, place = rng.uniform(0, math.pi), rng.uniform(-1.5, 1.5)
        bend = 0.6 * smooth_noise(window.shape, 1.5 * window.pixels_per_um, rng)
        line = window.x_um * math.cos(angle) + window.y_um * math.sin(angle) - place + bend
        relative -= 0.3 * np.exp(-np.square(line / 0.35))
    for _ in range(int(rng.integers(nucleus.n_nucleoli[0], nucleus.n_nucleoli[1] + 1))):
        size_um, angle = rng.uniform(0.9, 1.7), rng.uniform(0, 2 * math.pi)
        reach = float(depth_um.max()) * 0.6 * math.sqrt(rng.random())
        x, y = window.x_um - reach * math.cos(angle), window.y_um - reach * math.sin(angle)
        away = (length(x, y * rng.uniform(0.85, 1.15)) - size_um) / 0.4
        relative += 0.1 * np.exp(-np.square(away)) - 0.3 / (1.0 + np.exp(np.clip(4 * away, -20, 20)))
    density: Field = sample(rng, chromatin.density) * np.maximum(relative, 0.15).astype(np.float32)
    return density


def _granule_density(
    granules: Granules, window: Window, outline_um: Field, nucleus_um: Field | None, rng: np.random.Generator
) -> Field:
    """Return the density (h, w) of granules on a jittered grid, so that they fill the cell without gaps or heaps."""
    scale = window.pixels_per_um
    height, width = window.shape
    spacing_px = scale / math.sqrt(sample(rng, granules.per_um2))
    diameter_um, density = sample(rng, granules.diameter_um), sample(rng, granules.density)
    grid = np.mgrid[0:height:spacing_px, 0:width:spacing_px].reshape(2, -1)
    places = grid + rng.uniform(-0.55, 0.55, size=grid.shape) * spacing_px
    rows, columns = np.clip(places, 0, [[height - 1], [width - 1]]).astype(np.intp)
    radii_px = diameter_um / 2 * scale * rng.uniform(0.75, 1.25, size=rows.size)
    keep = outline_um[rows, columns] < -radii_px / scale
    if nucleus_um is not None:
        keep &= (nucleus_um[rows, columns] > 0.1) | (rng.random(rows.size) < granules.nucleus_cover)
    places, radii_px = places[:, keep], radii_px[keep]
    strength = density * rng.uniform(0.6, 1.2, size=radii_px.size)
    if not radii_px.size:
        return np.zeros(window.shape, dtype=np.float32)
    # All granules are stamped at once: (n, k) pixels of a small square around each.
    reach = math.ceil(float(radii_px.max())) + 1
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, 1, -1)
    pixels = np.floor(places)[:, :, None] + steps
    away = np.sqrt(np.square(pixels + 0.5 - places[:, :, None]).sum(axis=0))
    values = np.clip(radii_px[:, None] - away + 0.5, 0.0, 1.0) * strength[:, None]
    pixels = np.clip(pixels, 0, [[[height - 1]], [[width - 1]]]).astype(np.intp)
    field = np.zeros(height * width, dtype=np.float32)
    np.maximum.at(field, (pixels[0] * width + pixels[1]).ravel(), values.ravel().astype(np.float32))
    return field.reshape(height, width)


def _cytoplasm_density(
    morphology: Morphology, window: Window, outline_um: Field, nucleus_um: Field | None, rng: np.random.Generator
) -> Field:
    """Return the stain density (h, w) of the cytoplasm: mottle, rim, pale zone at the nucleus, vacuoles."""
    cytoplasm = morphology.cytoplasm
    relative = 1.0 + cytoplasm.mottle * smooth_noise(window.shape, 0.35 * window.pixels_per_um, rng)
    relative += cytoplasm.mottle * 0.6 * smooth_noise(window.shape, 1.2 * window.pixels_per_um, rng)
    relative += cytoplasm.rim * np.exp(-np.square((outline_um + 0.25) / 0.35))
    if nucleus_um is not None and cytoplasm.halo > 0:
        relative -= cytoplasm.halo * np.exp(-np.square(np.maximum(nucleus_um, 0.0) / 0.8))
    half_um = morphology.diameter_um[0] / 2
    lowest, highest = cytoplasm.n_vacuoles
    for _ in range(int(rng.integers(lowest, highest + 1))):
        angle, reach = rng.uniform(0, 2 * math.pi), half_um * math.sqrt(rng.uniform(0.15, 0.95))
        away = length(window.x_um - reach * math.cos(angle), window.y_um - reach * math.sin(angle))
        relative *= 1.0 - 0.75 * window.coverage(away - np.float32(rng.uniform(0.2, 0.6)), 0.15)
    density: Field = sample(rng, cytoplasm.density) * np.maximum(relative, 0.1).astype(np.float32)
    return density


def draw_morphology(
    morphology: Morphology, window: Window, radius_um: float, laboratory: Laboratory, rng: np.random.Generator
) -> DrawnCell:
    """Return one cell of a morphology, drawn around the origin of its window."""
    stains = laboratory.stains
    strength = np.float32(laboratory.stain_strength * math.exp(rng.normal(0.0, laboratory.stain_jitter)))
    outline_um = outline_distance(morphology, window, radius_um, rng)
    nucleus_um: Field | None = None
    if morphology.nucleus is not None:
        nucleus_um = nucleus_distance(morphology.nucleus, window, radius_um, rng)
        # A nucleus presses against the membrane but never leaves the cell.
        nucleus_um = np.maximum(nucleus_um, outline_um + np.float32(0.25))
    coverage = window.coverage(outline_um, 0.1)
    blue = np.float32(sample(rng, morphology.cytoplasm.basophilia))
    tint = blue * jittered(stains.basophilic, laboratory, rng)
    tint = tint + (1 - blue) * jittered(stains.acidophilic, laboratory, rng)
    cytoplasm = coverage * _cytoplasm_density(morphology, window, outline_um, nucleus_um, rng)
    layers = cytoplasm * tint
    if nucleus_um is not None and morphology.nucleus is not None and morphology.chromatin is not None:
        inside = window.coverage(nucleus_um, 0.1)
        depth_um = np.maximum(-nucleus_um, 0.0)
        density = _chromatin_density(morphology.chromatin, morphology.nucleus, window, depth_um, rng)
        layers *= 1.0 - 0.75 * inside
        layers += (inside * density) * jittered(stains.chromatin, laboratory, rng)
    if morphology.granules is not None:
        granules = _granule_density(morphology.granules, window, outline_um, nucleus_um, rng)
        layers += granules * jittered(getattr(stains, morphology.granules.stain), laboratory, rng)
    return DrawnCell(layers * strength, coverage, outline_um, nucleus_um)


def photograph(field: Field, laboratory: Laboratory, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the RGB photograph, uint8 (H, W, 3), of an absorbance `field` (3, H, W): lamp, optics, sensor, JPEG."""
    down, across = (np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in field.shape[1:])
    angle, slope = rng.uniform(0, 2 * math.pi), laboratory.illumination_gradient * rng.uniform(0.3, 1.0)
    bow_down, bow_across = (laboratory.vignetting * np.square(axis) for axis in (down, across))
    lamp = (1.0 + slope * math.cos(angle) * across - bow_across) + (slope * math.sin(angle) * down - bow_down)[:, None]
    exposure = 1 + rng.normal(0.0, laboratory.exposure_jitter)
    # White balance errs along the lamp's colour temperature: more red goes with less blue.
    warmth = rng.normal(0.0, laboratory.white_balance_jitter)
    gain = exposure * np.array([1 + warmth, 1.0, 1 - warmth])
    light = (np.asarray(laboratory.background_rgb) * gain).astype(np.float32)
    blur_px = laboratory.blur_sigma_px * math.exp(rng.normal(0.0, laboratory.focus_jitter))
    pixels = np.empty((*lamp.shape, 3), dtype=np.uint8)
    # One noise for all channels: the camera's chroma subsampling leaves little coloured noise.
    noise = laboratory.noise_levels * white_noise(lamp.shape, rng)
    for channel in range(3):
        plane = scipy.ndimage.gaussian_filter(np.exp(-field[channel]) * lamp, blur_px, truncate=3.0)
        pixels[..., channel] = np.clip(plane * light[channel] + noise + 0.5, 0.0, 255.0)
    if laboratory.jpeg_quality:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=laboratory.jpeg_quality)
        pixels = np.array(Image.open(buffer))
    return pixels
