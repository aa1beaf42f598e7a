"""Synthetic cells, drawn for tests and for trying the program out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hemalens.datasets.base import SYNTHETIC_MARKER, Listing, Reader, Record, is_image_file, wrong_layout
from hemalens.datasets.synthetic.cells import CELL_TYPES
from hemalens.datasets.synthetic.drawing import draw_cell
from hemalens.datasets.synthetic.laboratory import LABORATORIES
from hemalens.errors import ConfigError, near_matches
from hemalens.files import atomic_dir, files_below

__all__ = ["CELL_TYPES", "LABORATORIES", "READER", "draw_cell", "drawn_files", "synthesize"]

MARKER = SYNTHETIC_MARKER
VERSION = 1
LAYOUT = f"<laboratory>/{MARKER}, images/<cell type>/*.png, masks/<cell type>/*.png, as `hemalens data synthesize` writes"


def synthesize(
    folder: Path,
    *,
    n_per_class: int = 60,
    seed: int = 0,
    laboratories: Sequence[str] = tuple(LABORATORIES),
    cell_types: Sequence[str] = CELL_TYPES,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Draw `n_per_class` cells of each type in each laboratory, with masks, into `folder`, atomically.

    Raises `ConfigError` for an unknown laboratory or cell type, `OutputError` where `folder` cannot be written.
    `progress` is called after each image. The same seed draws the same cells, whatever the other arguments are.
    """
    for names, known in ((laboratories, tuple(LABORATORIES)), (cell_types, CELL_TYPES)):
        for name in names:
            if name not in known:
                raise ConfigError(f"unknown laboratory or cell type {name!r}", remedy=near_matches(name, known))
    with atomic_dir(folder, drawn_files) as top:
        for laboratory in laboratories:
            for cell_type in cell_types:
                images = top / laboratory / "images" / cell_type
                masks = top / laboratory / "masks" / cell_type
                images.mkdir(parents=True)
                masks.mkdir(parents=True)
                for number in range(n_per_class):
                    key = [seed, list(LABORATORIES).index(laboratory), CELL_TYPES.index(cell_type), number]
                    image, mask = draw_cell(cell_type, LABORATORIES[laboratory], np.random.default_rng(key))
                    name = f"{cell_type}_{number:04d}.png"
                    # level 1: twice as fast as the default and hardly larger
                    Image.fromarray(image).save(images / name, compress_level=1)
                    Image.fromarray(mask).save(masks / name, compress_level=1)
                    progress()
            facts = {"version": VERSION, "seed": seed, "laboratory": laboratory, "n_per_class": n_per_class}
            (top / laboratory / MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def drawn_files(folder: Path) -> list[str] | None:
    """The files that `synthesize` or `synthesize_tissue` has drawn in a folder; None for a folder of something else."""
    found = files_below(folder)
    marked = {name.removesuffix(f"/{MARKER}") for name in found if name.endswith(f"/{MARKER}")}
    drawn = [name for name in found if name.partition("/")[0] in marked and _DRAWN.fullmatch(name.rpartition("/")[2])]
    return drawn if marked else None


_DRAWN = re.compile(rf"{re.escape(MARKER)}|(region|normal|tumor|{'|'.join(CELL_TYPES)})_[0-9]{{4,}}\.png")
"""Names of drawn files."""


def _read(root: Path) -> Listing:
    laboratories = [root] if (root / MARKER).is_file() else [p.parent for p in sorted(root.glob(f"*/{MARKER}"))]
    # a laboratory with labels holds whole fields, which `synthetic_fields` reads
    laboratories = [folder for folder in laboratories if not (folder / "labels").is_dir()]
    records = [
        Record(
            path, path.parent.name, domain=laboratory.name, mask_path=laboratory / "masks" / path.parent.name / path.name
        )
        for laboratory in laboratories
        for path in sorted((laboratory / "images").glob("*/*.png"))
        if is_image_file(path)
    ]
    if not records:
        raise wrong_layout(root, "synthetic cells", LAYOUT)
    return Listing(records, name=laboratories[0].name if len(laboratories) == 1 else None)


READER = Reader(
    name="synthetic",
    title="synthetic cells",
    licence="Apache-2.0",
    citation="drawn by hemalens",
    layout=LAYOUT,
    labels={name: name for name in CELL_TYPES},
    read=_read,
    synthetic=True,
)
