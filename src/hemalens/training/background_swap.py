"""Training images in one another's surroundings: what lies beside a cell tells its type in no other laboratory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemalens.bundle.segmenter import open_segmenter
from hemalens.bundle.stages import CLASSICAL, CellImageStage, shown_mask
from hemalens.datasets.base import CellDataset
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError
from hemalens.files import large_array, write_json
from hemalens.imaging.compositing import Share, grown, in_surroundings, shows_background, without_cell
from hemalens.imaging.segmentation import largest_component
from hemalens.training.masks import MASKS_FILE, MaskUse, cell_shares

RIM_PX, EDGE_PX = 2.0, 3.0
"""How far around its mask a cell keeps its pixels, and over how many more it goes over into the other surroundings."""
_KEPT = 255
"""A pixel of the image's own, in a mask of 8 bits."""


def check_exchange(train: CellDataset, share: float, use: MaskUse) -> None:
    """Raises `ConfigError` where surroundings are to be exchanged that the images do not show."""
    if not share:
        return
    if use.used:
        raise ConfigError(
            f"background={share} exchanges what lies beside the cells, and masks.* changes it already",
            remedy="Set background=0, or leave masks.copies, masks.masked_inputs and masks.background=removed out.",
        )
    if any(isinstance(stage, CellImageStage) for stage in train.stages):
        raise ConfigError(
            f"background={share} exchanges what lies beside the cells, and the cells are cut out already",
            remedy="Set background=0, or say --cell-image centred.",
        )


class Surroundings:
    """Gives a share of the images the surroundings of another image, drawn by the seed that an image comes with.

    `pixels` are the images (n, 3, size, size), `shares` position and cell's share (size, size) of each in which a cell was
    found: the others stay as they are, and lend none. One whose cell fills it lends none either. Large sets lie in files
    in the folder `scratch`. Raises `ConfigError` where fewer than two images have surroundings to lend.
    """

    def __init__(self, pixels: NDArray[np.uint8], shares: Iterable[tuple[int, Share]], share: float, scratch: Path) -> None:
        self.share = share
        n, _, *size = pixels.shape
        self.masks: NDArray[np.uint8] = large_array((n, *size), np.uint8, scratch / "cells.npy")
        self.masks[:] = _KEPT
        lending, self.n_cells = [], 0
        for i, cell in shares:
            kept = grown(cell, rim_px=RIM_PX, edge_px=EDGE_PX)
            self.masks[i] = np.rint(kept * _KEPT)
            self.n_cells += 1
            if shows_background(self._cell(i)):
                lending.append(i)
        if len(lending) < 2:
            raise ConfigError(
                "fewer than two training images show anything beside a cell that was found", remedy="Set background=0."
            )
        self.lent: NDArray[np.uint8] = large_array((len(lending), *size, 3), np.uint8, scratch / "surroundings.npy")
        self.place = {i: place for place, i in enumerate(lending)}
        for i, place in self.place.items():
            self.lent[place] = without_cell(pixels[i].transpose(1, 2, 0), self._cell(i))

    def __call__(self, image: NDArray[np.uint8], index: int, seed: int) -> NDArray[np.uint8]:
        """The image (3, size, size) at `index`, its cell in its own or in another's surroundings."""
        rng = seeded(seed, "surroundings")
        if rng.random() >= self.share:
            return image
        own = self.place.get(index)
        drawn = int(rng.integers(len(self.lent) - (own is not None)))
        other = self.lent[drawn + (own is not None and drawn >= own)]
        return in_surroundings(image.transpose(1, 2, 0), self._cell(index), other).transpose(2, 0, 1)

    def _cell(self, i: int) -> Share:
        cell: Share = self.masks[i].astype(np.float32) / np.float32(_KEPT)
        return cell


def exchanged(
    train: CellDataset, pixels: NDArray[np.uint8], share: float, *, use: MaskUse, run_dir: Path
) -> Surroundings | None:
    """The exchange for a training on `pixels`, the resized images of `train`; None for a share of 0.

    Cells are found in the images as they are shown, by `use.segmenter`, or the classical one where none is named. What was
    found is counted in `run_dir`/masks.json. Raises `ConfigError` where the images show no surroundings.
    """
    if not share:
        return None
    check_exchange(train, share, use)
    segmenter = open_segmenter(use.segmenter or CLASSICAL)
    shares = cell_shares(train, pixels.shape[-1], lambda record: largest_component(shown_mask(record, segmenter)))
    made = Surroundings(pixels, shares, share, run_dir / "scratch")
    counts = {"images": len(train), "with a mask": made.n_cells, "surroundings": len(made.lent)}
    write_json(run_dir / MASKS_FILE, counts | {"exchanged": share, "segmenter": use.segmenter or CLASSICAL})
    return made
