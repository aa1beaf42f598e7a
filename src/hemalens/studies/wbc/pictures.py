"""Pictures of the mask augmentation: cells with their masks, and the new images made of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from hemalens.datasets import CellDataset
from hemalens.datasets.masks import read_cell_mask
from hemalens.evaluation.formatting import label
from hemalens.evaluation.results import PictureTable
from hemalens.evaluation.thumbnails import THUMBNAIL_PX
from hemalens.imaging.reading import Preprocessing
from hemalens.report.gallery import GalleryRow, mask_gallery
from hemalens.studies.wbc.common import OpenStudy
from hemalens.training.masks import MaskUse, training_images


def mask_pictures(study: OpenStudy, *, seed: int) -> list[PictureTable]:
    """A cell of each class with its mask and its new images, as in the first row that makes any; none without such a row.

    Figures 4 and 5 of Kong's paper.
    """
    for _, config in study.rows.values():
        use = getattr(config, "masks", MaskUse())
        if use.copies and not use.segmenter:
            shown = _one_a_class(study.cells.parts.train)
            return [_table(shown, use, segmenter=study.cells.segmenter, seed=seed)] if len(shown) else []
    return []


def _one_a_class(train: CellDataset) -> CellDataset:
    """The first image of each class that has a mask."""
    masked = np.array([record.mask_path is not None for record in train.records])
    found = (np.flatnonzero(masked & (train.targets == i)) for i in range(len(train.classes)))
    return train.subset([int(positions[0]) for positions in found if len(positions)])


def _table(cells: CellDataset, use: MaskUse, *, segmenter: str, seed: int) -> PictureTable:
    with TemporaryDirectory() as folder:
        preprocessing = Preprocessing(size_px=THUMBNAIL_PX)
        pixels, _ = training_images(cells, preprocessing, use, seed=seed, run_dir=Path(folder))
        images = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in pixels]
    rows = []
    for i, record in enumerate(cells.records):
        original = record.unstaged().read()
        shown: dict[str, NDArray[np.uint8] | NDArray[np.bool_] | None] = {"image": original}
        shown["mask"] = read_cell_mask(record, original)
        for n in range(use.copies):
            shown[f"new image {n + 1}"] = images[len(cells) + i * use.copies + n]
        rows.append(GalleryRow(record.file_name, shown, caption=label(str(record.label))))
    return mask_gallery(
        rows,
        title="Cells with their masks, and new images of them",
        note="New images show the cell alone, moved, rotated and flipped at random."
        + (f" The masks are those of the segmenter {segmenter}, which may hold neighbouring cells." if segmenter else ""),
    )
