"""A user's own table: path,label,group,domain,mask beside the images it names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell, numbered
from fakes.folder import KINDS

HEADER = "path,label,group,domain,mask"


def write(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write images, masks and `cells.csv` below `root`, one patient for two cells; return the name for `open_dataset`."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = [HEADER]
    for n, (label, kind, number, i) in enumerate(numbered(KINDS, n_per_class)):
        image, mask = drawn_cell(kind, number, seed=seed, width=90, height=84)
        Image.fromarray(image).save(root / "images" / f"{n:03d}.png", compress_level=1)
        Image.fromarray(mask).save(root / "masks" / f"{n:03d}.png", compress_level=1)
        rows.append(f"images/{n:03d}.png,{label},patient {n // 2},ward {i % 2},masks/{n:03d}.png")
    table = root / "cells.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return f"csv:{table}"
