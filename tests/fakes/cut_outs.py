"""Fields with YOLO boxes to cut out of: noise in the grey levels of its cells, a white cell in the corner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 160
WHITE, RED, PLATELET = range(3)
BOXES = (
    (WHITE, 0, 0, 60, 60),
    *((RED, x, y, x + 30, y + 28) for x, y in ((70, 4), (110, 6), (8, 80), (50, 76), (90, 70), (124, 110), (20, 124))),
    *((PLATELET, x, y, x + 12, y + 11) for x, y in ((100, 45), (62, 132), (90, 140))),
)
"""(class, left, top, right, bottom) of each cell of a field."""
LEVELS = {WHITE: 60, RED: 160, PLATELET: 110}


def draw_field(root: Path, name: str, rng: np.random.Generator) -> Path:
    """One field with the `BOXES`, below `root`; return its image."""
    image = rng.integers(200, 256, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    rows = []
    for kind, left, top, right, bottom in BOXES:
        image[top:bottom, left:right] -= np.uint8(200 - LEVELS[kind])
        shares = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        rows.append(" ".join([str(kind), *(str(value / SIDE_PX) for value in shares)]))
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    path = root / "images" / f"{name}.png"
    Image.fromarray(image).save(path)
    (root / "labels" / f"{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def write(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write fields that give more than `n_per_class` cut-outs a class; return the name for `open_dataset`."""
    for i in range(n_per_class):
        draw_field(root, f"field_{i}", np.random.default_rng([seed, i]))
    (root / "data.yaml").write_text("names: [WBC, RBC, Platelets]\n", encoding="utf-8")
    return f"cut_outs:yolo:{root}"
