"""LDWBC: class folders in either spelling, known by the name of the set, no groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import ldwbc
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import DatasetError

N = 2


@pytest.fixture
def top(tmp_path: Path) -> Path:
    ldwbc.write(tmp_path / "set", n_per_class=N, side_px=16)
    return tmp_path / "set" / "LDWBC"


def _open(root: Path) -> CellDataset:
    return open_dataset(f"ldwbc:{root}")


def test_five_classes_without_a_person(top: Path) -> None:
    dataset = _open(top)
    assert dataset.class_counts == dict.fromkeys(("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"), N)
    assert {r.group for r in dataset.records} == {None}
    assert dataset.notes == ()


@pytest.mark.parametrize("name", ["Basophil", "Basophils", "BASOPHIL", "basophils"])
def test_a_class_folder_is_known_in_any_spelling(top: Path, name: str) -> None:
    expected = _open(top).fingerprint
    (top / "basophil").rename(top / name)
    assert _open(top).fingerprint == expected


def test_the_folder_above_and_a_longer_name_open(top: Path) -> None:
    expected = _open(top).fingerprint
    longer = top.rename(top.with_name("LDWBC dataset"))
    assert _open(longer).fingerprint == _open(longer.parent).fingerprint == expected


def test_class_folders_under_another_name_are_not_taken_for_the_set(top: Path) -> None:
    with pytest.raises(DatasetError, match=r"cells' is not laid out as LDWBC; expected LDWBC\*/<class>/<image>"):
        _open(top.rename(top.with_name("cells")))


def test_two_folders_of_a_class_are_refused(top: Path) -> None:
    (top / "Basophils").mkdir()
    with pytest.raises(DatasetError, match="has two folders of Basophil; got 'Basophils' and 'basophil'"):
        _open(top)


def test_other_files_and_missing_classes_are_noted(top: Path) -> None:
    (top / "monocyte" / "Thumbs.db").write_bytes(b"")
    (top / "monocyte" / "._1.jpg").write_bytes(b"")
    (top / "monocyte" / "1.jpg").rename(top / "monocyte" / "1.JPG")
    (top / "basophil").rename(top / "other")
    dataset = _open(top)
    assert dataset.class_counts["monocyte"] == N
    assert dataset.notes == (
        "no folder of Basophil",
        "3 file(s) or folder(s) outside the expected layout were left out: '._1.jpg', 'Thumbs.db', 'other'",
    )
