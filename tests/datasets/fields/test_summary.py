"""Summaries of fields: counts by laboratory, recomputed; copies and near copies between two sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_fields import OBJECTS, write_synthetic_fields, write_txl_pbc, write_voc, write_yolo
from hemalens.datasets.fields.open import open_fields
from hemalens.datasets.fields.summary import KindSummary, compare_fields, identical_fields, summarise


def test_counts_and_sides_by_laboratory(tmp_path: Path) -> None:
    summary = summarise(open_fields(write_txl_pbc(tmp_path)))
    assert summary.n_fields == 5
    assert summary.n_in_domain == {"acevedo20": 2, "bccd": 2, "raabin": 1}
    # a white cell of 90 px and a red cell of 51 px in each field
    assert summary.domains["bccd"]["white cell"] == KindSummary(2, 90.0, 2)
    assert summary.domains["raabin"]["red cell"] == KindSummary(1, 51.0, 1)
    assert summary.domains["raabin"]["platelet"] == KindSummary(0, None, 1)
    assert summary.sizes == dict.fromkeys(("575 x 575", "416 x 416", "640 x 480", "360 x 363", "366 x 369"), 1)


def test_types_slides_and_fields_without_a_cell(tmp_path: Path) -> None:
    dataset = open_fields(write_synthetic_fields(tmp_path))
    summary = summarise(dataset)
    typed = [code for field in dataset.fields for code in field.cell_types if code]
    assert summary.types == {code: typed.count(code) for code in sorted(set(typed))}
    assert sum(summary.types.values()) == dataset.counts["white cell"] > 0
    assert (summary.n_slides, summary.n_empty) == (1, 1)


def test_what_is_left_out_is_stated(tmp_path: Path) -> None:
    spec = write_yolo(tmp_path, (OBJECTS, (*OBJECTS, ("dust", (1, 1, 9, 9)))), names=("WBC", "RBC", "Platelets", "dust"))
    assert summarise(open_fields(spec)).dropped == {"class 'dust' is no kind of cell": 1}


def test_copies_and_near_copies_between_two_sets_are_found(tmp_path: Path) -> None:
    first = open_fields(write_yolo(tmp_path / "a"))
    write_voc(tmp_path / "b", seed=5)
    images = tmp_path / "b" / "JPEGImages"
    shutil.copy(first.fields[0].record.path, images / "0.png")
    with Image.open(first.fields[1].record.path) as image:
        brighter = np.clip(np.asarray(image).astype(int) + 1, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(images / "1.png")
    second = open_fields(f"voc:{tmp_path / 'b'}")
    same = [[str(first.fields[0].record.path), str(images / "0.png")]]
    assert identical_fields([first, second]) == same
    found = compare_fields([first, second])
    assert found.copies == same
    ((one, other, difference),) = found.near_duplicates
    assert (one, other) == (str(first.fields[1].record.path), str(images / "1.png"))
    assert difference == pytest.approx(1, abs=0.5)


def test_sets_without_a_common_image_have_no_copies(tmp_path: Path) -> None:
    first, second = open_fields(write_yolo(tmp_path / "a")), open_fields(write_yolo(tmp_path / "b", seed=3))
    assert identical_fields([first, second]) == []
