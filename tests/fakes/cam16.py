"""Camelyon-16 patches as distributed: train, val and test of two classes, PNG, a mask for every third training image."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hemalens.datasets.synthetic.tissue import drawn_tissue

KINDS = {"normal": "small_nuclei", "tumor": "large_nuclei"}
FOLDER = "CAM16_100cls_10mask"
PARTS = ("train", "val", "test")


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 96) -> str:
    """Write `n_per_class` patches a class in each part below `root`; return the name for `open_dataset`."""
    for label, kind in KINDS.items():
        for number, (part, i) in enumerate((part, i) for part in PARTS for i in range(n_per_class)):
            image, mask = drawn_tissue(kind, number, seed=seed, side_px=side_px)
            arrays = {"data": image, "mask": mask} if part == "train" and i % 3 == 0 else {"data": image}
            for inner, array in arrays.items():
                folder = root / FOLDER / part / inner / label
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{label}_{number:04d}.png", compress_level=1)
    return f"cam16:{root / FOLDER}"
