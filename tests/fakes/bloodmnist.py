"""BloodMNIST as MedMNIST distributes it: one npz with images and labels of three parts, the classes mixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fakes.cells import drawn_cell, numbered

# in the order of the numbers that stand for them
KINDS = {
    "basophil": "basophil",
    "eosinophil": "eosinophil",
    "erythroblast": "erythroblast",
    "immature granulocytes": "blast",
    "lymphocyte": "lymphocyte",
    "monocyte": "monocyte",
    "neutrophil": "neutrophil",
    "platelet": "platelet",
}
PARTS = ("train", "val", "test")


def file_name(side_px: int) -> str:
    """The published name of the file of one size."""
    return "bloodmnist.npz" if side_px == 28 else f"bloodmnist_{side_px}.npz"


def arrays(*, n_per_class: int = 3, seed: int = 0, side_px: int = 28) -> dict[str, NDArray[Any]]:
    """The six arrays, `n_per_class` images a class in each part."""
    found: dict[str, list[Any]] = {f"{part}_{kind}": [] for part in PARTS for kind in ("images", "labels")}
    for label, kind, number, i in numbered(KINDS, len(PARTS) * n_per_class):
        part = PARTS[i // n_per_class]
        image, _ = drawn_cell(kind, number, seed=seed, width=side_px, height=side_px)
        found[f"{part}_images"].append(image)
        found[f"{part}_labels"].append([list(KINDS).index(label)])
    rng = np.random.default_rng(seed)
    mixed: dict[str, NDArray[Any]] = {}
    for part in PARTS:
        order = rng.permutation(len(found[f"{part}_labels"]))
        for name in (f"{part}_images", f"{part}_labels"):
            mixed[name] = np.array(found[name], np.uint8)[order]
    return mixed


def save(path: Path, content: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as MedMNIST does."""
    np.savez_compressed(path, **content)


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 28) -> str:
    """Write one file into `root`; return the name for `open_dataset`."""
    root.mkdir(parents=True, exist_ok=True)
    save(root / file_name(side_px), arrays(n_per_class=n_per_class, seed=seed, side_px=side_px))
    return f"bloodmnist:{root}"


def change_pixel(root: Path) -> None:
    """Change one pixel of one image of the file in `root`."""
    (path,) = root.glob("*.npz")
    with np.load(path, allow_pickle=False) as file:
        content = dict(file)
    content["test_images"][-1, 3, 3] += 128
    save(path, content)
