"""Raabin-WBC: the whole or one part as root, smears as groups, names of another form, what is left out."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import raabin
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.readers.raabin import NAME
from hemalens.errors import DatasetError

N = 2
"""Images a class in each part."""
PUBLISHED = (
    "TestB has no folder 'Basophil', 'Eosinophil', 'Monocyte'",
    "2 smear(s) lie in more than one of the published parts",
)
"""The notes on the set as it is published."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The whole distribution, with small images."""
    raabin.write(tmp_path / "set", n_per_class=N, side_px=24)
    return tmp_path / "set"


def _open(root: Path) -> CellDataset:
    return open_dataset(f"raabin:{root}")


def _error(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        _open(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _image(root: Path, part: str = "Train", label: str = "Monocyte") -> Path:
    return sorted((root / part / label).iterdir())[0]


# What may be given as root


def test_the_whole_holds_the_three_parts(root: Path) -> None:
    dataset = _open(root)
    assert dataset.name == "raabin"
    assert dataset.notes == PUBLISHED
    assert dataset.licence == "free for research with citation"
    assert "Kouzehkanan" in dataset.citation
    assert {r.domain for r in dataset.records} == {"raabin"}
    assert (
        {r.source_label.lower() for r in dataset.records} == {r.cell_type for r in dataset.records} == set(dataset.classes)
    )
    counts = Counter(r.path.relative_to(root).parts[0] for r in dataset.records)
    assert counts == {"Train": 5 * N, "TestA": 5 * N, "TestB": 2 * N}


@pytest.mark.parametrize(("part", "notes"), [("Train", ()), ("TestA", ()), ("TestB", PUBLISHED[:1])])
def test_one_part_alone_is_named_after_it(root: Path, part: str, notes: tuple[str, ...]) -> None:
    dataset = _open(root / part)
    assert (dataset.name, dataset.notes) == (f"raabin {part}", notes)
    assert dataset.records == tuple(r for r in _open(root).records if r.path.is_relative_to(root / part))


@pytest.mark.parametrize("part", ["", "Train", "TestB"])
def test_the_folder_one_stands_in_and_a_link_to_it_are_named_as_the_part_itself(
    root: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _open(root / part)
    (root.parent / "link").symlink_to(root / part, target_is_directory=True)
    linked = _open(root.parent / "link")
    monkeypatch.chdir(root / part)
    for dataset in (linked, _open(Path())):
        assert (dataset.name, dataset.notes) == (expected.name, expected.notes)
        assert [r.path.name for r in dataset.records] == [r.path.name for r in expected.records]


def test_a_part_that_is_missing_is_noted(root: Path) -> None:
    shutil.rmtree(root / "TestB")
    shutil.rmtree(root / "TestA")
    dataset = _open(root)
    assert (dataset.name, len(dataset)) == ("raabin", 5 * N)
    assert dataset.notes == ("the folder 'TestA' is missing", "the folder 'TestB' is missing")


def test_missing_and_empty_class_folders_are_noted(root: Path) -> None:
    shutil.rmtree(root / "Train" / "Basophil")
    for path in (root / "Train" / "Monocyte").iterdir():
        path.unlink()
    assert _open(root / "Train").notes == (
        "Train has no folder 'Basophil'",
        "the folder 'Train/Monocyte' holds no image",
    )


def test_class_folders_under_another_name_are_not_taken_for_a_part(root: Path) -> None:
    """Other sets have folders of these classes too."""
    text = _error((root / "Train").rename(root / "cells"))
    assert "cells' is not laid out as Raabin-WBC (double-labelled crops); expected Train|TestA|TestB/<Class>/" in text
    assert "got 'Basophil', 'Eosinophil'" in text


def test_parts_without_any_image_are_not_laid_out_as_the_dataset(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        path.rename(path.with_suffix(".txt"))
    assert "is not laid out as Raabin-WBC" in _error(root)
    assert "is not laid out as Raabin-WBC" in _error(root / "Train")


def test_foreign_files_and_folders_are_left_out_with_a_note(root: Path) -> None:
    before = _open(root).records
    (root / "cell_names.csv").write_bytes(b"")
    (root / "Train" / "Burst").mkdir()
    (root / "TestA" / "Thumbs.db").write_bytes(b"")
    (root / "TestA" / "Monocyte" / "._95-8-10-1_1_1.jpg").write_bytes(b"")
    (root / "TestA" / "Monocyte" / "95-8-10-1_1_1.png").write_bytes(b"")
    dataset = _open(root)
    assert dataset.records == before
    assert dataset.notes[:-1] == PUBLISHED
    assert dataset.notes[-1].startswith(
        "5 file(s) or folder(s) outside the expected layout were left out: 'cell_names.csv'"
    )


def test_a_file_called_as_a_class_is_no_folder_of_it(root: Path) -> None:
    shutil.rmtree(root / "Train" / "Basophil")
    (root / "Train" / "Basophil").write_bytes(b"")
    notes = _open(root / "Train").notes
    assert notes[0] == "Train has no folder 'Basophil'"
    assert "'Basophil'" in notes[1]


def test_images_have_the_distributed_size(tmp_path: Path) -> None:
    for record in open_dataset(raabin.write(tmp_path / "set", n_per_class=1)).records:
        image = record.read()
        assert (image.shape, image.dtype) == ((575, 575, 3), np.uint8)


@pytest.mark.parametrize(("train", "a", "b"), [("Train", "Test-A", "Test-B"), ("train", "test_a", "TESTB")])
def test_other_spellings_of_the_parts_are_the_same_parts(root: Path, train: str, a: str, b: str) -> None:
    expected = _open(root)
    fingerprint = expected.fingerprint
    for old, new in (("Train", train), ("TestA", a), ("TestB", b)):
        (root / old).rename(root / f"{old} aside").rename(root / new)
    found = _open(root)
    assert (found.name, found.notes, found.fingerprint) == (expected.name, expected.notes, fingerprint)
    assert Counter(r.part for r in found.records) == {"train": 5 * N, "test": 7 * N}
    assert _open(root / a).name == "raabin TestA"


# Smears


def test_the_first_part_of_the_name_is_the_group(root: Path) -> None:
    for record in _open(root).records:
        assert record.group == record.path.name.partition("_")[0]
    assert {r.group for r in _open(root / "TestB").records} == {"98-2-20-3"}


def test_parts_that_share_no_smear_have_no_note_of_it(root: Path) -> None:
    shutil.rmtree(root / "TestA")
    assert _open(root).notes == ("the folder 'TestA' is missing", PUBLISHED[0])


@pytest.mark.parametrize(
    "name",
    ["20190526_162951_0.jpg", "95-8-10-1_527.jpg", "95-8-10-1_527_1 (2).jpg", "a-b_1_1.jpg", "_1_1.jpg", "95-8-10-1.jpg"],
)
def test_a_name_of_another_form_has_no_group_and_is_counted_in_the_notes(root: Path, name: str) -> None:
    shutil.copy(_image(root), root / "Train" / "Monocyte" / name)
    dataset = _open(root / "Train")
    assert [r.path.name for r in dataset.records if r.group is None] == [name]
    assert dataset.notes == (
        "1 image(s) do not name their smear as <smear>_<field>_<number> does and have no group, "
        f"as {name!r}: a split can put one smear on both sides",
    )


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".JPEG"])
def test_other_spellings_of_the_suffix_are_read(root: Path, suffix: str) -> None:
    path = _image(root)
    before = _open(root)
    fingerprint = before.fingerprint
    path.rename(path.with_suffix(suffix))
    after = _open(root)
    assert (after.fingerprint, after.notes) == (fingerprint, before.notes)


@given(
    smear=st.lists(st.integers(0, 9999), min_size=2, max_size=5),
    field=st.integers(0, 10**6),
    number=st.integers(0, 10**6),
)
def test_any_smear_is_read_out_of_its_name(smear: list[int], field: int, number: int) -> None:
    text = "-".join(map(str, smear))
    match = NAME.fullmatch(f"{text}_{field}_{number}")
    assert match is not None
    assert match[1] == text
