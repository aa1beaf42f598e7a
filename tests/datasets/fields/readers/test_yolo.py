"""YOLO folders: layouts, class names, files without a partner, scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fake_fields import NAMES, OBJECTS, noise, write_yolo
from hemalens.datasets.fields.base import FieldDataset
from hemalens.datasets.fields.open import open_fields
from hemalens.errors import ConfigError, DatasetError
from hemalens.imaging.boxes import KINDS

ROW = "0 0.5 0.5 0.2 0.2\n"


def _pair(root: Path, image: str, label: str, text: str = ROW, seed: int = 0) -> None:
    noise(root / image, seed)
    (root / label).parent.mkdir(parents=True, exist_ok=True)
    (root / label).write_text(text)


def _opened(root: Path, names: str = "names: [WBC, RBC, Platelets]") -> FieldDataset:
    (root / "data.yaml").write_text(names)
    return open_fields(f"yolo:{root}")


@pytest.mark.parametrize(
    ("image", "label", "part"),
    [
        ("images/a.png", "labels/a.txt", None),
        ("images/val/a.png", "labels/val/a.txt", "validation"),
        ("train/images/a.jpg", "train/labels/a.txt", "train"),
        ("test/a.bmp", "test/a.txt", "test"),
        ("a.png", "a.txt", None),
        ("obj_train_data/a.png", "obj_train_data/a.txt", None),
        ("images/deep/images/a.png", "images/deep/labels/a.txt", None),
    ],
)
def test_layouts(tmp_path: Path, image: str, label: str, part: str | None) -> None:
    _pair(tmp_path, image, label)
    dataset = _opened(tmp_path)
    (field,) = dataset.fields
    assert (field.record.part, field.record.domain, len(field.boxes)) == (part, "yolo", 1)
    assert dataset.notes == ()


@pytest.mark.parametrize(
    "text",
    ["names: [WBC, RBC, Platelets]", "names:\n  0: WBC\n  1: RBC\n  2: Platelets\n", json.dumps({"names": NAMES, "nc": 3})],
)
def test_class_names_of_a_yaml(tmp_path: Path, text: str) -> None:
    _pair(tmp_path, "a.png", "a.txt", "".join(f"{i} 0.{i + 3} 0.5 0.2 0.2\n" for i in range(3)))
    assert _opened(tmp_path, text).fields[0].boxes.kinds.tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_class_names_of_a_list_are_no_label_file(tmp_path: Path, place: str) -> None:
    _pair(tmp_path, "images/a.png", "labels/a.txt", "1 0.5 0.5 0.2 0.2")
    (tmp_path / place).write_text("Platelets\nRBC\n")
    dataset = open_fields(f"yolo:{tmp_path}")
    assert dataset.fields[0].boxes.kinds.tolist() == [1]
    assert dataset.fields[0].complete == ("red cell", "platelet")
    assert dataset.notes == ()


def test_the_yaml_may_be_named_itself(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    assert len(open_fields(f"yolo:{tmp_path / 'data.yaml'}")) == 2


def test_classes_that_name_cell_types_are_kept_as_labels(tmp_path: Path) -> None:
    _pair(tmp_path, "a.png", "a.txt", "0 0.2 0.5 0.2 0.2\n2 0.6 0.5 0.2 0.2\n")
    (field,) = _opened(tmp_path, "names: [Lymph, RBC, NRBC]").fields
    assert field.labels == ("Lymph", "NRBC")
    assert field.cell_types == ("lymphocyte", "erythroblast")
    assert field.boxes.kinds.tolist() == [0, 0]


def test_no_class_names_is_an_error_and_nothing_is_guessed(tmp_path: Path) -> None:
    _pair(tmp_path, "a.png", "a.txt")
    (tmp_path / "data.yaml").write_text("nc: 3\n")
    with pytest.raises(DatasetError, match=r"no class names in .*expected a data.yaml with `names:.*never guessed"):
        open_fields(f"yolo:{tmp_path}")


@pytest.mark.parametrize(
    "names", ["names: 3", "names: []", "names: {a: WBC}", "names: {-1: WBC}", "names: [[0]]", "names:"]
)
def test_names_that_are_no_names(tmp_path: Path, names: str) -> None:
    _pair(tmp_path, "a.png", "a.txt")
    with pytest.raises(DatasetError, match=r"cannot read the class names in .*data\.yaml'; expected `names: \[WBC"):
        _opened(tmp_path, names)


def test_a_yaml_of_aliases_to_aliases_ends(tmp_path: Path) -> None:
    _pair(tmp_path, "a.png", "a.txt")
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    with pytest.raises(ConfigError, match="not valid YAML"):
        _opened(tmp_path, f"{bomb}names: *a11\n")


def test_two_lists_that_differ_are_an_error(tmp_path: Path) -> None:
    _pair(tmp_path, "train/a.png", "train/a.txt")
    for folder, text in (("train", "WBC\nRBC\n"), (".", "RBC\nWBC\n")):
        (tmp_path / folder / "classes.txt").write_text(text)
    with pytest.raises(DatasetError, match="two lists of class names differ"):
        open_fields(f"yolo:{tmp_path}")


def test_unknown_classes_are_counted_and_named(tmp_path: Path) -> None:
    _pair(tmp_path, "a.png", "a.txt", "0 0.2 0.5 0.2 0.2\n1 0.6 0.5 0.2 0.2\n1 0.4 0.5 0.2 0.2\n9 0.5 0.5 0.1 0.1\n")
    dataset = _opened(tmp_path, "names: [WBC, dust]")
    assert dataset.dropped == (
        ("class 'dust' is no kind of cell", 2),
        ("class '9 without a name' is no kind of cell", 1),
    )
    assert dataset.fields[0].complete == ("white cell",)


def test_files_without_a_partner_are_left_out_and_noted(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    noise(tmp_path / "images" / "train" / "unboxed.png", 5)
    (tmp_path / "labels" / "train" / "lone.txt").write_text(ROW)
    (tmp_path / "README.txt").write_text("about")
    noise(tmp_path / "masks" / "train" / "0.png", 6)
    dataset = open_fields(f"yolo:{tmp_path}")
    assert dataset.notes == (
        "1 image(s) without a label file are left out: 'unboxed.png'",
        "1 label file(s) without an image are left out: 'lone.txt'",
    )


def test_an_empty_label_file_is_a_field_without_a_cell(tmp_path: Path) -> None:
    dataset = open_fields(write_yolo(tmp_path, (OBJECTS, ())))
    assert [len(field.boxes) for field in dataset.fields] == [4, 0]
    assert dataset.fields[1].complete == KINDS
    assert dataset.notes == ()


def test_scores_and_polygons_are_read_and_noted(tmp_path: Path) -> None:
    _pair(tmp_path, "a.png", "a.txt", "0 0.2 0.5 0.2 0.2 0.25\n1 0.5 0.5 0.9 0.5 0.7 0.8\n")
    dataset = _opened(tmp_path)
    assert dataset.fields[0].boxes.scores.tolist() == [0.25, 1]
    assert dataset.notes == (
        "1 row(s) have a sixth column, which is read as the box's score",
        "1 polygon(s) are kept as their boxes",
    )


def test_images_without_any_label_file_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(DatasetError, match=r"no image in .* has a YOLO label file.*counted by `hemalens count`"):
        open_fields(f"yolo:{tmp_path}")


def test_boxes_are_of_the_upright_image(tmp_path: Path) -> None:
    from PIL import Image

    path = noise(tmp_path / "a.jpg", 3)
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # turned by a quarter
        image.load()
        image.save(path, exif=exif)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (field,) = _opened(tmp_path).fields
    height, width = field.read().shape[:2]
    assert (width, height) == (90, 120)
    assert field.boxes.corners.tolist() == [[0, 0, width, height]]
