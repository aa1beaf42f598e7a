"""A user's own folder of classes: PNG, one folder a class, the class names as a user would write them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {
    "Neutrophils": "neutrophil",
    "eosinophil": "eosinophil",
    "basophil": "basophil",
    "LYM": "lymphocyte",
    "monocyte": "monocyte",
    "blast": "blast",
}


def write(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write one folder a class below `root`; return the name for `open_dataset`."""
    for label, kind, number, i in numbered(KINDS, n_per_class):
        (root / label).mkdir(parents=True, exist_ok=True)
        image, _ = drawn_cell(kind, number, seed=seed, width=96, height=96)
        Image.fromarray(image).save(root / label / f"cell {i}.png", compress_level=1)
    return f"folder:{root}"
