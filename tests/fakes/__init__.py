"""Fake data in the real layouts, generated: one generator a dataset reader, listed in `FAKES`.

Each is called as `write(root, n_per_class=3, seed=0)` with a folder that is new or empty, and returns the name to give
to `open_dataset`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fakes import acevedo20, bccd, bloodmnist, cam16, cnmc, csv, folder, matek19, prcc, raabin, wbc_subsets, zheng2018
from hemalens.datasets.synthetic import synthesize

__all__ = ["FAKES"]


def _write_synthetic(root: Path, *, n_per_class: int = 3, seed: int = 0) -> str:
    synthesize(root / "cells", n_per_class=n_per_class, seed=seed)
    return f"synthetic:{root / 'cells'}"


FAKES: dict[str, Callable[..., str]] = {
    "acevedo20": acevedo20.write,
    "matek19": matek19.write,
    "cnmc": cnmc.write,
    "jtsc": zheng2018.write_jtsc,
    "cellavision100": zheng2018.write_cellavision100,
    "bccd": bccd.write_crops,
    "bccd_fields": bccd.write_fields,
    "wbc_subsets": wbc_subsets.write,
    "cam16": cam16.write,
    "prcc": prcc.write,
    "raabin": raabin.write,
    "bloodmnist": bloodmnist.write,
    "folder": folder.write,
    "csv": csv.write,
    "synthetic": _write_synthetic,
}
