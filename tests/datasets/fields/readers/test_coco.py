"""COCO files: where images lie, ids and sizes that do not fit, several files in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_fields import NAMES, OBJECTS, coco_content, noise, write_coco
from hemalens.datasets.fields.open import open_fields
from hemalens.errors import DatasetError


@pytest.mark.parametrize(
    ("image", "file", "stated"),
    [
        ("0.png", "_annotations.coco.json", "0.png"),
        ("images/0.png", "annotations/instances.json", "0.png"),
        ("train2017/0.png", "annotations/instances_train2017.json", "train2017/0.png"),
        ("data/deep/0.png", "coco.json", "/home/somebody/deep/0.png"),
        ("images/0.png", "coco.json", "images\\0.png"),
        ("images/0.png", "coco.json", "../../../images/0.png"),
    ],
)
def test_layouts(tmp_path: Path, image: str, file: str, stated: str) -> None:
    noise(tmp_path / image, 0)
    content: dict[str, Any] = coco_content([OBJECTS])
    content["images"][0]["file_name"] = stated
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    for spec in (f"coco:{tmp_path}", f"coco:{tmp_path / file}"):
        (field,) = open_fields(spec).fields
        assert field.record.path == tmp_path / image
        assert field.boxes.corners.tolist() == [list(box) for _, box in OBJECTS]


def test_a_file_a_part_with_images_of_one_name(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "valid")):
        noise(tmp_path / part / "0.png", i)
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(coco_content([OBJECTS[: i + 1]])))
    dataset = open_fields(f"coco:{tmp_path}")
    assert [(f.record.part, len(f.boxes)) for f in dataset.fields] == [("train", 1), ("validation", 2)]


def test_types_as_categories_and_one_that_is_unknown(tmp_path: Path) -> None:
    names = ("neutrophil", "RBC", "Platelets", "WBC", "dust")
    objects = ((("neutrophil", (1, 1, 30, 30)), ("dust", (40, 40, 60, 60)), ("WBC", (60, 1, 90, 30))),)
    dataset = open_fields(write_coco(tmp_path, objects, names=names))
    assert dataset.fields[0].labels == ("neutrophil", "")
    assert dataset.dropped == (("class 'dust' is no kind of cell", 1),)


def test_what_does_not_fit_is_left_out_and_noted(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][1]["width"] = 7
        content["images"].append({"id": 99, "file_name": "gone.png"})
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["image_id"] = 12345

    spec = write_coco(tmp_path, (OBJECTS, OBJECTS), change=change)
    noise(tmp_path / "images" / "unboxed.png", 9)
    dataset = open_fields(spec)
    assert [len(field.boxes) for field in dataset.fields] == [2]
    assert dict(dataset.dropped) == {
        "a crowd of cells in one box": 1,
        "of an image id that the file does not list": 1,
    }
    assert dataset.notes == (
        "1 image(s) without boxes are left out: 'unboxed.png'",
        "1 annotation(s) without an image are left out: 'gone.png'",
        "1 annotation(s) of another image size are left out: '1.png'",
    )


def test_two_entries_of_one_image_are_an_error(tmp_path: Path) -> None:
    spec = write_coco(tmp_path, change=lambda content: content["images"][1].update(file_name="0.png"))
    with pytest.raises(DatasetError, match=r"0.png' has two sets of boxes"):
        open_fields(spec)


def test_without_categories_is_one_clear_error(tmp_path: Path) -> None:
    spec = write_coco(tmp_path, change=lambda content: content.pop("categories"))
    with pytest.raises(DatasetError, match=r"instances.json' has no categories; expected a list of categories"):
        open_fields(spec)


def test_json_of_another_kind_is_no_coco_file(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    assert len(open_fields(f"coco:{tmp_path}")) == 2
    with pytest.raises(DatasetError, match=r"settings.json' is no COCO file"):
        open_fields(f"coco:{tmp_path / 'settings.json'}")


def test_an_image_without_annotations_is_a_field_without_a_cell(tmp_path: Path) -> None:
    dataset = open_fields(write_coco(tmp_path, (OBJECTS, ()), names=NAMES))
    assert [len(field.boxes) for field in dataset.fields] == [4, 0]
