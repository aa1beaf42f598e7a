"""Masks that datasets bring: which cells have one, and that a mask that cannot be learnt from is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fakes import FAKES
from hemalens.datasets import CellDataset, Record, open_dataset
from hemalens.datasets.masks import JPEG_TRACES, read_cell_mask, with_masks
from hemalens.errors import DatasetError, ImageError

IMAGE = np.zeros((20, 30, 3), np.uint8)


def _mask(side: tuple[int, int] = (20, 30)) -> NDArray[np.uint8]:
    """Cytoplasm 128, nucleus 255, as datasets keep them."""
    mask = np.zeros(side, np.uint8)
    mask[4:16, 5:20] = 128
    mask[8:12, 8:14] = 255
    return mask


def _record(folder: Path, mask: NDArray[np.uint8] | None) -> Record:
    path = None
    if mask is not None:
        path = folder / "a mask.png"
        Image.fromarray(mask).save(path)
    return Record(folder / "cell.png", "cell", "lab", mask_path=path)


def test_the_cell_is_wherever_its_mask_is_not_0(tmp_path: Path) -> None:
    for mask in (_mask(), (_mask() > 0).astype(np.uint8), (_mask() > 0).astype(np.uint8) * 255):
        found = read_cell_mask(_record(tmp_path, mask), IMAGE)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, _mask() > 0)


def test_a_1_bit_mask_is_one_too(tmp_path: Path) -> None:
    record = _record(tmp_path, _mask())
    Image.fromarray(_mask() > 0).save(tmp_path / "a mask.png")
    np.testing.assert_array_equal(read_cell_mask(record, IMAGE), _mask() > 0)


ONE_CLASS = {"nothing but cell": np.full((20, 30), 255, np.uint8), "nothing but background": np.zeros((20, 30), np.uint8)}


@pytest.mark.parametrize("got", ONE_CLASS)
def test_a_mask_of_one_class_is_an_error(tmp_path: Path, got: str) -> None:
    with pytest.raises(ImageError) as error:
        read_cell_mask(_record(tmp_path, ONE_CLASS[got]), IMAGE)
    assert str(error.value) == (
        f"the mask '{tmp_path / 'a mask.png'}' has one class only; "
        f"expected 0 for background and another value for the cell; got {got}. Repair it, or take the image out."
    )


def test_tissue_may_fill_its_image_or_be_missing_where_allowed(tmp_path: Path) -> None:
    found = read_cell_mask(_record(tmp_path, ONE_CLASS["nothing but cell"]), IMAGE, may_fill=True)
    assert found.shape == (20, 30)
    assert found.all()
    np.testing.assert_array_equal(read_cell_mask(_record(tmp_path, _mask()), IMAGE, may_fill=True), _mask() > 0)
    with pytest.raises(ImageError, match="got nothing but background"):
        read_cell_mask(_record(tmp_path, ONE_CLASS["nothing but background"]), IMAGE, may_fill=True)
    found = read_cell_mask(_record(tmp_path, ONE_CLASS["nothing but background"]), IMAGE, may_be_empty=True)
    assert found.shape == (20, 30)
    assert not found.any()
    with pytest.raises(ImageError, match="got nothing but cell"):
        read_cell_mask(_record(tmp_path, ONE_CLASS["nothing but cell"]), IMAGE, may_be_empty=True)


BLOCK = 8
"""Side of the squares that a JPEG compresses one by one: such a square of one value keeps it."""


@pytest.mark.parametrize("name", ["mask.jpg", "mask.jpeg", "MASK.JPG", "mask.png", "mask.bmp"])
def test_traces_around_the_white_of_a_jpeg_are_background(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 1, 30, JPEG_TRACES], [JPEG_TRACES + 1, 100, 128, 255]], np.uint8)
    Image.fromarray(values.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)).save(tmp_path / name, quality=100)
    record = Record(tmp_path / "cell.png", "cell", "lab", mask_path=tmp_path / name)
    found = read_cell_mask(record, np.zeros((2 * BLOCK, 4 * BLOCK, 3), np.uint8))
    whole = values > (0 if name.endswith(("png", "bmp")) else 63)
    np.testing.assert_array_equal(found, whole.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1))


def test_a_jpeg_of_nothing_but_traces_has_no_cell(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 40, np.uint8)).save(tmp_path / "mask.jpg", quality=100)
    record = Record(tmp_path / "cell.png", "cell", "lab", mask_path=tmp_path / "mask.jpg")
    with pytest.raises(ImageError, match="got nothing but background"):
        read_cell_mask(record, np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize("shape", [(30, 20), (20, 29), (40, 60)])
def test_a_mask_of_another_size_is_an_error(tmp_path: Path, shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as error:
        read_cell_mask(_record(tmp_path, _mask(shape)), IMAGE)
    assert str(error.value) == (
        f"the mask '{tmp_path / 'a mask.png'}' is not of its image's size; "
        f"expected 30x20 px; got {shape[1]}x{shape[0]} px. Repair it, or take the image out."
    )


def test_an_unreadable_or_coloured_mask_is_an_image_error(tmp_path: Path) -> None:
    record = _record(tmp_path, _mask())
    path = tmp_path / "a mask.png"
    coloured = IMAGE.copy()
    coloured[..., 0] = 200
    Image.fromarray(coloured).save(path)
    with pytest.raises(ImageError, match=r"mask '.*a mask.png' is no mask; expected gray values; got RGB with"):
        read_cell_mask(record, IMAGE)
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=re.escape(str(path))):
        read_cell_mask(record, IMAGE)
    path.unlink()
    with pytest.raises(ImageError, match=re.escape(str(path))):
        read_cell_mask(record, IMAGE)


def test_a_record_without_a_mask_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'.*cell.png' has no mask"):
        read_cell_mask(_record(tmp_path, None), IMAGE)


def test_only_the_cells_with_masks_are_kept_in_their_order(tmp_path: Path) -> None:
    masked = _record(tmp_path, _mask())
    records = [replace(masked, path=tmp_path / f"{i}.png", mask_path=masked.mask_path if i % 2 else None) for i in range(5)]
    cells = CellDataset("cells", tuple(records), (), "as_labelled", "-", "-")
    assert [record.path.stem for record in with_masks(cells).records] == ["1", "3"]
    with pytest.raises(DatasetError) as error:
        with_masks(cells.subset([0, 2]))
    assert str(error.value) == (
        "cells has no masks; expected images with a mask each, as in jtsc, cellavision100, synthetic, or a csv with the "
        "column mask; got 2 images without one"
    )


@pytest.mark.parametrize("name", ["jtsc", "cellavision100", "synthetic"])
def test_sets_that_have_masks_give_one_a_cell(tmp_path: Path, name: str) -> None:
    cells = open_dataset(FAKES[name](tmp_path / "set", n_per_class=1))
    assert len(with_masks(cells)) == len(cells)
    for record in cells.records[:4]:
        mask = read_cell_mask(record, record.read())
        assert 0.02 < mask.mean() < 0.9


def test_sets_without_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"set has no masks; .*; got 6 images without one"):
        with_masks(open_dataset(FAKES["folder"](tmp_path / "set", n_per_class=1)))
