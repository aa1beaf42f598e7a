"""Synthetic fields on disk: slides as folders, one number a cell, true counts, atomic writes."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from hemalens.datasets import open_dataset
from hemalens.datasets.fields.open import open_fields
from hemalens.datasets.synthetic.fields import TRUTH, drawn_field_files, synthesize_fields
from hemalens.datasets.synthetic.smear import SmearConfig
from hemalens.errors import ConfigError, DatasetError
from hemalens.files import files_below
from hemalens.imaging.reading import read_mask

CONFIG = SmearConfig(n_slides=2, n_fields=3, width_px=200, height_px=160, white_cells=2, overlap=0.4)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two laboratories, two slides of three fields each, the fields in overlapping pairs."""
    folder = tmp_path_factory.mktemp("drawn") / "fields"
    synthesize_fields(folder, config=CONFIG, seed=4)
    return folder


def test_a_folder_a_slide_with_grouped_fields_and_masks(drawn: Path) -> None:
    dataset = open_fields(f"synthetic_fields:{drawn}")
    assert dataset.synthetic
    assert dataset.notes == ()
    assert dataset.dropped == ()
    groups = {(f.record.domain, f.record.group) for f in dataset.fields}
    assert groups == {(lab, slide) for lab in ("lab_a", "lab_b") for slide in ("slide_1", "slide_2")}
    for field in dataset.fields:
        assert field.record.path.parent.name == field.record.group
        assert field.record.mask_path is not None
        mask = read_mask(field.record.mask_path)
        assert mask.shape == field.read().shape[:2]
        assert set(np.unique(mask)) <= {0, 128, 255}
        assert bool(mask.any()) == bool((field.boxes.kinds == 0).any()) or mask.any()


def test_the_last_field_of_the_first_slide_is_without_a_cell(drawn: Path) -> None:
    empty = [f.record for f in open_fields(f"synthetic_fields:{drawn}").fields if not len(f.boxes)]
    assert [(r.domain, r.group, r.path.name) for r in empty] == [
        ("lab_a", "slide_1", "field_0003.png"),
        ("lab_b", "slide_1", "field_0003.png"),
    ]


def test_a_laboratory_is_a_yolo_folder_of_cell_types(drawn: Path) -> None:
    own = open_fields(f"synthetic_fields:{drawn / 'lab_a'}")
    plain = open_fields(f"yolo:{drawn / 'lab_a'}")
    assert plain.fingerprint == own.fingerprint
    assert plain.notes == ()


def test_the_table_numbers_each_cell_of_a_slide_once(drawn: Path) -> None:
    with open(drawn / "lab_a" / TRUTH, newline="") as file:
        rows = list(csv.DictReader(file))
    boxes = {
        (f.record.group, f.record.path.stem): f.boxes for f in open_fields(f"synthetic_fields:{drawn / 'lab_a'}").fields
    }
    by_field = defaultdict(list)
    types = defaultdict(set)
    for row in rows:
        by_field[row["slide"], row["field"]].append([int(row[side]) for side in ("left", "top", "right", "bottom")])
        types[row["slide"], row["cell"]].add(row["type"])
    assert all(len(found) == 1 for found in types.values())
    for place, found in by_field.items():
        np.testing.assert_allclose(boxes[place].corners, found, atol=1e-3)
    # overlapping neighbours hold some cells twice
    assert len(types) < len(rows)


def test_the_same_seed_draws_the_same_fields_in_each_laboratory_alone(drawn: Path, tmp_path: Path) -> None:
    synthesize_fields(tmp_path / "again", config=CONFIG, seed=4, laboratories=("lab_b",))
    for name in files_below(drawn / "lab_b"):
        assert (tmp_path / "again" / "lab_b" / name).read_bytes() == (drawn / "lab_b" / name).read_bytes()
    synthesize_fields(tmp_path / "other", config=CONFIG, seed=5, laboratories=("lab_b",))
    first = "lab_b/images/slide_1/field_0001.png"
    assert (tmp_path / "other" / first).read_bytes() != (drawn / first).read_bytes()


def test_drawing_again_replaces_its_own_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    config = CONFIG.model_copy(update={"n_slides": 1})
    synthesize_fields(folder, config=config, laboratories=("lab_a",))
    (folder / "lab_a" / "notes.txt").write_text("mine")
    assert "lab_a/notes.txt" not in (drawn_field_files(folder) or [])
    synthesize_fields(folder, config=config.model_copy(update={"n_fields": 1}), laboratories=("lab_a",))
    assert (folder / "lab_a" / "notes.txt").read_text() == "mine"
    assert len(open_fields(f"synthetic_fields:{folder}")) == 1


def test_fields_are_no_single_cells_and_cells_no_fields(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not laid out as synthetic cells"):
        open_dataset(f"synthetic:{drawn}")
    assert drawn_field_files(tmp_path) is None


def test_an_unknown_laboratory_names_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown laboratory 'lab_c'.*'lab_b'|'lab_a'"):
        synthesize_fields(tmp_path / "x", laboratories=("lab_c",))
    assert not (tmp_path / "x").exists()
