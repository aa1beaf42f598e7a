"""A user's folder of classes: what users really have in such folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fakes import folder
from hemalens.datasets import open_dataset
from hemalens.errors import DatasetError, LabelError
from hemalens.taxonomy import AS_LABELLED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder.write(tmp_path / "my cells", n_per_class=1)
    return tmp_path / "my cells"


def _image(root: Path) -> Path:
    return root / "monocyte" / "cell 0.png"


def test_folder_names_are_labels_and_the_folder_is_the_domain_and_the_name(root: Path) -> None:
    dataset = open_dataset(f"folder:{root}", labels=AS_LABELLED)
    assert set(dataset.classes) == set(folder.KINDS)
    assert dataset.name == "my cells"
    assert {r.domain for r in dataset.records} == {"my cells"}
    assert {r.group for r in dataset.records} == {None}


def test_users_spellings_find_their_cell_types(root: Path) -> None:
    found = {r.source_label: r.cell_type for r in open_dataset(f"folder:{root}").records}
    assert found == folder.KINDS


def test_relative_root_has_the_name_of_its_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert open_dataset("folder:.").name == "my cells"


def test_home_folder_is_expanded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(open_dataset("folder:~/my cells")) == len(open_dataset(f"folder:{root}"))


def test_unknown_users_home_is_a_dataset_error() -> None:
    with pytest.raises(DatasetError, match=r"cannot find the folder '~nobody-of-this-name/cells'; got "):
        open_dataset("folder:~nobody-of-this-name/cells")


def test_hidden_files_and_folders_are_left_out(root: Path) -> None:
    before = open_dataset(f"folder:{root}").records
    shutil.copy(_image(root), root / "monocyte" / "._cell 0.png")
    shutil.copytree(root / "monocyte", root / ".thumbnails")
    shutil.copytree(root / "monocyte", root / "monocyte" / ".cache")
    (root / ".DS_Store").write_bytes(b"\0")
    dataset = open_dataset(f"folder:{root}")
    assert dataset.records == before
    assert not dataset.notes


def test_files_that_are_no_images_and_images_outside_class_folders_are_noted(root: Path) -> None:
    before = open_dataset(f"folder:{root}").records
    (root / "monocyte" / "notes.txt").write_text("")
    (root / "monocyte" / "model.onnx").write_bytes(b"")
    shutil.copy(_image(root), root / "stray.png")
    dataset = open_dataset(f"folder:{root}")
    assert dataset.records == before
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("3 file(s) or folder(s) outside the expected layout were left out: ")
    assert {"'stray.png'", "'notes.txt'", "'model.onnx'"} == set(dataset.notes[0].partition(": ")[2].split(", "))


def test_class_folder_without_images_is_noted(root: Path) -> None:
    (root / "basophil" / "cell 0.png").unlink()
    assert open_dataset(f"folder:{root}").notes == ("the folder 'basophil' holds no image",)


def test_images_that_lie_in_no_class_folder_are_an_error_that_says_how_to_lay_them_out(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"x")
    with pytest.raises(
        DatasetError,
        match=r"the images in .* are not in class folders, and have no label; expected <class>.*list them in a CSV",
    ):
        open_dataset(f"folder:{tmp_path}")


def test_folder_of_other_files_is_no_folder_of_classes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("")
    with pytest.raises(DatasetError, match=r"is not laid out as a folder of classes; expected .*; got 'sub'"):
        open_dataset(f"folder:{tmp_path}")


def test_directory_named_as_an_image_is_entered_not_listed(root: Path) -> None:
    (root / "monocyte" / "x.jpg").mkdir()
    shutil.copy(_image(root), root / "monocyte" / "x.jpg" / "inner.png")
    names = [r.path.name for r in open_dataset(f"folder:{root}").records if r.source_label == "monocyte"]
    assert names == ["cell 0.png", "inner.png"]


def test_images_in_subfolders_belong_to_the_class_folder(root: Path) -> None:
    (root / "monocyte" / "2024" / "may").mkdir(parents=True)
    shutil.copy(_image(root), root / "monocyte" / "2024" / "may" / "cell.png")
    assert open_dataset(f"folder:{root}").class_counts["monocyte"] == 2


@pytest.mark.parametrize(
    "name", ["Zelle ä ö.png", "細胞.png", " lead and trail .png", "new\nline.png", "a;b|c,d.png", "'quoted\".PNG"]
)
def test_unusual_file_names_are_read(root: Path, name: str) -> None:
    shutil.copy(_image(root), root / "monocyte" / name)
    record = next(r for r in open_dataset(f"folder:{root}").records if r.path.name == name)
    assert record.read().shape == (96, 96, 3)


def test_unusual_folder_name_is_a_class_as_labelled_and_otherwise_left_out_or_a_one_line_error(root: Path) -> None:
    (root / "monocyte").rename(root / "fremde\nZelle µ")
    assert "fremde\nZelle µ" in open_dataset(f"folder:{root}", labels=AS_LABELLED).classes
    with pytest.raises(LabelError, match=r"is no known cell type.*--labels as_labelled") as error:
        open_dataset(f"folder:{root}", strict=True)
    assert "\n" not in str(error.value)
    assert "'fremde\\nZelle µ'" in str(error.value)
    assert open_dataset(f"folder:{root}").excluded_counts["'fremde\\nZelle µ' is no known cell type"] == 1


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".tif", ".TIFF"])
def test_every_accepted_suffix_is_listed(root: Path, suffix: str) -> None:
    (root / "monocyte" / f"x{suffix}").write_bytes(b"")
    assert open_dataset(f"folder:{root}").class_counts["monocyte"] == 2


def test_broken_link_is_listed_so_that_it_is_reported_as_unreadable(root: Path) -> None:
    (root / "monocyte" / "gone.png").symlink_to(root / "nowhere.png")
    assert open_dataset(f"folder:{root}").class_counts["monocyte"] == 2


# Parts


def _nest(root: Path, names: dict[str, tuple[str, ...]]) -> Path:
    """Move class folders into folders of parts."""
    for name, kinds in names.items():
        (root / name).mkdir()
        for kind in kinds:
            (root / kind).rename(root / name / kind)
    return root


NESTED = {"TRAIN": ("Neutrophils", "eosinophil"), "valid": ("basophil",), "Testing": ("LYM", "monocyte", "blast")}


@pytest.mark.parametrize("labels", ["five_class", AS_LABELLED])
def test_folders_of_a_split_are_parts_and_no_classes(root: Path, labels: str) -> None:
    dataset = open_dataset(f"folder:{_nest(root, NESTED)}", labels=labels)
    parts = {record.source_label: record.part for record in dataset.records}
    assert parts == {
        **dict.fromkeys(NESTED["TRAIN"], "train"),
        **dict.fromkeys(NESTED["valid"], "validation"),
        **dict.fromkeys(NESTED["Testing"], "test"),
    }
    assert dataset.notes == ("parts as given: train 2, validation 1, test 3",)
    assert {record.domain for record in dataset.records} == {"my cells"}


def test_files_beside_the_parts_do_not_hide_them_and_one_part_alone_opens_as_classes(root: Path) -> None:
    _nest(root, NESTED)
    (root / "readme.txt").write_text("")
    (root / "docs").mkdir()
    (root / "docs" / "a.txt").write_text("")
    assert {record.part for record in open_dataset(f"folder:{root}").records} == {"train", "validation", "test"}
    alone = open_dataset(f"folder:{root / 'TRAIN'}")
    assert ({record.part for record in alone.records}, alone.name) == ({None}, "TRAIN")


def test_a_folder_of_images_beside_parts_makes_all_of_them_classes(root: Path) -> None:
    _nest(root, {"train": ("Neutrophils", "eosinophil")})
    assert {r.part for r in open_dataset(f"folder:{root}", labels=AS_LABELLED).records} == {None}
    assert "train" in open_dataset(f"folder:{root}", labels=AS_LABELLED).classes


def test_images_in_parts_without_class_folders_have_no_label(root: Path) -> None:
    for name in ("train", "test"):
        (root.parent / "flat" / name).mkdir(parents=True)
        shutil.copy(_image(root), root.parent / "flat" / name / "a.png")
    assert set(open_dataset(f"folder:{root.parent / 'flat'}", labels=AS_LABELLED).classes) == {"test", "train"}
    with pytest.raises(LabelError):
        open_dataset(f"folder:{root.parent / 'flat'}")


# Unlabelled images


@pytest.mark.parametrize(
    "names", [("2024-03-01 (alt)", "2024-03-02"), ("patient 1", "Patient_2"), ("images",), ("07", "slide 3")]
)
def test_folders_by_date_or_patient_are_told_as_such_with_a_way_on(root: Path, names: tuple[str, ...]) -> None:
    place = root.parent / "by date"
    for name in names:
        (place / name).mkdir(parents=True)
        shutil.copy(_image(root), place / name / "a.png")
    with pytest.raises(LabelError, match=r"look like unlabelled images by date or patient") as error:
        open_dataset(f"folder:{place}")
    assert f"hemalens predict '{place}' --out predictions.csv" in str(error.value)
    assert "--labels as_labelled" in str(error.value)
    assert set(open_dataset(f"folder:{place}", labels=AS_LABELLED).classes) == set(names)
