"""Matek-19: MYO and MYB the right way round, alpha without meaning, foreign names, the real sample."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import matek19
from hemalens.datasets import open_dataset
from hemalens.errors import DatasetError
from hemalens.taxonomy import AS_LABELLED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    matek19.write(tmp_path / "set", n_per_class=1)
    return tmp_path / "set" / "AML-Cytomorphology_LMU"


def test_myo_is_the_myeloblast_and_myb_the_myelocyte(root: Path) -> None:
    types = {r.source_label: r.cell_type for r in open_dataset(f"matek19:{root}").records}
    assert types["MYO"] == "myeloblast"
    assert types["MYB"] == "myelocyte"
    assert len(types) == 15


def test_only_the_bilobed_promyelocyte_is_outside_the_thirteen_classes(root: Path) -> None:
    dataset = open_dataset(f"matek19:{root}", labels="thirteen_class")
    assert [r.source_label for r in dataset.records if r.label is None] == ["PMB"]
    assert {r.source_label for r in dataset.records if r.label == "monocyte"} == {"MON", "MOB"}


def test_alpha_is_dropped_and_changes_no_colour(root: Path) -> None:
    path = root / "BAS" / "BAS_0001.tiff"
    with Image.open(path) as image:
        stored = np.asarray(image)
    assert stored.shape == (400, 400, 4)
    record = next(r for r in open_dataset(f"matek19:{root}").records if r.path == path)
    np.testing.assert_array_equal(record.read(), stored[..., :3])


def test_the_folder_may_carry_a_longer_name_and_be_given_itself(root: Path) -> None:
    longer = root.rename(root.with_name("AML-Cytomorphology"))
    assert len(open_dataset(f"matek19:{longer}")) == len(open_dataset(f"matek19:{longer.parent}")) == 15


def test_two_candidate_folders_are_refused_not_guessed(root: Path) -> None:
    shutil.copytree(root, root.with_name("AML-Cytomorphology_old"))
    with pytest.raises(DatasetError, match=r"got 'AML-Cytomorphology_LMU', 'AML-Cytomorphology_old'"):
        open_dataset(f"matek19:{root.parent}")


@pytest.mark.parametrize("name", ["BAS_0001.tiff", "0001.tiff", "LYT.tif"])
def test_file_under_another_code_is_an_error_that_names_it(root: Path, name: str) -> None:
    shutil.copy(root / "BAS" / "BAS_0001.tiff", root / "LYT" / name)
    with pytest.raises(DatasetError, match=r"not named as in Matek-19; expected LYT_<number>\.tiff") as error:
        open_dataset(f"matek19:{root}")
    assert name in str(error.value)


def test_unknown_codes_and_other_files_are_noted(root: Path) -> None:
    (root / "XYZ").mkdir()
    (root / "abbreviations.txt").write_text("BAS basophil")
    (root / "BAS" / "notes.txt").write_text("")
    (root / "BAS" / "._BAS_0001.tiff").write_bytes(b"")
    (root / "BAS" / "BAS_0001.tiff").rename(root / "BAS" / "BAS_0001.TIF")
    dataset = open_dataset(f"matek19:{root}", labels=AS_LABELLED)
    assert dataset.class_counts["BAS"] == 1
    assert dataset.notes == (
        "3 file(s) or folder(s) outside the expected layout were left out: '._BAS_0001.tiff', 'notes.txt', 'XYZ'",
    )


# The folders around the codes, as the collection and its users name them

DOWNLOADS = (
    ("PKG - AML-Cytomorphology_LMU", "AML-Cytomorphology_LMU"),
    ("PKG - AML-Cytomorphology", "AML-Cytomorphology"),
    ("AML-Cytomorphology_LMU", "AML-Cytomorphology"),
    ("PKG - AML-Cytomorphology_LMU",),
    ("my own name",),
)


@pytest.mark.parametrize("folders", DOWNLOADS, ids="/".join)
def test_the_set_opens_from_each_folder_around_the_codes(root: Path, tmp_path: Path, folders: tuple[str, ...]) -> None:
    expected = open_dataset(f"matek19:{root}").fingerprint
    inner = tmp_path.joinpath("download", *folders)
    inner.parent.mkdir(parents=True)
    root.rename(inner)
    outer = [tmp_path / "download"] if folders != ("my own name",) else []
    for folder in (*outer, *(tmp_path.joinpath("download", *folders[: i + 1]) for i in range(len(folders)))):
        assert open_dataset(f"matek19:{folder}").fingerprint == expected


# Cells that were annotated again


def _annotate(folder: Path, *rows: str) -> None:
    (folder / "annotations.dat").write_text("\n".join(rows) + "\n", encoding="utf-8")


ROWS = (
    "BAS/BAS_0001.tiff BAS UNC EOS",
    "EBO/EBO_0001.tiff EBO LYT EBO",
    "EOS/EOS_0001.tiff EOS EOS EOS",
    "LYT/LYT_0001.tiff LYT LYT LYT",
    "MON/MON_0001.tiff MON nan nan",
    "NGS/NGS_9999.tiff NGS NGS NGS",
)
NOTE = (
    "4 of 15 cells were annotated twice more: 50.0% kept their label in the first round, 75.0% in the second; "
    "1 could not be assigned a class"
)


@pytest.mark.parametrize("place", ["set", "set/AML-Cytomorphology_LMU"])
def test_all_labels_of_a_cell_are_on_its_record_and_their_agreement_is_noted(
    root: Path, tmp_path: Path, place: str
) -> None:
    _annotate(tmp_path / place, *ROWS)
    dataset = open_dataset(f"matek19:{root.parent}")
    assert {r.source_label: r.annotations for r in dataset.records if r.annotations} == {
        "BAS": ("BAS", "UNC", "EOS"),
        "EBO": ("EBO", "LYT", "EBO"),
        "EOS": ("EOS", "EOS", "EOS"),
        "LYT": ("LYT", "LYT", "LYT"),
    }
    assert dataset.notes == (NOTE,)


def test_the_table_changes_neither_labels_nor_the_fingerprint(root: Path) -> None:
    before = open_dataset(f"matek19:{root}")
    _annotate(root, *ROWS)
    after = open_dataset(f"matek19:{root}")
    assert (after.fingerprint, after.class_counts) == (before.fingerprint, before.class_counts)


def test_a_table_outside_the_given_folder_is_not_read(root: Path) -> None:
    _annotate(root.parent, *ROWS)
    assert open_dataset(f"matek19:{root}").notes == ()


def test_cells_annotated_again_open_under_their_last_label(root: Path) -> None:
    _annotate(root, *ROWS, "MYO/MYO_0001.tiff MYO MYO UNC")
    dataset = open_dataset(f"matek19_reannotated:{root}", labels=AS_LABELLED)
    assert {r.path.parent.name: r.label for r in dataset.records} == {
        "BAS": "EOS",
        "EBO": "EBO",
        "EOS": "EOS",
        "LYT": "LYT",
        "MYO": None,
    }
    assert dataset.excluded_counts == {"could not be assigned a class when annotated again": 1}


@pytest.mark.parametrize(("rows", "got"), [((), "no annotations.dat"), (ROWS[4:5], "no re-annotation in '")])
def test_cells_annotated_again_need_the_table(root: Path, rows: tuple[str, ...], got: str) -> None:
    if rows:
        _annotate(root, *rows)
    with pytest.raises(DatasetError, match="has no cell that was annotated again") as error:
        open_dataset(f"matek19_reannotated:{root}")
    assert f"; got {got}" in str(error.value)


@pytest.mark.parametrize(
    "row", ["BAS/BAS_0001.tiff BAS nan", "BAS/BAS_0001.tiff BAS EOS XYZ", "BAS/BAS_0001.tiff UNC nan nan", "a b c d e"]
)
def test_a_damaged_table_is_an_error_that_names_the_line(root: Path, row: str) -> None:
    _annotate(root, ROWS[0], row)
    with pytest.raises(
        DatasetError, match=r"annotations\.dat', line 2, is no row of annotations; expected <CODE>/<file>"
    ) as error:
        open_dataset(f"matek19:{root}")
    assert str(error.value).endswith(f"got '{row}'")


@pytest.mark.realdata
def test_real_sample_has_the_counts_of_its_readme(real_data: Path) -> None:
    counts = open_dataset(f"matek19:{real_data / 'matek19'}", labels=AS_LABELLED).class_counts
    assert counts == dict.fromkeys(("BAS", "EBO", "EOS", "LYT", "MON", "MYB", "NGB", "NGS", "PMO"), 2) | {"MMZ": 1}


@pytest.mark.realdata
def test_real_images_are_rgba_on_disk_and_rgb_when_read(real_data: Path) -> None:
    for record in open_dataset(f"matek19:{real_data / 'matek19'}").records[:3]:
        with Image.open(record.path) as image:
            assert image.mode == "RGBA"
            np.testing.assert_array_equal(record.read(), np.asarray(image)[..., :3])
