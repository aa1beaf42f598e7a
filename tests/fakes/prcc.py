"""Regions of papillary renal cell carcinoma as distributed: PNG in one flat folder; or, typed, in a folder a type."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hemalens.datasets.synthetic.tissue import drawn_tissue

KINDS = {"type1": "small_nuclei", "type2": "large_nuclei"}
FOLDER = "pRCC_nolabel"


def write(root: Path, *, n_per_class: int = 3, seed: int = 0, side_px: int = 160, typed: bool = False) -> str:
    """Write `n_per_class` regions a type below `root`, mixed in one folder or typed; return the name for `open_dataset`."""
    for k, (label, kind) in enumerate(KINDS.items()):
        folder = root / (label if typed else FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n_per_class):
            # numbers that other fakes of tissue do not use
            image, _ = drawn_tissue(kind, 100_000 + i, seed=seed, side_px=side_px)
            Image.fromarray(image).save(folder / f"region_{len(KINDS) * i + k:04d}.png", compress_level=1)
    return f"prcc:{root if typed else root / FOLDER}"
