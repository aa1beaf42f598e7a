"""BCCD: crops grouped by their field, boxes of whole fields, damaged annotations, the real counts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import bccd
from hemalens.datasets import open_dataset
from hemalens.errors import DatasetError, ImageError, LabelError
from hemalens.taxonomy import AS_LABELLED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One root with both views, as the set is distributed."""
    bccd.write_bccd(tmp_path / "set", n_per_class=3)
    bccd.write_bccd_fields(tmp_path / "set", n_per_class=2)
    return tmp_path / "set"


def _annotation(root: Path) -> Path:
    return root / "BCCD" / "Annotations" / "BloodImage_00000.xml"


def test_crops_of_one_field_share_its_group(root: Path) -> None:
    dataset = open_dataset(f"bccd:{root}")
    assert len(dataset) == 15
    for record in dataset.records:
        assert record.group == "_".join(record.path.name.split("_")[:2])
    assert sorted(Counter(r.group for r in dataset.records).values()) == [1] * 5 + [2] * 5


def test_crops_in_an_unknown_folder_are_refused(root: Path) -> None:
    shutil.copytree(root / "BCCD_cropped" / "Basophil", root / "BCCD_cropped" / "Blast")
    with pytest.raises(DatasetError, match=r"is not laid out as BCCD crops; expected .*; got .*'Blast'"):
        open_dataset(f"bccd:{root}")


def test_missing_class_folder_and_other_files_are_noted(root: Path) -> None:
    shutil.rmtree(root / "BCCD_cropped" / "Basophil")
    (root / "BCCD_cropped" / "README.txt").write_text("")
    (root / "BCCD_cropped" / "Monocyte" / "list.txt").write_text("")
    notes = " | ".join(open_dataset(f"bccd:{root}").notes)
    assert "the folder 'Basophil' is missing" in notes
    assert "'README.txt', 'list.txt'" in notes


def test_field_boxes_are_records_that_share_file_and_group(root: Path) -> None:
    dataset = open_dataset(f"bccd_fields:{root}", labels=AS_LABELLED)
    assert dataset.class_counts == {"Platelets": 2, "RBC": 4, "WBC": 2}
    for record in dataset.records:
        assert record.group == record.path.stem
    with Image.open(root / "BCCD" / "JPEGImages" / "BloodImage_00000.jpg") as image:
        field = np.asarray(image)
    boxes = [box for _, _, box in bccd.OBJECTS]
    for record, (x_min, y_min, x_max, y_max) in zip(dataset.records[:4], boxes, strict=True):
        np.testing.assert_array_equal(record.read(), field[y_min:y_max, x_min:x_max])


def test_boxes_of_one_field_differ_in_content_and_equal_boxes_of_copies_do_not(root: Path) -> None:
    records = open_dataset(f"bccd_fields:{root}").records
    assert len({r.content_id() for r in records}) == len(records)
    images, annotations = root / "BCCD" / "JPEGImages", root / "BCCD" / "Annotations"
    shutil.copy(images / "BloodImage_00000.jpg", images / "BloodImage_00009.jpg")
    shutil.copy(annotations / "BloodImage_00000.xml", annotations / "BloodImage_00009.xml")
    again = open_dataset(f"bccd_fields:{root}").records
    assert len(again) == len(records) + 4
    assert len({r.content_id() for r in again}) == len(records)


def test_boxes_without_area_are_left_out_and_noted(root: Path) -> None:
    bccd.annotate(
        _annotation(root),
        [("RBC", (10, 10, 10, 40)), ("RBC", (10, 40, 30, 40)), ("WBC", (9, 9, 5, 40)), ("WBC", (5, 5, 40, 40))],
    )
    dataset = open_dataset(f"bccd_fields:{root}")
    assert len(dataset) == 1 + 4
    assert dataset.notes == ("3 box(es) without area were left out",)


def test_box_over_the_edge_is_cut_and_box_outside_is_an_image_error(root: Path) -> None:
    bccd.annotate(_annotation(root), [("WBC", (600, 440, 700, 500)), ("WBC", (640, 0, 700, 50))])
    over, outside = open_dataset(f"bccd_fields:{root}").records[:2]
    assert over.read().shape == (40, 40, 3)
    with pytest.raises(ImageError, match=r"box \(640, 0, 700, 50\) lies outside image .*; got 640x480 px"):
        outside.read()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<annotation>",
        b"no xml",
        b"<a><object><name>WBC</name><bndbox><xmin>1</xmin></bndbox></object></a>",
        b"<a><object><name>WBC</name></object></a>",
        b"<a><object><name>WBC</name><bndbox><xmin>inf</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></a>",
        b"<a><object><name>WBC</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></a>",
    ],
    ids=["empty", "cut short", "text", "no corners", "no box", "infinite", "not a number"],
)
def test_damaged_annotation_is_an_error_that_names_it(root: Path, content: bytes) -> None:
    _annotation(root).write_bytes(content)
    with pytest.raises(DatasetError, match=r"BloodImage_00000.xml'; expected Pascal VOC XML; got ") as error:
        open_dataset(f"bccd_fields:{root}")
    assert "\n" not in str(error.value)


def test_missing_annotation_is_an_error_that_names_it(root: Path) -> None:
    _annotation(root).unlink()
    with pytest.raises(DatasetError, match=r"cannot read the boxes in '.*BloodImage_00000.xml'"):
        open_dataset(f"bccd_fields:{root}")


def test_unknown_object_name_is_a_label_error(root: Path) -> None:
    bccd.annotate(_annotation(root), [("WBCs", (5, 5, 40, 40))])
    with pytest.raises(LabelError, match=r"has the label 'WBCs', which BCCD fields does not use. did you mean 'WBC'"):
        open_dataset(f"bccd_fields:{root}")


@pytest.mark.realdata
def test_real_crops_have_the_counts_of_their_readme(real_data: Path) -> None:
    dataset = open_dataset(f"bccd:{real_data / 'bccd'}")
    assert dataset.class_counts == {"neutrophil": 207, "eosinophil": 88, "basophil": 3, "lymphocyte": 33, "monocyte": 20}
    assert not dataset.notes


@pytest.mark.realdata
def test_real_fields_are_364_with_two_boxes_left_out(real_data: Path) -> None:
    dataset = open_dataset(f"bccd_fields:{real_data / 'bccd'}", labels=AS_LABELLED)
    assert len({r.path for r in dataset.records}) == 364
    # counted in the XML files with grep: 372 WBC, 4,155 RBC and 361 Platelets, two of them without area
    assert len(dataset) == 372 + 4155 + 361 - 2
    assert dataset.notes == ("2 box(es) without area were left out",)
