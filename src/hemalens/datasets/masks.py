"""Masks of a dataset: the records that have one, and the checked mask of a cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets.base import CellDataset, Record
from hemalens.errors import DatasetError, ImageError, one_line
from hemalens.imaging.formats import JPEG_SUFFIXES, suffix_of
from hemalens.imaging.reading import read_mask

JPEG_TRACES = 63
"""Gray values up to this are background in a JPEG mask, where compression leaves traces."""


def with_masks(dataset: CellDataset) -> CellDataset:
    """Keep the records that have a mask; raises `DatasetError` when there are none."""
    chosen = [i for i, record in enumerate(dataset.records) if record.mask_path is not None]
    if not chosen:
        raise DatasetError(
            f"{dataset.name} has no masks",
            expected="images with a mask each, as in jtsc, cellavision100, synthetic, or a csv with the column mask",
            got=f"{len(dataset)} images without one",
        )
    return dataset.subset(chosen)


def check_cell_masks(dataset: CellDataset) -> None:
    """Read every mask and raise `ImageError` for the first bad one, so that training does not fail halfway."""
    for record in dataset.records:
        read_cell_mask(record, record.unstaged().read())


def read_cell_mask(
    record: Record, image: NDArray[np.uint8], *, may_fill: bool = False, may_be_empty: bool = False
) -> NDArray[np.bool_]:
    """Read the mask (H, W) of a record's cell, True where the file is above 0 (in a JPEG: above 63).

    `image` is the record's image, (H, W, 3). Raises `ImageError` for a mask of another size, or one that is all background
    or all cell. `may_fill` allows all cell, `may_be_empty` all background, as in tissue without tumour.
    """
    if record.mask_path is None:
        raise DatasetError(f"{one_line(record.name)} has no mask")
    traces = JPEG_TRACES if suffix_of(record.mask_path) in JPEG_SUFFIXES else 0
    mask = read_mask(record.mask_path, page=record.page) > traces
    if mask.shape != image.shape[:2]:
        height, width = image.shape[:2]
        raise ImageError(
            f"the mask {one_line(record.mask_path)} is not of its image's size",
            expected=f"{width}x{height} px",
            got=f"{mask.shape[1]}x{mask.shape[0]} px",
            remedy="Repair it, or take the image out.",
        )
    if (not mask.any() and not may_be_empty) or (mask.all() and not may_fill):
        raise ImageError(
            f"the mask {one_line(record.mask_path)} has one class only",
            expected="0 for background and another value for the cell",
            got="nothing but cell" if mask.all() else "nothing but background",
            remedy="Repair it, or take the image out.",
        )
    return mask
