"""Raabin-WBC's ground truths: the whole cell as mask, smears as groups, images and masks without a partner."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import raabin_masks
from fakes.cells import drawn_cell
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.masks import check_cell_masks, read_cell_mask
from hemalens.errors import DatasetError

N = 2


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The folder GrTh, with small images."""
    raabin_masks.write(tmp_path / "set", n_per_class=N, side_px=64)
    return tmp_path / "set" / "GrTh"


def _open(root: Path) -> CellDataset:
    return open_dataset(f"raabin_masks:{root}")


def test_every_cell_has_its_mask_and_its_smear(top: Path) -> None:
    dataset = _open(top)
    assert dataset.class_counts == dict.fromkeys(("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"), N)
    for record in dataset.records:
        assert record.mask_path == top / "Ground Truth" / record.source_label / record.path.name
        assert record.group == record.path.name.split("_")[0]
    assert {r.group for r in dataset.records} == set(raabin_masks.SMEARS)
    assert dataset.notes == ()
    check_cell_masks(dataset)


def test_the_mask_is_nucleus_and_cytoplasm_without_traces_of_compression(top: Path) -> None:
    record = next(r for r in _open(top).records if r.source_label == "Monocyte")
    _, drawn = drawn_cell("monocyte", 0, seed=0, width=64, height=64)
    assert {0, 128, 255} == set(np.unique(drawn))
    read = read_cell_mask(record, record.read())
    # at the rim the two differ by the eight-pixel blocks of the JPEG
    assert np.mean(read != (drawn > 0)) < 0.02


def test_a_mask_of_three_gray_channels_is_the_same_mask(top: Path) -> None:
    record = _open(top).records[0]
    expected = read_cell_mask(record, record.read())
    assert record.mask_path is not None
    with Image.open(record.mask_path) as mask:
        colours = mask.convert("RGB")
    colours.save(record.mask_path, quality=95)
    # compressed once more
    assert np.mean(read_cell_mask(record, record.read()) != expected) < 0.01


def test_the_set_opens_from_its_folder_and_from_those_around_it(top: Path, tmp_path: Path) -> None:
    outer = tmp_path / "Raabin-WBC Data - Nucleus_cytoplasm_Ground truths"
    expected = _open(top).fingerprint
    (tmp_path / "set").rename(outer)
    for folder in (tmp_path, outer, outer / "GrTh"):
        assert _open(folder).fingerprint == expected
    assert _open((outer / "GrTh").rename(outer / "ground truths")).fingerprint == expected


def test_images_and_masks_without_a_partner_are_noted(top: Path) -> None:
    first, second = sorted((top / "Original" / "Basophil").iterdir())
    first.unlink()
    (top / "Ground Truth" / "Basophil" / second.name).unlink()
    dataset = _open(top)
    assert dataset.notes == (
        "1 of 9 image(s) have no mask",
        f"1 mask(s) have no image and were left out, the first {first.name!r}",
    )


def test_other_files_and_empty_classes_are_noted(top: Path) -> None:
    (top / "Original" / "Monocyte" / "._95-5-4-1_1_1.jpg").write_bytes(b"")
    (top / "Original" / "Burst").mkdir()
    (top / "readme.txt").write_text("")
    shutil.rmtree(top / "Original" / "Basophil")
    shutil.rmtree(top / "Ground Truth" / "Basophil")
    assert _open(top).notes == (
        "the folder 'Original/Basophil' holds no image",
        "3 file(s) or folder(s) outside the expected layout were left out: 'readme.txt', '._95-5-4-1_1_1.jpg', 'Burst'",
    )


def test_a_suffix_in_capitals_keeps_its_mask(top: Path) -> None:
    path = min((top / "Original" / "Basophil").iterdir())
    path.rename(path.with_suffix(".JPG"))
    assert all(record.mask_path is not None for record in _open(top).records)


def test_a_folder_without_masks_is_another_layout(top: Path) -> None:
    shutil.rmtree(top / "Ground Truth")
    with pytest.raises(
        DatasetError, match=r"is not laid out as Raabin-WBC \(nucleus and cytoplasm\); expected GrTh/Original"
    ):
        _open(top)
