"""Zheng-2018 as distributed: BMP images, PNG masks (0, 128, 255), one CSV a set with Windows line ends."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fakes.cells import drawn_cell

KINDS = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}
# the header differs between the two sets, the spelling is theirs
HEADERS = {1: "image ID,class label", 2: "image ID,class"}


def write_jtsc(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write Dataset 1 below `root`: about 120x120 px, sizes vary; return the name for `open_dataset`."""
    _write(root, 1, (120, 104, 124), n_per_class, seed)
    return f"jtsc:{root}"


def write_cellavision100(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Write Dataset 2 below `root`: 300x300 px; return the name for `open_dataset`."""
    _write(root, 2, (300,), n_per_class, seed)
    return f"cellavision100:{root}"


def _write(root: Path, number: int, sides_px: tuple[int, ...], n_per_class: int, seed: int) -> None:
    folder = root / f"Dataset {number}"
    folder.mkdir(parents=True)
    rows = [HEADERS[number]]
    for i in range(n_per_class):
        # the classes lie mixed, as in the real sets
        for label, kind in KINDS.items():
            image_id = len(rows)
            side = sides_px[image_id % len(sides_px)]
            image, mask = drawn_cell(kind, i, seed=seed + number, width=side, height=side)
            Image.fromarray(image).save(folder / f"{image_id:03d}.bmp")
            Image.fromarray(mask).save(folder / f"{image_id:03d}.png")
            rows.append(f"{image_id},{label}")
    table = root / f"Class Labels of Dataset {number}.csv"
    table.write_text("".join(f"{row}\r\n" for row in rows), encoding="ascii", newline="")
