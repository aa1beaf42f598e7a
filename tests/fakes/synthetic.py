"""Synthetic cells as `hemalens data synthesize` writes them."""

from __future__ import annotations

from pathlib import Path

from hemalens.datasets.synthetic import synthesize


def write(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    """Draw `n_per_class` cells of each type in each laboratory below `root`; return the name for `open_dataset`."""
    synthesize(root / "cells", n_per_class=n_per_class, seed=seed)
    return f"synthetic:{root / 'cells'}"
