"""Matek-19 as distributed: one folder a code, TIFF 400x400 RGBA whose alpha means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {
    "BAS": "basophil",
    "EBO": "erythroblast",
    "EOS": "eosinophil",
    "KSC": "platelet",
    "LYA": "lymphocyte",
    "LYT": "lymphocyte",
    "MMZ": "monocyte",
    "MOB": "blast",
    "MON": "monocyte",
    "MYB": "blast",
    "MYO": "blast",
    "NGB": "neutrophil",
    "NGS": "neutrophil",
    "PMB": "blast",
    "PMO": "blast",
}


def write(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write the layout below `root`, `n_per_class` images a code; return the name for `open_dataset`."""
    alpha = np.full((400, 400, 1), 255, np.uint8)
    for code, kind, number, i in numbered(KINDS, n_per_class):
        folder = root / "AML-Cytomorphology_LMU" / code
        folder.mkdir(parents=True, exist_ok=True)
        image, _ = drawn_cell(kind, number, seed=seed, width=400, height=400)
        rgba = np.concatenate([image, alpha], axis=2)
        Image.fromarray(rgba).save(folder / f"{code}_{i + 1:04d}.tiff")
    return f"matek19:{root}"


def write_matek19_reannotated(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write the same with the collection's table, in which the first image of a code has one more label each round."""
    write(root, n_per_class=n_per_class, seed=seed)
    rows = [
        f"{code}/{code}_{i + 1:04d}.tiff {code} " + (f"{'UNC' if code == 'BAS' else code} {code}" if i == 0 else "nan nan")
        for code, _, _, i in numbered(KINDS, n_per_class)
    ]
    (root / "annotations.dat").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return f"matek19_reannotated:{root}"
