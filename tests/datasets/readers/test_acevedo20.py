"""Acevedo-20: prefixes, the stray dot file, foreign names, and the real subset's counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fakes import acevedo20
from hemalens.datasets import open_dataset
from hemalens.errors import DatasetError
from hemalens.taxonomy import AS_LABELLED

# folder and cell type of each prefix, from the dataset's paper
MEANINGS = {
    "BA": ("basophil", "basophil"),
    "EO": ("eosinophil", "eosinophil"),
    "ERB": ("erythroblast", "erythroblast"),
    "PMY": ("ig", "promyelocyte"),
    "MY": ("ig", "myelocyte"),
    "MMY": ("ig", "metamyelocyte"),
    "IG": ("ig", "immature_granulocyte"),
    "BNE": ("neutrophil", "band_neutrophil"),
    "SNE": ("neutrophil", "segmented_neutrophil"),
    "NEUTROPHIL": ("neutrophil", "neutrophil"),
    "MO": ("monocyte", "monocyte"),
    "LY": ("lymphocyte", "lymphocyte"),
    "PLATELET": ("platelet", "platelet"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    acevedo20.write(tmp_path / "set", n_per_class=1)
    return tmp_path / "set" / "PBC_dataset_normal_DIB"


def test_each_prefix_lies_in_its_folder_and_has_its_cell_type(root: Path) -> None:
    records = [r for r in open_dataset(f"acevedo20:{root}").records if r.cell_type is not None]
    found = {r.source_label: (r.path.parent.name, r.cell_type) for r in records}
    assert found == MEANINGS
    assert {r.domain for r in records} == {"acevedo20"}
    assert {r.group for r in records} == {None}


def test_the_folder_itself_and_the_folder_above_name_the_same_data(root: Path) -> None:
    inside, above = open_dataset(f"acevedo20:{root}"), open_dataset(f"acevedo20:{root.parent}")
    assert inside.records == above.records


def test_archives_that_repeat_the_folder_open_from_each_of_its_levels(root: Path) -> None:
    whole = open_dataset(f"acevedo20:{root}").fingerprint
    (root.parent / "outer").mkdir()
    root.rename(root.parent / "outer" / root.name)
    (root.parent / "outer").rename(root)
    for folder in (root.parent, root, root / root.name):
        assert open_dataset(f"acevedo20:{folder}").fingerprint == whole


def test_stray_dot_file_is_a_record_left_out_with_its_reason(root: Path) -> None:
    dataset = open_dataset(f"acevedo20:{root}", labels=AS_LABELLED)
    stray = [r for r in dataset.records if r.path.name == acevedo20.STRAY]
    assert [r.label for r in stray] == [None]
    assert stray[0].excluded is not None
    assert "stray file" in stray[0].excluded
    assert dataset.excluded_counts == {stray[0].excluded: 1}


def test_unspecified_prefixes_are_left_out_of_the_thirteen_classes_with_a_reason(root: Path) -> None:
    dataset = open_dataset(f"acevedo20:{root}", labels="thirteen_class")
    left_out = {r.source_label for r in dataset.records if r.label is None}
    assert left_out == {"IG", "NEUTROPHIL", "PLATELET", ".DS"}


@pytest.mark.parametrize("name", ["XY_123.jpg", "BA_123.jpg", "no prefix.jpg", "ba_1.jpg"])
def test_unknown_or_misplaced_prefix_names_the_file_and_the_prefixes_of_its_folder(root: Path, name: str) -> None:
    shutil.copy(next((root / "ig").iterdir()), root / "ig" / name)
    with pytest.raises(
        DatasetError, match=r"not named as in Acevedo-20; expected a prefix of ig: PMY, MY, MMY, IG"
    ) as error:
        open_dataset(f"acevedo20:{root}")
    assert repr(str(root / "ig" / name)) in str(error.value)


def test_other_files_foreign_folders_and_missing_folders_are_noted(root: Path) -> None:
    (root / "platelet" / "Thumbs.db").write_bytes(b"\0")
    (root / "neutrophil" / ".DS_Store").write_bytes(b"\0")
    (root / "neutrophil" / "._BNE_100003.jpg").write_bytes(b"\0")
    (root / "blast").mkdir()
    shutil.rmtree(root / "monocyte")
    notes = " | ".join(open_dataset(f"acevedo20:{root}").notes)
    assert "the folder 'monocyte' is missing" in notes
    assert (
        "4 file(s) or folder(s) outside the expected layout were left out: 'blast', '.DS_Store', '._BNE_100003.jpg' ..."
        in notes
    )


def test_suffix_in_capitals_counts(root: Path) -> None:
    path = next((root / "basophil").iterdir())
    path.rename(path.with_suffix(".JPG"))
    assert open_dataset(f"acevedo20:{root}").class_counts["basophil"] == 1


@pytest.mark.realdata
def test_real_subset_has_the_counts_of_its_readme(real_data: Path) -> None:
    prefixes = open_dataset(f"acevedo20:{real_data / 'acevedo20'}", labels=AS_LABELLED).class_counts
    assert prefixes == {
        "BA": 400,
        "EO": 400,
        "ERB": 400,
        "LY": 400,
        "MO": 400,
        "PLATELET": 400,
        "MY": 149,
        "MMY": 136,
        "PMY": 93,
        "IG": 22,
        "BNE": 212,
        "SNE": 182,
        "NEUTROPHIL": 6,
    }
    eight = open_dataset(f"acevedo20:{real_data / 'acevedo20'}", labels="eight_class")
    assert set(eight.class_counts.values()) == {400}
    assert len(eight) == 3200
