"""Pascal VOC folders: layouts, partners by name, sizes that differ, BCCD's incomplete red cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_fields import OBJECTS, SIZE, noise, voc_text, write_voc
from fakes import bccd
from hemalens.datasets.fields.open import open_fields
from hemalens.errors import DatasetError
from hemalens.imaging.boxes import KINDS


@pytest.mark.parametrize(
    ("image", "xml", "filename"),
    [
        ("a.png", "a.xml", ""),
        ("JPEGImages/a.png", "Annotations/a.xml", "another.jpg"),
        ("images/train/a.png", "annotations/train/a.xml", ""),
        ("images/a.png", "xml/0001.xml", "C:/data/a.png".rpartition("/")[2]),
    ],
)
def test_layouts(tmp_path: Path, image: str, xml: str, filename: str) -> None:
    noise(tmp_path / image, 0)
    (tmp_path / xml).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / xml).write_text(voc_text(OBJECTS, filename=filename))
    (field,) = open_fields(f"voc:{tmp_path}").fields
    assert field.record.path == tmp_path / image
    assert field.boxes.corners.tolist() == [list(box) for _, box in OBJECTS]
    assert field.complete == KINDS


def test_of_two_images_of_a_name_the_nearest_is_taken(tmp_path: Path) -> None:
    for part in ("train", "val"):
        noise(tmp_path / part / "a.png", len(part))
        (tmp_path / part / "a.xml").write_text(voc_text(OBJECTS))
    dataset = open_fields(f"voc:{tmp_path}")
    assert [field.record.part for field in dataset.fields] == ["train", "validation"]


def test_two_images_that_fit_equally_are_an_error(tmp_path: Path) -> None:
    for suffix in ("png", "bmp"):
        noise(tmp_path / f"a.{suffix}", 0)
    (tmp_path / "a.xml").write_text(voc_text(OBJECTS))
    with pytest.raises(DatasetError, match=r"two images fit 'a.xml'; .*got '.*a.bmp' and '.*a.png'"):
        open_fields(f"voc:{tmp_path}")


def test_files_that_do_not_fit_are_left_out_and_noted(tmp_path: Path) -> None:
    spec = write_voc(tmp_path, (OBJECTS, OBJECTS, OBJECTS))
    annotations = tmp_path / "Annotations"
    (annotations / "1.xml").write_text(voc_text(OBJECTS, (SIZE[1], SIZE[0])))
    (annotations / "2.xml").write_text(voc_text(OBJECTS, (0, 0)))
    (annotations / "lone.xml").write_text(voc_text(OBJECTS))
    (annotations / "project.xml").write_text("<project/>")
    noise(tmp_path / "JPEGImages" / "unboxed.png", 9)
    dataset = open_fields(spec)
    assert [field.record.path.name for field in dataset.fields] == ["0.png", "2.png"]
    assert dataset.notes == (
        "1 XML file(s) are no annotation: 'project.xml'",
        "1 image(s) without boxes are left out: 'unboxed.png'",
        "1 annotation(s) without an image are left out: 'lone.xml'",
        "1 annotation(s) of another image size are left out: '1.xml'",
    )


def test_a_set_whose_sizes_all_differ_is_an_error(tmp_path: Path) -> None:
    spec = write_voc(tmp_path, (OBJECTS,))
    (tmp_path / "Annotations" / "0.xml").write_text(voc_text(OBJECTS, (640, 480)))
    with pytest.raises(DatasetError, match=r"no field with boxes in .*of the size that it states; got 1 annotation"):
        open_fields(spec)


def test_an_annotation_without_objects_is_a_field_without_a_cell(tmp_path: Path) -> None:
    dataset = open_fields(write_voc(tmp_path, (OBJECTS, ())))
    assert [len(field.boxes) for field in dataset.fields] == [4, 0]


def test_one_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    spec = write_voc(tmp_path)
    (tmp_path / "Annotations" / "1.xml").write_text("<annotation>")
    with pytest.raises(DatasetError, match=r"cannot read the boxes in '.*1.xml'; expected Pascal VOC XML"):
        open_fields(spec)


def test_bccd_red_cells_are_not_complete(tmp_path: Path) -> None:
    dataset = open_fields(bccd.write_bccd_fields(tmp_path, n_per_class=2))
    assert {field.complete for field in dataset.fields} == {("white cell", "platelet")}
    assert dataset.counts == {"white cell": 2, "red cell": 4, "platelet": 2}
    assert {field.record.domain for field in dataset.fields} == {"bccd"}
