"""Fields to draw windows from: nuclei of masks, of the classical rule, and unknown ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import drawn_fields
from hemalens import files
from hemalens.errors import ImageError
from hemalens.imaging.boxes import WHITE, Boxes
from hemalens.training.detector.sheets import classical_marks, read_sheets
from hemalens.training.detector.windows import NUCLEUS_BIT, UNKNOWN_BIT


def test_the_classical_rule_finds_the_drawn_nucleus(tmp_path: Path) -> None:
    image, boxes, mask = drawn_fields.drawn(3)
    (sheet,), counts = read_sheets([drawn_fields.field(tmp_path, 3)], tmp_path / "scratch.npy")
    found, wanted = sheet.marks == NUCLEUS_BIT, mask == 255
    assert (found & wanted).sum() / (found | wanted).sum() > 0.8
    assert (counts.n_white, counts.n_with_nucleus, counts.n_masked) == (1, 1, 0)
    assert np.array_equal(sheet.image, image)
    assert np.array_equal(sheet.boxes.corners, boxes.corners)


def test_a_mask_is_taken_as_it_is(tmp_path: Path) -> None:
    field = drawn_fields.field(tmp_path, 4, mask=True)
    _, _, mask = drawn_fields.drawn(4)
    (sheet,), counts = read_sheets([field], tmp_path / "scratch.npy")
    # cytoplasm, 128 in the mask, is none
    assert np.array_equal(sheet.marks == NUCLEUS_BIT, mask == 255)
    assert not (sheet.marks & UNKNOWN_BIT).any()
    assert (counts.n_white, counts.n_with_nucleus, counts.n_masked) == (1, 1, 1)


def test_a_mask_without_the_nucleus_counts_none(tmp_path: Path) -> None:
    field = drawn_fields.field(tmp_path, 4, mask=True)
    assert field.record.mask_path is not None
    Image.new("L", (drawn_fields.SIDE, drawn_fields.SIDE)).save(field.record.mask_path)
    _, counts = read_sheets([field], tmp_path / "scratch.npy")
    assert (counts.n_white, counts.n_with_nucleus, counts.n_masked) == (1, 0, 0)


def test_where_the_rule_finds_no_nucleus_it_is_unknown() -> None:
    plain = np.full((60, 60, 3), 200, np.uint8)
    marks, n = classical_marks(plain, np.array([[10.0, 10, 50, 50]]))
    assert n == 0
    assert np.all(marks[12:48, 12:48] == UNKNOWN_BIT)
    assert not marks[:4].any()


@pytest.mark.parametrize("corners", [[70.0, 70, 90, 90], [-30.0, -30, -5, -5], [20.0, 20, 23, 23]])
def test_a_box_outside_or_of_few_pixels_has_no_nucleus(corners: list[float]) -> None:
    marks, n = classical_marks(np.zeros((60, 60, 3), np.uint8), np.array([corners]))
    assert n == 0
    assert not (marks & NUCLEUS_BIT).any()


def test_many_fields_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [drawn_fields.field(tmp_path, seed) for seed in range(3)]
    in_memory, _ = read_sheets(fields, tmp_path / "scratch" / "fields.npy")
    assert not (tmp_path / "scratch").exists()
    monkeypatch.setattr(files, "MAX_RAM_BYTES", 1000)
    mapped, _ = read_sheets(fields, tmp_path / "scratch" / "fields.npy")
    assert (tmp_path / "scratch" / "fields.npy").stat().st_size > 3 * 4 * drawn_fields.SIDE**2
    for one, other in zip(in_memory, mapped, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.marks, other.marks)


def test_an_unreadable_field_is_named(tmp_path: Path) -> None:
    good, bad = drawn_fields.field(tmp_path, 0), drawn_fields.field(tmp_path, 1)
    bad.record.path.write_bytes(bad.record.path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"field_1\.png.*--drop-unreadable"):
        read_sheets([good, bad], tmp_path / "scratch.npy")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    field = drawn_fields.field(tmp_path, 0, mask=True)
    assert field.record.mask_path is not None
    Image.new("L", (30, 20), 255).save(field.record.mask_path)
    with pytest.raises(ImageError, match=r"mask_0\.png' is not of its field's size; expected 120x120 px; got 30x20 px"):
        read_sheets([field], tmp_path / "scratch.npy")


def test_a_field_without_a_white_cell_has_no_marks(tmp_path: Path) -> None:
    field = drawn_fields.field(tmp_path, 0)
    others = field.boxes[field.boxes.kinds != WHITE]
    (sheet,), counts = read_sheets([replace(field, boxes=others)], tmp_path / "scratch.npy")
    assert not sheet.marks.any()
    assert counts.n_white == 0
    (empty,), _ = read_sheets([replace(field, boxes=Boxes(), complete=("white cell",))], tmp_path / "scratch.npy")
    assert empty.complete == (WHITE,)
