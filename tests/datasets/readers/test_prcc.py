"""pRCC regions: one flat folder or a folder a type, never both; empty and foreign folders."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fakes import cam16, prcc
from hemalens.datasets import READERS, CellDataset, open_dataset
from hemalens.datasets.readers.prcc import LAYOUT, TYPES, UNLABELLED
from hemalens.errors import DatasetError
from hemalens.taxonomy import AS_LABELLED

N = 2


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    prcc.write(tmp_path / "set", n_per_class=N, side_px=24)
    return tmp_path / "set" / prcc.FOLDER


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    prcc.write(tmp_path / "typed", n_per_class=N, side_px=24, typed=True)
    return tmp_path / "typed"


def _open(root: Path) -> CellDataset:
    return open_dataset(f"prcc:{root}", labels=AS_LABELLED)


def _error(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        _open(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_labels_are_those_of_the_taxonomy() -> None:
    assert (UNLABELLED, *TYPES) == tuple(READERS["prcc"].labels)


def test_flat_regions_are_unlabelled_and_come_by_name(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _open(flat)
    assert (dataset.name, dataset.notes, dataset.class_counts) == ("prcc", (), {"unlabelled": 2 * N})
    assert [r.path.name for r in dataset.records] == [f"region_{i:04d}.png" for i in range(2 * N)]
    assert {(r.domain, r.group, r.mask_path) for r in dataset.records} == {("prcc", None, None)}
    assert _open(flat.parent).records == dataset.records
    monkeypatch.chdir(flat)
    assert _open(Path()).fingerprint == dataset.fingerprint


def test_the_folder_may_have_another_name_and_suffixes_be_in_capitals(flat: Path) -> None:
    before = _open(flat).fingerprint
    renamed = flat.rename(flat.with_name("regions"))
    first = min(renamed.iterdir())
    first.rename(first.with_suffix(".PNG"))
    assert _open(renamed).fingerprint == before


def test_type_folders_give_the_labels(typed: Path) -> None:
    dataset = _open(typed)
    assert (dataset.notes, dataset.class_counts) == ((), {"type1": N, "type2": N})
    assert all(r.path.parent.name == r.source_label for r in dataset.records)


def test_type_folders_may_lie_in_the_set_s_own_folder(typed: Path) -> None:
    inner = typed / prcc.FOLDER
    inner.mkdir()
    for label in TYPES:
        (typed / label).rename(inner / label)
    for root in (typed, inner):
        assert _open(root).class_counts == {"type1": N, "type2": N}


def test_one_type_alone_is_noted(typed: Path) -> None:
    shutil.rmtree(typed / "type2")
    assert (_open(typed).notes, _open(typed).class_counts) == (("the folder 'type2' is missing",), {"type1": N})


@pytest.mark.parametrize("labels", ["five_class", AS_LABELLED])
def test_tissue_is_a_class_only_as_labelled(flat: Path, labels: str) -> None:
    dataset = open_dataset(f"prcc:{flat}", labels=labels)
    assert dataset.classes == (("unlabelled",) if labels == AS_LABELLED else ())


def test_hidden_and_other_files_are_left_out_and_noted(flat: Path, typed: Path) -> None:
    for folder, root in ((flat, flat), (typed / "type1", typed)):
        before = _open(root).records
        (folder / ".DS_Store").write_bytes(b"")
        (folder / ".cache").mkdir()
        shutil.copy(before[0].path, folder / f"._{before[0].path.name}")
        (folder / "labels.csv").write_text("")
        dataset = _open(root)
        assert dataset.records == before
        assert dataset.notes == (
            "4 file(s) or folder(s) outside the expected layout were left out: "
            f"'.DS_Store', '._{before[0].path.name}', '.cache' ...",
        )


def test_empty_folders_are_errors_that_say_so(flat: Path, typed: Path) -> None:
    for path in flat.iterdir():
        path.unlink()
    text = f"the folder '{flat}' holds no image; expected {LAYOUT}; got an empty folder. Unpack the set again."
    assert _error(flat) == _error(flat.parent) == text
    (flat / ".DS_Store").write_bytes(b"")
    assert _error(flat) == text.replace("an empty folder", "'.DS_Store'")
    shutil.rmtree(typed / "type2")
    (typed / "type2").mkdir()
    assert _error(typed) == (
        f"the folder '{typed / 'type2'}' holds no image; expected {LAYOUT}; got an empty folder. "
        "Fill the folder, or take it out."
    )


def test_flat_regions_beside_type_folders_are_an_error(typed: Path) -> None:
    Image.new("RGB", (24, 24)).save(typed / "region.png")
    assert _error(typed) == (
        f"'{typed}' holds regions with and without a type; expected {LAYOUT}; got type1 and type2, and 1 image(s) "
        "without a type. Move the folders type1 and type2 into a folder of their own, and give that or the other."
    )


def test_the_flat_folder_beside_type_folders_is_an_error_for_their_parent_only(flat: Path) -> None:
    root = flat.parent
    prcc.write(root, n_per_class=N, side_px=24, typed=True)
    assert re.search(
        r"holds regions with and without a type; .* got type1 and type2, and the folder pRCC_nolabel", _error(root)
    )
    assert _open(flat).class_counts == {"unlabelled": 2 * N}


@pytest.mark.parametrize("label", TYPES)
def test_the_folder_of_one_type_is_refused_for_its_regions_would_lose_their_label(typed: Path, label: str) -> None:
    assert _error(typed / label) == (
        f"'{typed / label}' is the folder of one type; expected {LAYOUT}; got only {label}. "
        "Give the folder that it lies in."
    )


def test_other_folders_are_a_foreign_layout(flat: Path, typed: Path, tmp_path: Path) -> None:
    for root in (flat, typed):
        (root / "type3").mkdir()
        assert re.search(r"is not laid out as the pRCC regions; expected .*; got .*'type3'", _error(root))
    cam16.write(tmp_path / "patches", n_per_class=1, side_px=24)
    assert "is not laid out as the pRCC regions" in _error(tmp_path / "patches" / cam16.FOLDER)
