"""Use the masks of training images: blank the background, or paste copies of cells on other backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from hemalens.bundle.segmenter import open_segmenter, segmenter_source
from hemalens.bundle.stages import CellImageStage, Segmenter, kept_mask
from hemalens.config import StrictConfig
from hemalens.datasets.base import CellDataset, Record
from hemalens.datasets.masks import read_cell_mask
from hemalens.datasets.splits import seeded
from hemalens.errors import ConfigError
from hemalens.files import large_array, write_json
from hemalens.imaging.compositing import Share, cell_alone, moved_cell, plain, shows_background, without_cell
from hemalens.imaging.reading import Preprocessing
from hemalens.imaging.segmentation import CellImageConfig, largest_component
from hemalens.progress import track
from hemalens.training.data import resized_images

MASKS_FILE = "masks.json"
"""File in a run's folder that counts the masks and the new images."""
Background = Literal["mixed", "pasted", "removed"]
EmptyMasks = Literal["whole", "blank"]


class MaskUse(StrictConfig):
    """How the masks of training images are used.

    `masked_inputs`: blank the background of images that have a mask; the others stay whole. `empty_masks`: what tissue
    shows whose mask is all background, as in normal patches of CAM16: "whole", or "blank", the mask applied literally.
    `copies`: new images of every cell that has a mask, rotated, flipped and moved at random; 5 as published. `background`
    of the copies: "mixed", plain gray, while other images keep theirs (published); "pasted", the background of a training
    image that has a mask; "removed", plain gray in every image of training, validation and prediction. `segmenter`: source
    of the masks, "" for the dataset's own, "classical", or the folder of a trained one, which gives every image a mask.
    `gray`: the plain background, 0 black to 255 white.
    """

    masked_inputs: bool = False
    empty_masks: EmptyMasks = "whole"
    copies: int = Field(default=0, ge=0, le=100)
    background: Background = "mixed"
    segmenter: str = ""
    gray: int = Field(default=0, ge=0, le=255)

    def file_digests(self) -> dict[str, str]:
        """With the digest of a trained segmenter's manifest."""
        return super().file_digests() | segmenter_source("segmenter", self.segmenter)

    @property
    def used(self) -> bool:
        """Whether any mask is used."""
        return self.masked_inputs or self.copies > 0 or self.background == "removed"


def without_background(dataset: CellDataset, use: MaskUse, preprocessing: Preprocessing) -> CellDataset:
    """The dataset, with "removed" through the stage that blanks the background of every image.

    Raises `ConfigError` where "removed" has no segmenter, or the cells are cut out already.
    """
    if use.background != "removed":
        return dataset
    if not use.segmenter:
        raise ConfigError(
            "masks.background=removed needs masks of all images, also of those to predict",
            expected="masks.segmenter=classical, or the folder of a trained segmenter",
            got="the masks that come with some of the images",
        )
    if dataset.stages:
        raise ConfigError("the cells are cut out already", remedy="Leave --cell-image or masks.background=removed out.")
    shown = CellImageConfig(size_px=preprocessing.size_px, margin_px=0, background=use.gray, crop=False)
    return dataset.through((CellImageStage(open_segmenter(use.segmenter), shown),))


def training_images(
    train: CellDataset, preprocessing: Preprocessing, use: MaskUse, *, seed: int, run_dir: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Training images uint8 (m, 3, size, size) and targets (m,): those of the dataset, then the copies.

    Writes counts to `run_dir`/masks.json. Raises `ImageError` for an unreadable image, or a mask
    of another size than its image or without a cell, `ConfigError` where no image has a background to paste.
    """
    scratch = run_dir / "scratch"
    pixels = resized_images(train, preprocessing, scratch / "train.npy")
    if not use.used:
        return pixels, train.targets
    segmenter = open_segmenter(use.segmenter) if use.segmenter else None
    shares = dict(_cell_shares(train, preprocessing.size_px, lambda record: _mask(record, segmenter, use)))
    whole = (3, preprocessing.size_px, preprocessing.size_px)
    made: NDArray[np.uint8] = large_array((len(shares) * use.copies, *whole), np.uint8, scratch / "copies.npy")
    sources = np.repeat(np.fromiter(shares, np.int64, len(shares)), use.copies)
    backgrounds = _Backgrounds(pixels, shares, use)
    for position, i in enumerate(sources.tolist()):
        rng = seeded(seed, "copy", str(position))
        cell, share = _upright(pixels[i]), shares[i]
        made[position] = moved_cell(cell, share, backgrounds.draw(rng), rng).transpose(2, 0, 1)
    if use.masked_inputs:
        for i, share in shares.items():
            pixels[i] = cell_alone(_upright(pixels[i]), share, use.gray).transpose(2, 0, 1)
    counts = {"images": len(train), "with a mask": len(shares), "new images": len(made)}
    write_json(run_dir / MASKS_FILE, counts | {"background": use.background, "segmenter": use.segmenter or "none"})
    if not len(made):
        return pixels, train.targets
    together: NDArray[np.uint8] = large_array((len(pixels) + len(made), *whole), np.uint8, scratch / "together.npy")
    together[: len(pixels)], together[len(pixels) :] = pixels, made
    return together, np.concatenate([train.targets, train.targets[sources]])


def _cell_shares(
    train: CellDataset, size_px: int, mask_of: Callable[[Record], NDArray[np.bool_] | None]
) -> Iterator[tuple[int, Share]]:
    """Position of each image that has a mask, and the share of the cell in every resized pixel (size, size)."""
    with track("reading masks", len(train)) as progress:
        for i, record in enumerate(train.records):
            mask = mask_of(record)
            progress(1)
            if mask is not None:
                share = Image.fromarray(mask.astype(np.float32)).resize((size_px, size_px), Image.Resampling.BOX)
                yield i, np.asarray(share, np.float32)


def _mask(record: Record, segmenter: Segmenter | None, use: MaskUse) -> NDArray[np.bool_] | None:
    if record.before and use.background != "removed" and (segmenter or record.mask_path):
        raise ConfigError(
            "a mask belongs to the whole image, and the cells are cut out already",
            remedy="Leave --cell-image out, or use --set masks.copies=0 --set masks.masked_inputs=false.",
        )
    if segmenter is not None:
        found = largest_component(kept_mask(record, segmenter))
        return found if found.any() else None  # no cell found
    if record.mask_path is None:
        return None
    # tissue may fill its image, and may hold no tumour; a cell like that cannot be cut out
    may_be_empty = record.cell_type is None and not use.copies
    mask = read_cell_mask(record, record.unstaged().read(), may_fill=not use.copies, may_be_empty=may_be_empty)
    return mask if mask.any() or use.empty_masks == "blank" else None


class _Backgrounds:
    """Backgrounds of the copies: one gray value, or images that have a mask, with their cell removed."""

    def __init__(self, pixels: NDArray[np.uint8], shares: dict[int, Share], use: MaskUse) -> None:
        self.gray = plain((*pixels.shape[2:], 3), use.gray)
        self.ready: list[NDArray[np.uint8]] = []
        if use.background == "pasted" and use.copies:
            # a cell that fills its image leaves no background
            open_ = {i: share for i, share in shares.items() if shows_background(share)}
            if shares and not open_:
                raise ConfigError("no training image shows any background", remedy="Use --set masks.background=mixed.")
            self.ready = [without_cell(_upright(pixels[i]), share) for i, share in open_.items()]

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A random background, (size, size, 3)."""
        return self.ready[int(rng.integers(len(self.ready)))] if self.ready else self.gray


def _upright(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels.transpose(1, 2, 0)
