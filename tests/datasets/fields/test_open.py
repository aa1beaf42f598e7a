"""The contract of all readers of fields, copies between sets, and what a wrong name ends with."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fake_fields import FAKES, OBJECTS, noise, write_coco, write_voc, write_yolo
from hemalens.datasets.fields.open import open_fields, open_fields_of
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.errors import DatasetError, ImageError, InputError
from hemalens.imaging.boxes import KINDS


def test_every_reader_has_a_fake() -> None:
    assert set(FAKES) == set(FIELD_READERS)


@pytest.mark.parametrize("name", FIELD_READERS)
def test_a_reader_states_what_it_is(name: str) -> None:
    reader = FIELD_READERS[name]
    assert all((reader.title, reader.licence, reader.citation, reader.layout))
    assert reader.synthetic == (name == "synthetic_fields")


@pytest.mark.parametrize("name", FIELD_READERS)
def test_fields_lie_within_their_images_and_open_the_same_each_time(name: str, tmp_path: Path) -> None:
    spec = FAKES[name](tmp_path / "set")
    dataset = open_fields(spec)
    assert (dataset.name, dataset.synthetic) == (name, FIELD_READERS[name].synthetic)
    assert dataset.counts["white cell"] > 0
    for field in dataset.fields:
        image = field.read()
        corners = field.boxes.corners
        assert (corners[:, 2:] - corners[:, :2] >= 1).all()
        assert (corners >= 0).all()
        assert (corners[:, 2:] <= [image.shape[1], image.shape[0]]).all()
        assert (field.boxes.scores == 1).all()
        assert len(field.cell_types) == len(field.boxes)
        assert field.record.domain
        assert set(field.complete) <= set(KINDS)
    again = open_fields(spec)
    assert [f.record for f in again.fields] == [f.record for f in dataset.fields]
    assert again.fingerprint == dataset.fingerprint
    # files that operating systems leave behind
    for folder in {field.record.path.parent for field in dataset.fields}:
        (folder / "._0.jpg").write_bytes(b"\0\5\x16\7")
    assert open_fields(spec).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", FIELD_READERS)
def test_another_layout_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "file").write_text("")
    for place in ("hollow", "file", "nowhere"):
        with pytest.raises(DatasetError) as caught:
            open_fields(f"{name}:{tmp_path / place}")
        assert place in str(caught.value)
        assert "expected" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FIELD_READERS)
def test_a_damaged_image_is_an_image_error(name: str, tmp_path: Path) -> None:
    spec = FAKES[name](tmp_path / "set")
    path = open_fields(spec).fields[0].record.path
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=path.name):
        open_fields(spec)


def test_three_formats_of_the_same_boxes_are_the_same_fields(tmp_path: Path) -> None:
    objects = (OBJECTS, (), OBJECTS[:2])
    yolo, voc, coco = (
        open_fields(write(tmp_path / write.__name__, objects)) for write in (write_yolo, write_voc, write_coco)
    )
    for other in (voc, coco):
        assert other.counts == yolo.counts == {"white cell": 2, "red cell": 3, "platelet": 1}
        for a, b in zip(yolo.fields, other.fields, strict=True):
            np.testing.assert_allclose(a.boxes.corners, b.boxes.corners, atol=1e-4)
            assert a.boxes.kinds.tolist() == b.boxes.kinds.tolist()
            assert a.complete == b.complete == KINDS
            np.testing.assert_array_equal(a.read(), b.read())


def test_identical_images_are_kept_once_with_the_boxes_of_the_first(tmp_path: Path) -> None:
    first = write_yolo(tmp_path / "first", (OBJECTS, OBJECTS))
    # the same images with fewer boxes, and one of its own
    second = write_voc(tmp_path / "second", (OBJECTS[:1], OBJECTS[:1], OBJECTS[:1]))
    both = open_fields_of([first, second])
    assert (both.name, len(both)) == ("yolo + voc", 3)
    assert [len(field.boxes) for field in both.fields] == [4, 4, 1]
    assert both.notes == ("2 byte-identical image(s) are left out; the first one's boxes are kept: '0.png' is '0.png'",)
    assert [len(field.boxes) for field in open_fields_of([second, first]).fields] == [1, 1, 1]


def test_a_copy_within_a_set_is_left_out_and_noted(tmp_path: Path) -> None:
    spec = write_yolo(tmp_path)
    for folder, suffix in (("images", "png"), ("labels", "txt")):
        shutil.copy(tmp_path / folder / "train" / f"0.{suffix}", tmp_path / folder / "train" / f"copy.{suffix}")
    dataset = open_fields(spec)
    assert len(dataset) == 2
    assert any(
        "1 byte-identical image(s) are left out" in note and "'copy.png' is '0.png'" in note for note in dataset.notes
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("yol:x", "no reader of fields is named 'yol'; expected txl_pbc, bccd_fields, yolo"),
        ("yol:x", "did you mean 'yolo'?"),
        ("folder:x", "`folder:` reads single cells. Fields without boxes are counted by `hemalens count`."),
        ("yolo", "expected reader:path, as in yolo:my_fields"),
        ("yolo:", "expected reader:path"),
        (".", "With YOLO boxes: yolo:.. Fields without boxes are counted by `hemalens count`."),
        ("yolo:a\0b", "no path"),
    ],
)
def test_a_wrong_name_says_what_to_write(spec: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        open_fields(spec)
    assert says in str(caught.value)


def test_no_spec_and_no_text_are_input_errors() -> None:
    for specs in ([], 3, [None]):
        with pytest.raises(InputError):
            open_fields_of(specs)  # type: ignore[arg-type]


def test_links_out_of_the_folder_are_left_out_and_noted(tmp_path: Path) -> None:
    spec = write_yolo(tmp_path / "set")
    outside = noise(tmp_path / "outside.png", 7)
    (tmp_path / "set" / "images" / "train" / "link.png").symlink_to(outside)
    (tmp_path / "set" / "labels" / "train" / "link.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    dataset = open_fields(spec)
    assert len(dataset) == 2
    assert any("link(s) that lead out of the folder" in note for note in dataset.notes)


@pytest.mark.realdata
def test_real_txl_pbc_has_the_counts_of_its_label_files(real_data: Path) -> None:
    dataset = open_fields(f"txl_pbc:{real_data / 'txl_pbc'}")
    # counted by awk over the label files: 1,055, 16,965 and 596 rows, two of them copies of another row
    assert dataset.counts == {"white cell": 1055, "red cell": 16963, "platelet": 596}
    assert dataset.dropped == (("a copy of another box", 2),)
    assert Counter(f.record.domain for f in dataset.fields) == {"raabin": 350, "acevedo20": 350, "bccd": 308}
    assert dataset.notes == ()


@pytest.mark.realdata
def test_real_bccd_has_incomplete_red_cells_and_shares_150_images_with_txl_pbc(real_data: Path) -> None:
    bccd = f"bccd_fields:{real_data / 'bccd'}"
    dataset = open_fields(bccd)
    assert dataset.counts == {"white cell": 372, "red cell": 4153, "platelet": 361}
    assert {field.complete for field in dataset.fields} == {("white cell", "platelet")}
    both = open_fields_of([f"txl_pbc:{real_data / 'txl_pbc'}", bccd])
    assert len(both) == 1008 + 364 - 150
