"""LDWBC as code that uses it has it: one folder a class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered

KINDS = {name: name for name in ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")}


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 128) -> str:
    """Write `n_per_class` images a class; return the name for `open_dataset`."""
    for label, kind, number, i in numbered(KINDS, n_per_class):
        folder = root / "LDWBC" / label
        folder.mkdir(parents=True, exist_ok=True)
        image, _ = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        Image.fromarray(image).save(folder / f"{i + 1}.jpg", quality=90)
    return f"ldwbc:{root}"
