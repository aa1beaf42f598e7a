"""Synthetic fields of view on disk: a folder of slides a laboratory, with boxes, cell types and nuclei."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hemalens.datasets.base import SYNTHETIC_MARKER
from hemalens.datasets.fields.yolo_rows import write_rows
from hemalens.datasets.synthetic.laboratory import LABORATORIES
from hemalens.datasets.synthetic.smear import (
    PLATELET,
    RED_CELL,
    WHITE_TYPES,
    DrawnField,
    SmearConfig,
    draw_empty_field,
    draw_fields,
)
from hemalens.errors import ConfigError, near_matches, public
from hemalens.files import atomic_dir, files_below, write_json

VERSION = 1
CLASSES = (*WHITE_TYPES, RED_CELL, PLATELET)
"""The classes of the boxes, in the order of their indices."""
NAMES = "data.yaml"
TRUTH = "cells.csv"
HEADER = ("slide", "field", "cell", "type", "left", "top", "right", "bottom")
FOLDERS = ("images", "labels", "masks")
DEFAULT = SmearConfig()
_KEY = 7
"""In the key of the random numbers: fields draw others than single cells do."""


@public
def synthesize_fields(
    folder: Path,
    *,
    config: SmearConfig = DEFAULT,
    seed: int = 0,
    laboratories: Sequence[str] = tuple(LABORATORIES),
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Draw fields of view of each laboratory into `folder`, atomically, with boxes, cell types and masks.

    Each laboratory is a YOLO folder whose classes are cell types: images/<slide>/<field>.png, labels and masks likewise.
    Its `cells.csv` numbers the cells of a slide; a cell in two overlapping fields has one number. `progress` is called
    after each field. Raises `ConfigError` for an unknown laboratory, `OutputError` where `folder` cannot be written.
    """
    for name in laboratories:
        if name not in LABORATORIES:
            raise ConfigError(f"unknown laboratory {name!r}", remedy=near_matches(name, LABORATORIES))
    with atomic_dir(folder, drawn_field_files) as top:
        for name in laboratories:
            rows: list[Sequence[object]] = []
            for slide in range(config.n_slides):
                key = [seed, _KEY, list(LABORATORIES).index(name), slide]
                numbers: dict[tuple[int, int], int] = {}
                for i, (stretch, field) in enumerate(_slide(name, config, key)):
                    cells = [numbers.setdefault((stretch, number), len(numbers) + 1) for number in field.numbers]
                    rows += _write(top / name, f"slide_{slide + 1}", f"field_{i + 1:04d}", field, cells)
                    progress()
            (top / name / NAMES).write_text("names:\n" + "".join(f"  - {c}\n" for c in CLASSES), encoding="utf-8")
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([HEADER, *rows])
            (top / name / TRUTH).write_text(table.getvalue(), encoding="utf-8")
            facts = {
                "version": VERSION,
                "what": "fields",
                "laboratory": name,
                "seed": seed,
                **config.model_dump(mode="json"),
            }
            write_json(top / name / SYNTHETIC_MARKER, facts)


def n_drawn_fields(config: SmearConfig, laboratories: Sequence[str]) -> int:
    """How many fields `synthesize_fields` draws."""
    return config.n_slides * config.n_fields * len(laboratories)


def _slide(name: str, config: SmearConfig, key: list[int]) -> list[tuple[int, DrawnField]]:
    """The fields of a slide, each with the number of its stretch: pairs of neighbours where fields overlap."""
    laboratory, has_empty = LABORATORIES[name], config.empty and key[-1] == 0
    n, together = config.n_fields - has_empty, 2 if config.overlap else 1
    found: list[tuple[int, DrawnField]] = []
    for stretch in itertools.count():
        left = min(together, n - len(found))
        if left < 1:
            break
        rng = np.random.default_rng([*key, stretch])
        found += [(stretch, field) for field in draw_fields(laboratory, config, left, rng)]
    if has_empty:
        found.append((-1, draw_empty_field(laboratory, config, np.random.default_rng([*key, 2**31]))))
    return found


def _write(top: Path, slide: str, name: str, field: DrawnField, cells: Sequence[int]) -> list[Sequence[object]]:
    """Write one field; return its rows of the table of cells."""
    images, labels, masks = (top / folder / slide for folder in FOLDERS)
    for folder in (images, labels, masks):
        folder.mkdir(parents=True, exist_ok=True)
    # level 1: twice as fast as the default and hardly larger
    Image.fromarray(field.image).save(images / f"{name}.png", compress_level=1)
    Image.fromarray(field.mask).save(masks / f"{name}.png", compress_level=1)
    height, width = field.mask.shape
    write_rows(labels / f"{name}.txt", [CLASSES.index(c) for c in field.cell_types], field.corners, (width, height))
    boxes = field.corners.astype(int).tolist()
    return [(slide, name, *row, *box) for row, box in zip(zip(cells, field.cell_types, strict=True), boxes, strict=True)]


def is_drawn_fields(folder: Path) -> bool:
    """Whether a folder is one laboratory of drawn fields."""
    return (folder / SYNTHETIC_MARKER).is_file() and (folder / "labels").is_dir()


def drawn_field_files(folder: Path) -> list[str] | None:
    """The files that `synthesize_fields` has drawn in a folder; None for a folder of something else."""
    top = [path.parent for path in folder.glob(f"*/{SYNTHETIC_MARKER}") if is_drawn_fields(path.parent)]
    own = [
        f"{laboratory.name}/{name}"
        for laboratory in top
        for name in files_below(laboratory)
        if name in (SYNTHETIC_MARKER, NAMES, TRUTH) or (name.partition("/")[0] in FOLDERS and "/field_" in name)
    ]
    return own if top else None
