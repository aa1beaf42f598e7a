"""Drawing of fields of view: white cells, platelets and red cells of one smear, with their outlines.

A stretch of a smear is drawn once and photographed field by field, so that neighbouring fields can overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Setting

from hemalens.config import StrictConfig
from hemalens.datasets.synthetic.cells import MORPHOLOGIES
from hemalens.datasets.synthetic.drawing import (
    MASK_CYTOPLASM,
    MASK_NUCLEUS,
    DrawnCell,
    add_cell,
    draw_morphology,
    jittered,
    photograph,
)
from hemalens.datasets.synthetic.laboratory import Laboratory
from hemalens.datasets.synthetic.red_cells import Circle, red_cell_density
from hemalens.datasets.synthetic.shapes import Field, Window, sample, window_around
from hemalens.errors import ConfigError, near_matches

RED_CELL = "erythrocyte"
PLATELET = "platelet"
WHITE_TYPES = tuple(name for name in MORPHOLOGIES if name != PLATELET)
"""Types that are drawn as white cells, in a fixed order."""
BLOOD = {
    "neutrophil": 0.55,
    "lymphocyte": 0.28,
    "monocyte": 0.08,
    "eosinophil": 0.05,
    "basophil": 0.02,
    "erythroblast": 0.01,
    "blast": 0.01,
}
LEAST_PX = 4
"""Sides of the visible part from which on a cell at the border is boxed."""
TRIES = 60
"""Places that are tried for a cell before it is left out."""
STEP_PX = 8
"""Largest error of the stage across, between neighbouring fields."""


class SmearConfig(StrictConfig):
    """Settings of synthetic fields of view.

    Means a field: `white_cells`, of the types in `types` by their shares, and `platelets`. `red_cells_per_100_um2` is the
    density of red cells, by default the laboratory's. With `overlap`, fields are neighbours in pairs that share so much of
    their width. With `empty`, the last field of the first slide has no cell.
    """

    n_slides: int = Setting(default=2, ge=1, le=100)
    n_fields: int = Setting(default=6, ge=1, le=1000)
    width_px: int = Setting(default=640, ge=128, le=4096)
    height_px: int = Setting(default=480, ge=128, le=4096)
    white_cells: float = Setting(default=2.0, ge=0, le=50)
    platelets: float = Setting(default=5.0, ge=0, le=200)
    red_cells_per_100_um2: float | None = Setting(default=None, ge=0, le=4)
    overlap: float = Setting(default=0.0, ge=0, le=0.5)
    empty: bool = True
    types: Mapping[str, float] = Setting(default=BLOOD)

    def shares(self) -> NDArray[np.float64]:
        """The share of each of `WHITE_TYPES`, summing to 1; raises `ConfigError`."""
        for name in self.types:
            if name not in WHITE_TYPES:
                raise ConfigError(f"unknown white cell {name!r}", remedy=near_matches(name, WHITE_TYPES))
        shares = np.array([self.types.get(name, 0.0) for name in WHITE_TYPES])
        if shares.min() < 0 or shares.sum() <= 0:
            raise ConfigError("the shares of white cells cannot be used", expected="shares from 0 on, one of them above 0")
        found: NDArray[np.float64] = shares / shares.sum()
        return found


@dataclass(frozen=True, slots=True)
class Outline:
    """One drawn cell: its type, its number in the stretch, its place, and its mask (h, w) there."""

    cell_type: str
    number: int
    rows: slice
    columns: slice
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DrawnField:
    """A photographed field: the image (H, W, 3), the levels of its white cells (H, W), and the cells that are seen.

    `corners` (n, 4) are left, top, right, bottom of the visible part of each cell; `numbers` identify a cell in all fields
    of its stretch.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    cell_types: tuple[str, ...]
    numbers: tuple[int, ...]
    corners: NDArray[np.float64]


def draw_fields(laboratory: Laboratory, config: SmearConfig, n: int, rng: np.random.Generator) -> list[DrawnField]:
    """Draw `n` neighbouring fields of one smear, from left to right, each sharing `config.overlap` with the one before."""
    step = round(config.width_px * (1 - config.overlap))
    shape = (config.height_px + (STEP_PX if n > 1 else 0), config.width_px + (n - 1) * step)
    absorbance, levels, outlines = _stretch(laboratory, config, shape, rng)
    found = []
    for i in range(n):
        top = int(rng.integers(0, shape[0] - config.height_px + 1))
        place = (slice(top, top + config.height_px), slice(i * step, i * step + config.width_px))
        seen = [(outline, box) for outline in outlines if (box := _visible(outline, place)) is not None]
        found.append(
            DrawnField(
                photograph(absorbance[:, *place], laboratory, rng),
                levels[place].copy(),
                tuple(outline.cell_type for outline, _ in seen),
                tuple(outline.number for outline, _ in seen),
                np.array([box for _, box in seen], float).reshape(-1, 4),
            )
        )
    return found


def draw_empty_field(laboratory: Laboratory, config: SmearConfig, rng: np.random.Generator) -> DrawnField:
    """Draw a field of plasma, without a cell."""
    bare = config.model_copy(update={"white_cells": 0.0, "platelets": 0.0, "red_cells_per_100_um2": 0.0})
    return draw_fields(laboratory, bare, 1, rng)[0]


def _stretch(
    laboratory: Laboratory, config: SmearConfig, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Field, NDArray[np.uint8], list[Outline]]:
    """The absorbance (3, H, W) of a stretch, the levels (H, W) of its white cells, and the outlines of all cells."""
    if config.red_cells_per_100_um2 is not None:
        laboratory = replace(laboratory, red_cells_per_100_um2=config.red_cells_per_100_um2)
    share = shape[0] * shape[1] / (config.height_px * config.width_px)
    types = rng.choice(WHITE_TYPES, size=int(rng.poisson(config.white_cells * share)), p=config.shares()).tolist()
    white = _placed(types, laboratory, shape, [], rng)
    density, red = red_cell_density(laboratory, shape, [circle for _, circle in white], rng)
    absorbance = density * jittered(laboratory.stains.haemoglobin, laboratory, rng)
    taken = [circle for _, circle in white] + [(cell.x_um, cell.y_um, cell.diameter_um / 2 - 0.5) for cell in red]
    platelets = _placed([PLATELET] * int(rng.poisson(config.platelets * share)), laboratory, shape, taken, rng)
    levels = np.zeros(shape, np.uint8)
    outlines = [Outline(RED_CELL, i, cell.rows, cell.columns, cell.mask) for i, cell in enumerate(red)]
    for cell_type, circle in (*platelets, *white):
        window, cell = _drawn(cell_type, circle, laboratory, shape, rng)
        add_cell(absorbance, window, cell)
        outlines.append(Outline(cell_type, len(outlines), window.rows, window.columns, cell.outline_um < 0))
        view = levels[window.rows, window.columns]
        if cell_type != PLATELET:
            view[cell.outline_um < 0] = MASK_CYTOPLASM
        if cell.nucleus_um is not None:
            view[cell.nucleus_um < 0] = MASK_NUCLEUS
    return absorbance, levels, outlines


def _placed(
    types: list[str], laboratory: Laboratory, shape: tuple[int, int], taken: list[Circle], rng: np.random.Generator
) -> list[tuple[str, Circle]]:
    """Each type with a place that is clear of `taken` and of one another; a cell without a free place is left out."""
    height_um, width_um = (side / laboratory.pixels_per_um for side in shape)
    circles = np.array(taken, float).reshape(-1, 3)
    found = []
    for cell_type in types:
        radius_um = sample(rng, MORPHOLOGIES[cell_type].diameter_um) / 2
        tried = rng.uniform(0, (width_um, height_um), size=(TRIES, 2))
        gaps = np.linalg.norm(tried[:, None] - circles[None, :, :2], axis=2) - circles[:, 2] - radius_um
        free = np.flatnonzero(gaps.min(axis=1, initial=math.inf) > 0)
        if len(free):
            circle = (float(tried[free[0], 0]), float(tried[free[0], 1]), radius_um)
            circles = np.vstack([circles, circle])
            found.append((cell_type, circle))
    return found


def _drawn(
    cell_type: str, circle: Circle, laboratory: Laboratory, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Window, DrawnCell]:
    x_um, y_um, radius_um = circle
    window = window_around(laboratory, shape, (x_um, y_um), radius_um * (1.5 if cell_type == PLATELET else 1.3) + 0.6)
    return window, draw_morphology(MORPHOLOGIES[cell_type], window, radius_um, laboratory, rng)


def _visible(outline: Outline, place: tuple[slice, slice]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the part of a cell inside a field, from the field's corner; None for hardly any."""
    (rows, columns), field = (outline.rows, outline.columns), place
    top, left = max(rows.start, field[0].start), max(columns.start, field[1].start)
    seen = outline.mask[
        top - rows.start : max(0, field[0].stop - rows.start), left - columns.start : max(0, field[1].stop - columns.start)
    ]
    down, across = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    if not len(down) or min(down[-1] - down[0], across[-1] - across[0]) + 1 < LEAST_PX:
        return None
    x, y = left - field[1].start, top - field[0].start
    return x + int(across[0]), y + int(down[0]), x + int(across[-1]) + 1, y + int(down[-1]) + 1
