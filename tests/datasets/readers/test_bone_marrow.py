"""Bone-marrow cytomorphology: the folders of the download, blocks of images, codes that are no cells, what is left out."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from fakes import bone_marrow
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import DatasetError
from hemalens.taxonomy import AS_LABELLED

N = 2


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The folder that holds the codes, with small images."""
    bone_marrow.write(tmp_path / "set", n_per_class=N, side_px=16)
    return tmp_path.joinpath("set", *bone_marrow.FOLDERS)


def _open(root: Path, labels: str = AS_LABELLED) -> CellDataset:
    return open_dataset(f"bone_marrow:{root}", labels=labels)


def test_the_21_classes_of_the_paper_stay_under_as_labelled(top: Path) -> None:
    dataset = _open(top)
    assert dataset.class_counts == dict.fromkeys(sorted(bone_marrow.KINDS), N)
    assert len(dataset.classes) == 21
    assert {r.group for r in dataset.records} == {None}
    assert dataset.notes == ()
    assert dataset.licence == "CC BY 4.0"


def test_images_lie_in_blocks_or_in_the_folder_of_the_code(top: Path) -> None:
    places = Counter(r.path.parent.name for r in _open(top).records)
    few = dict.fromkeys(bone_marrow.FEW, N)
    assert places == {**few, "0001-1000": 17, "1001-2000": 17}


def test_the_set_opens_from_each_folder_of_the_download(top: Path, tmp_path: Path) -> None:
    expected = _open(top).fingerprint
    for depth in range(len(bone_marrow.FOLDERS)):
        assert _open(tmp_path.joinpath("set", *bone_marrow.FOLDERS[:depth])).fingerprint == expected
    copy = top.rename(tmp_path / "bone_marrow_cell_dataset")
    shutil.rmtree(tmp_path / "set")
    assert _open(copy).fingerprint == _open(tmp_path).fingerprint == expected


def test_the_myelocyte_is_myb_and_a_blast_has_no_lineage(top: Path) -> None:
    types = {r.source_label: r.cell_type for r in _open(top).records}
    assert types["MYB"] == "myelocyte"
    assert types["BLA"] == "blast"
    assert types["PEB"] == "proerythroblast"
    assert {code for code, kind in types.items() if kind is None} == {"ART", "NIF"}


def test_artefacts_and_unidentifiable_cells_are_in_no_class_of_a_model(top: Path) -> None:
    left_out = {r.source_label: r.excluded for r in _open(top, "fab_eight").records if r.label is None}
    assert left_out["ART"] == "artefact, not a cell"
    assert left_out["NIF"] == "not identifiable"
    assert set(left_out) == {"ART", "NIF", "BLA"}


def test_other_files_and_missing_codes_are_noted(top: Path) -> None:
    expected = _open(top).fingerprint
    (top / "abbreviations.csv").write_text("")
    (top / "BAS" / "0001-1000" / ".DS_Store").write_bytes(b"")
    (top / "BAS" / "0001-1000" / "._BAS_00001.jpg").write_bytes(b"")
    path = top / "BAS" / "0001-1000" / "BAS_00001.jpg"
    path.rename(path.with_suffix(".JPG"))
    after = _open(top)
    assert after.fingerprint == expected
    (note,) = after.notes
    assert note.startswith("3 file(s) or folder(s) outside the expected layout were left out: 'abbreviations.csv'")
    shutil.rmtree(top / "HAC")
    assert _open(top).notes[0] == "the folder 'HAC' is missing"


@pytest.mark.parametrize("place", ["LYT", "LYT/0001-1000"])
def test_a_file_under_another_code_is_an_error_that_names_it(top: Path, place: str) -> None:
    shutil.copy(top / "ABE" / "ABE_00001.jpg", top / place / "BAS_00001.jpg")
    with pytest.raises(DatasetError, match=r"not named as in Bone-marrow cytomorphology; expected LYT_<number>\.jpg"):
        _open(top)


def test_the_tiff_of_matek19_are_not_this_set(top: Path) -> None:
    for path in top.rglob("*.jpg"):
        path.rename(path.with_suffix(".tiff"))
    with pytest.raises(DatasetError, match="is not laid out as Bone-marrow cytomorphology"):
        _open(top)
