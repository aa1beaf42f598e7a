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
    notes = open_dataset(f"matek19:{root}").notes
    assert len(notes) == 1
    assert notes[0].startswith("3 file(s) or folder(s)")
    assert "'XYZ'" in notes[0]


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
