"""Acevedo-20 as distributed: eight folders, finer types in the prefixes, JPEG 360x363, one stray dot file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {
    "BA": "basophil",
    "EO": "eosinophil",
    "ERB": "erythroblast",
    "PMY": "blast",
    "MY": "blast",
    "MMY": "monocyte",
    "IG": "blast",
    "BNE": "neutrophil",
    "SNE": "neutrophil",
    "NEUTROPHIL": "neutrophil",
    "MO": "monocyte",
    "LY": "lymphocyte",
    "PLATELET": "platelet",
}
FOLDERS = {
    "BA": "basophil",
    "EO": "eosinophil",
    "ERB": "erythroblast",
    "LY": "lymphocyte",
    "MO": "monocyte",
    "PMY": "ig",
    "MY": "ig",
    "MMY": "ig",
    "IG": "ig",
    "PLATELET": "platelet",
    "BNE": "neutrophil",
    "SNE": "neutrophil",
    "NEUTROPHIL": "neutrophil",
}
STRAY = ".DS_169665.jpg"


def write(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write the layout below `root`, `n_per_class` images a prefix; return the name for `open_dataset`."""
    top = root / "PBC_dataset_normal_DIB"
    for folder in dict.fromkeys(FOLDERS.values()):
        (top / folder).mkdir(parents=True)
    for prefix, kind, number, i in numbered(KINDS, n_per_class):
        image, _ = drawn_cell(kind, number, seed=seed, width=360, height=363)
        Image.fromarray(image).save(top / FOLDERS[prefix] / f"{prefix}_{100003 + 7919 * i}.jpg", quality=90)
    image, _ = drawn_cell("neutrophil", 8 * n_per_class, seed=seed, width=360, height=363)
    Image.fromarray(image).save(top / "neutrophil" / STRAY)
    return f"acevedo20:{root}"
