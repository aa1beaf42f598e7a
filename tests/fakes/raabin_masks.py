"""Raabin-WBC's ground truths as distributed: images and masks in class folders, all of them JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {name.capitalize(): name for name in ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")}
SMEARS = ("95-5-4-1", "95-9-15-1")
LEVELS = {128: 255, 255: 100}
"""Gray level of the cytoplasm and of the nucleus, by those of the drawn masks."""


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 575) -> str:
    """Write `n_per_class` images a class with masks; return the name for `open_dataset`."""
    for n, (label, kind, number, i) in enumerate(numbered(KINDS, n_per_class)):
        image, drawn = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        mask = np.zeros_like(drawn)
        for level, published in LEVELS.items():
            mask[drawn == level] = published
        for part, picture in (("Original", image), ("Ground Truth", mask)):
            folder = root / "GrTh" / part / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{SMEARS[i % 2]}_{40 + n}_1.jpg", quality=90)
    return f"raabin_masks:{root}"
