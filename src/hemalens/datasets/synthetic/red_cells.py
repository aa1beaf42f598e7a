"""Red cells between the other cells of a drawn smear: where they lie, and what they absorb."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.synthetic.laboratory import Laboratory
from hemalens.datasets.synthetic.shapes import Field, smooth_noise

Circle = tuple[float, float, float]
"""x, y and radius in micrometres."""


@dataclass(frozen=True, slots=True)
class RedCell:
    """One red cell: its centre and diameter in micrometres, its place in the image, and its mask (h, w) there."""

    x_um: float
    y_um: float
    diameter_um: float
    rows: slice
    columns: slice
    mask: NDArray[np.bool_]


def _positions(
    laboratory: Laboratory, shape: tuple[int, int], others: Sequence[Circle], rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Return (x, y, diameter) in micrometres of red cells that stay clear of `others` and rarely overlap."""
    height_um, width_um = (side / laboratory.pixels_per_um for side in shape)
    margin_um = laboratory.red_cell_diameter_um[1] / 2
    area_um2 = (width_um + 2 * margin_um) * (height_um + 2 * margin_um)
    wanted = int(rng.poisson(laboratory.red_cells_per_100_um2 * area_um2 / 100))
    places = rng.uniform(-margin_um, (width_um + margin_um, height_um + margin_um), size=(3 * wanted, 2))
    lowest, highest = laboratory.red_cell_diameter_um
    diameters = rng.triangular(lowest, (lowest + highest) / 2, highest, size=3 * wanted)
    free = np.ones(3 * wanted, bool)
    for x_um, y_um, radius_um in others:
        # Red cells press against a leukocyte, hence the small overlap.
        free &= np.linalg.norm(places - (x_um, y_um), axis=1) > radius_um + diameters / 2 - 0.4
    may_overlap = rng.random(3 * wanted) < 0.25
    placed: list[int] = []
    for candidate in np.flatnonzero(free).tolist():
        away = np.linalg.norm(places[placed] - places[candidate], axis=1)
        gap = (away - (diameters[placed] + diameters[candidate]) / 2).min(initial=1.0)
        if len(placed) < wanted and (gap >= 0.0 or (gap > -2.5 and may_overlap[candidate])):
            placed.append(candidate)
    return [(*places[index].tolist(), float(diameters[index])) for index in placed]


def red_cell_density(
    laboratory: Laboratory, shape: tuple[int, int], others: Sequence[Circle], rng: np.random.Generator
) -> tuple[Field, list[RedCell]]:
    """Return the density of plasma and red cells, float32 (H, W), and the red cells: biconcave discs, pale in the middle.

    `others` are the places of the cells that they lie around.
    """
    scale = laboratory.pixels_per_um
    density = laboratory.background_mottle * smooth_noise(shape, 2.0 * scale, rng)
    down, across = ((np.arange(side, dtype=np.float32) + 0.5) / scale for side in shape)
    # One smooth deformation of the whole plane makes every disc irregular at the price of one.
    warped_x = across[None, :] + 0.24 * smooth_noise(shape, 1.5 * scale, rng)
    warped_y = down[:, None] + 0.24 * smooth_noise(shape, 1.5 * scale, rng)
    pallor_of_slide = rng.uniform(0.35, 0.75)
    found = []
    for x_um, y_um, diameter_um in _positions(laboratory, shape, others, rng):
        half_um = diameter_um / 2 + 0.9
        left, right = max(0, int((x_um - half_um) * scale)), min(shape[1], int((x_um + half_um) * scale))
        top, bottom = max(0, int((y_um - half_um) * scale)), min(shape[0], int((y_um + half_um) * scale))
        angle, ratio = rng.uniform(0, math.pi), 1.0 - 0.16 * rng.beta(1.2, 2.0)
        pallor, width = pallor_of_slide * rng.uniform(0.3, 1.25), rng.uniform(0.4, 0.75)
        thickness = laboratory.red_cell_density * rng.uniform(0.85, 1.15)
        if left >= right or top >= bottom:
            continue
        x = warped_x[top:bottom, left:right] - x_um
        y = warped_y[top:bottom, left:right] - y_um
        u = x * math.cos(angle) + y * math.sin(angle)
        v = (y * math.cos(angle) - x * math.sin(angle)) / ratio
        squared = (u * u + v * v) * np.float32(4 / diameter_um**2)
        edge = np.clip((1.0 - squared) * np.float32(diameter_um * scale / 8), 0.0, 1.0)
        profile = 0.85 + 0.2 * squared - pallor * np.square(np.clip(1.0 - squared / width, 0.0, 1.0))
        density[top:bottom, left:right] += thickness * edge * profile
        found.append(RedCell(x_um, y_um, diameter_um, slice(top, bottom), slice(left, right), squared < 1))
    return density, found
