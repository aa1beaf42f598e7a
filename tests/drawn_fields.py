"""Small fields with drawn cells: a bluish nucleus in a pale cell, pink red cells, and their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fake_fields import write_drawn
from hemalens.datasets.base import Record
from hemalens.datasets.fields.base import Field, FieldDataset
from hemalens.imaging.boxes import PLATELET, RED, WHITE, Boxes

SIDE = 120
BACKGROUND, CELL, NUCLEUS, RED_CELL, SMALL = (
    (235, 228, 232),
    (200, 190, 215),
    (90, 50, 140),
    (225, 150, 155),
    (130, 90, 160),
)


def drawn(seed: int, *, n_white: int = 1) -> tuple[NDArray[np.uint8], Boxes, NDArray[np.uint8]]:
    """A field uint8 (SIDE, SIDE, 3) with its boxes, and its mask: 255 nucleus, 128 cytoplasm."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), BACKGROUND, np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    kinds, corners = [], []
    # one place of a grid of nine for each cell, so that none lie over one another
    places = [(20 + 40 * (i % 3), 20 + 40 * (i // 3)) for i in rng.permutation(9)]
    for number, (column, row) in enumerate(places[:6]):
        kind = WHITE if number < n_white else PLATELET if number == 5 else RED
        radius = {WHITE: 17, RED: 12, PLATELET: 5}[kind] + float(rng.uniform(-1, 1))
        far = np.hypot(x - column, y - row)
        image[far < radius] = {WHITE: CELL, RED: RED_CELL, PLATELET: SMALL}[kind]
        if kind == WHITE:
            image[far < 0.6 * radius] = NUCLEUS
            mask[far < radius], mask[far < 0.6 * radius] = 128, 255
        kinds.append(kind)
        corners.append([column - radius, row - radius, column + radius, row + radius])
    noise = rng.integers(-6, 7, image.shape)
    return (image.astype(int) + noise).clip(0, 255).astype(np.uint8), Boxes.of(kinds, corners), mask


def field(folder: Path, seed: int, *, domain: str = "lab", mask: bool = False, part: str | None = None) -> Field:
    """A drawn field on disk, with its mask of nuclei if asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    image, boxes, nuclei = drawn(seed)
    path = folder / f"field_{seed}.png"
    Image.fromarray(image).save(path)
    if mask:
        Image.fromarray(nuclei).save(folder / f"mask_{seed}.png")
    record = Record(path, "", domain=domain, mask_path=folder / f"mask_{seed}.png" if mask else None, part=part)
    return Field(record, boxes)


def fields(folder: Path, n: int = 4, *, first: int = 0, domain: str = "lab", name: str = "drawn") -> FieldDataset:
    """A dataset of drawn fields of one laboratory."""
    made = tuple(field(folder, first + i, domain=domain) for i in range(n))
    return FieldDataset(name, made, "CC0", "nobody", synthetic=True)


def yolo_folder(root: Path, n: int = 4, *, white: bool = True) -> Path:
    """Drawn fields in YOLO's layout; without white cells their rows are left out."""
    drawn_ones = {}
    for seed in range(n):
        image, boxes, _ = drawn(seed)
        kept = boxes if white else boxes[boxes.kinds != WHITE]
        drawn_ones[f"f{seed}"] = image, kept.kinds.tolist(), kept.corners
    write_drawn(root, drawn_ones)
    return root
