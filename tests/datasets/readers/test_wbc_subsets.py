"""WBC subsets: every folder that may be given, one subset at a time, missing classes, smears from the names."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import wbc_subsets
from hemalens.datasets import READERS, CellDataset, open_dataset
from hemalens.datasets.readers.wbc_subsets import PAIRED
from hemalens.errors import DatasetError

N = 4
CLASSES = tuple(wbc_subsets.KINDS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that holds WBC_100, with small images."""
    wbc_subsets.write(tmp_path / "set", n_per_class=N, side_px=16)
    return tmp_path / "set"


def _open(root: Path) -> CellDataset:
    return open_dataset(f"wbc_subsets:{root}")


def _error(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        _open(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_classes_are_those_of_the_taxonomy() -> None:
    assert PAIRED.classes == tuple(READERS["wbc_subsets"].labels) == CLASSES


def test_a_subset_is_train_and_val_together(root: Path) -> None:
    dataset = _open(root / "WBC_100")
    assert dataset.name == "WBC_100"
    assert dataset.class_counts == dict.fromkeys((label.lower() for label in CLASSES), 2 * N)
    assert {r.domain for r in dataset.records} == {"wbc_subsets"}
    assert Counter(r.path.parts[-4] for r in dataset.records) == {"train": 5 * N, "val": 5 * N}
    assert all(r.path.parent.name == r.source_label for r in dataset.records)
    assert dataset.notes == (f"{10 * N - 10} of {10 * N} image(s) have no mask",)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_alone_is_named_after_its_subset_and_itself(root: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _open(root / "WBC_100" / part)
    assert (dataset.name, len(dataset)) == (f"WBC_100 {part}", 5 * N)
    monkeypatch.chdir(root / "WBC_100" / part)
    here = _open(Path())
    assert (here.name, here.fingerprint, here.notes) == (dataset.name, dataset.fingerprint, dataset.notes)


def test_the_folder_that_holds_one_subset_stands_for_it(root: Path) -> None:
    assert (_open(root).name, _open(root).records) == ("WBC_100", _open(root / "WBC_100").records)


def test_a_subset_under_another_name_is_named_after_its_folder(root: Path) -> None:
    (root / "WBC_100").rename(root / "cells")
    assert _open(root / "cells").name == "wbc_subsets cells"
    assert _open(root / "cells" / "val").name == "wbc_subsets cells val"


def test_several_subsets_are_an_error_that_names_them_and_says_how_to_name_one(tmp_path: Path) -> None:
    root = tmp_path / "both"
    spec = wbc_subsets.write(root, n_per_class=N, side_px=16, subsets=("WBC_10", "WBC_100"))
    assert spec == f"wbc_subsets:{root / 'WBC_10'}"
    assert _error(root) == (
        f"'{root}' holds several subsets, which repeat each other's images; expected the folder of one; "
        f"got WBC_100 and WBC_10. Name one, as in wbc_subsets:{root / 'WBC_100'}"
    )
    whole, tenth = _open(root / "WBC_100"), open_dataset(spec)
    assert (whole.name, tenth.name) == ("WBC_100", "WBC_10")
    assert set(tenth.contents) < set(whole.contents)


def test_a_missing_part_is_noted_and_not_in_the_name(root: Path) -> None:
    shutil.rmtree(root / "WBC_100" / "val")
    dataset = _open(root)
    assert (dataset.name, len(dataset)) == ("WBC_100 train", 5 * N)
    assert "the folder 'val' is missing" in dataset.notes


def test_missing_and_empty_class_folders_are_noted(root: Path) -> None:
    shutil.rmtree(root / "WBC_100" / "train" / "data" / "Basophil")
    for path in (root / "WBC_100" / "val" / "data" / "Monocyte").iterdir():
        path.unlink()
    dataset = _open(root)
    assert "the folder 'train/data/Basophil' is missing" in dataset.notes
    assert "the folder 'val/data/Monocyte' holds no image" in dataset.notes
    assert "2 mask(s) have no image and were left out, the first '95-8-10-1_0_1.png'" in dataset.notes
    assert (dataset.class_counts["basophil"], dataset.class_counts["monocyte"]) == (N, N)


def test_a_set_of_other_classes_is_refused(root: Path) -> None:
    (root / "WBC_100" / "train" / "data" / "Basophil").rename(root / "WBC_100" / "train" / "data" / "normal")
    error = _error(root)
    assert error.startswith(
        f"the folder '{root / 'WBC_100' / 'train' / 'data' / 'normal'}' is not one of the WBC subsets; "
    )
    assert f"expected {', '.join(CLASSES)}; got 'normal'. Rename it or take it out: " in error


# Smears


def test_names_of_raabin_give_the_smear_as_group(root: Path) -> None:
    for record in _open(root).records:
        assert record.group == record.path.name.split("_")[0]
    assert {r.group for r in _open(root).records} == {"95-8-10-1", "95-8-10-2", "95-9-10-1", "95-9-10-2"}


def test_other_names_give_no_group_and_a_note(tmp_path: Path) -> None:
    dataset = open_dataset(wbc_subsets.write(tmp_path / "set", n_per_class=1, side_px=16, smears=False))
    assert {r.group for r in dataset.records} == {None}
    assert "10 of 10 image(s) have no smear in their name, so no group" in dataset.notes


def test_smears_of_train_and_of_val_are_compared(root: Path) -> None:
    path = min((root / "WBC_100" / "val" / "data" / "Basophil").iterdir())
    path.rename(path.with_name("95-8-10-2_900_1.jpg"))
    assert "1 smear(s) lie in train and in val" in _open(root).notes


@given(
    smear=st.lists(st.integers(0, 99), min_size=2, max_size=5),
    rest=st.tuples(st.integers(0, 999), st.integers(0, 99)),
    suffix=st.sampled_from([".jpg", ".JPG", ".png"]),
)
def test_the_smear_is_the_first_part_of_a_name_of_that_form(smear: list[int], rest: tuple[int, int], suffix: str) -> None:
    first = "-".join(map(str, smear))
    assert PAIRED.group_of(Path(f"{first}_{rest[0]}_{rest[1]}{suffix}")) == first


@pytest.mark.parametrize(
    "stem", ["", "1", "95_527_1", "95-8-10-1", "95-8-10-1_527", "a95-8_1_1", "95-8_1_1_1", "95-8_1_1 (2)"]
)
def test_a_name_of_another_form_gives_no_smear(stem: str) -> None:
    assert PAIRED.group_of(Path(f"{stem}.jpg")) is None
