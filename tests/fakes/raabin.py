"""Raabin-WBC's double-labelled crops as distributed: three parts of class folders, JPEG 575x575, named by smear."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {name.capitalize(): name for name in ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")}
PARTS = ("Train", "TestA", "TestB")
# two smears lie in two parts
SMEARS = {"Train": ("95-8-10-1", "95-9-15-1"), "TestA": ("95-8-10-1", "95-9-15-1"), "TestB": ("98-2-20-3",)}
FEW = ("Lymphocyte", "Neutrophil")
"""The only classes of TestB."""


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 575) -> str:
    """Write `n_per_class` images a class in each part; return the name for `open_dataset`."""
    for n, (label, kind, number, i) in enumerate(numbered(KINDS, len(PARTS) * n_per_class)):
        part = PARTS[i // n_per_class]
        if part == "TestB" and label not in FEW:
            continue
        folder = root / part / label
        folder.mkdir(parents=True, exist_ok=True)
        image, _ = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        smears = SMEARS[part]
        Image.fromarray(image).save(folder / f"{smears[i % len(smears)]}_{500 + n // 2}_{n % 2 + 1}.jpg", quality=90)
    return f"raabin:{root}"
