"""Galleries of cells: samples of each class, and rows of named pictures such as a mask and new images of its cell."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemalens.datasets import CellDataset
from hemalens.datasets.splits import seeded
from hemalens.errors import ImageError, InputError
from hemalens.evaluation import formatting
from hemalens.evaluation.results import Picture, PictureTable
from hemalens.evaluation.thumbnails import THUMBNAIL_PX, thumbnail


def sample_gallery(
    dataset: CellDataset,
    *,
    title: str,
    per_class: int = 2,
    size_px: int = THUMBNAIL_PX,
    note: str = "",
    seed: int = 0,
) -> PictureTable:
    """`per_class` cells of each class, drawn at random and the same for the same seed, in the order of the classes.

    A class with fewer images shows all of them. An unreadable image is passed over, and the note counts them. Raises
    `InputError` for `per_class` below 1.
    """
    if per_class < 1:
        raise InputError("no cell to show", expected="per_class of 1 or more", got=str(per_class))
    rows: list[Picture] = []
    n_unreadable = 0
    for target, code in enumerate(dataset.classes):
        n_shown = 0
        for i in seeded(seed, "gallery", code).permutation(np.flatnonzero(dataset.targets == target)):
            record = dataset.records[i]
            if n_shown == per_class:
                break
            try:
                shown = thumbnail(record.read(), size_px)
            except ImageError:
                n_unreadable += 1
                continue
            rows.append(Picture(name=record.file_name, caption=formatting.label(code), pictures=(shown,)))
            n_shown += 1
    if n_unreadable:
        note = f"{note} {formatting.counted(n_unreadable, 'unreadable image')} passed over.".strip()
    return PictureTable(title=title, columns=("",), rows=tuple(rows), note=note)


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """Pictures of one cell by name: images, uint8 (H, W, 3) RGB, and masks, bool (H, W); None where there is none."""

    name: str
    pictures: Mapping[str, NDArray[np.uint8] | NDArray[np.bool_] | None]
    caption: str = ""


def mask_gallery(rows: Sequence[GalleryRow], *, title: str, note: str = "", size_px: int = THUMBNAIL_PX) -> PictureTable:
    """A row a cell, such as its image, its mask and new images; the columns are the names of all pictures.

    Masks are white on black. Raises `InputError` without a picture, and for an array of another shape or kind.
    """
    columns = tuple(dict.fromkeys(name for row in rows for name in row.pictures))
    if not columns:
        raise InputError("a gallery without pictures", expected="one row or more, each with named pictures", got="none")
    return PictureTable(
        title=title,
        columns=columns,
        rows=tuple(
            Picture(
                name=row.name,
                caption=row.caption,
                pictures=tuple(_picture(row.pictures.get(name), f"{row.name}, {name}", size_px) for name in columns),
            )
            for row in rows
        ),
        note=note,
    )


def _picture(array: NDArray[np.uint8] | NDArray[np.bool_] | None, what: str, size_px: int) -> str:
    if array is None:
        return ""
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return thumbnail(np.asarray(array, np.uint8), size_px)
    if array.dtype == np.bool_ and array.ndim == 2:
        return _mask(np.asarray(array, np.bool_), size_px)
    raise InputError(
        f"{what} is no picture",
        expected="uint8 (H, W, 3) or bool (H, W)",
        got=f"{array.dtype} {array.shape}",
    )


def _mask(mask: NDArray[np.bool_], size_px: int) -> str:
    """A mask as a small PNG in base64, white on black."""
    small = Image.fromarray(mask.astype(np.uint8) * 255)
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.point(lambda level: 255 * (level > 127)).convert("1").save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
