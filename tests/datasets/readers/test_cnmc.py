"""C-NMC 2019: every part as a root, subjects as groups, names, folders and table that contradict, what is left out."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import cnmc
from hemalens.datasets import CellDataset, open_dataset
from hemalens.errors import DatasetError

PRELIMINARY, TABLE, TRAINING = cnmc.PRELIMINARY, cnmc.TABLE, cnmc.TRAINING
N = 2
"""Cells a class in each fold and in the preliminary test."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The whole distribution, with small images."""
    cnmc.write(tmp_path / "set", n_per_class=N, side_px=24)
    return tmp_path / "set"


def _open(root: Path) -> CellDataset:
    return open_dataset(f"cnmc:{root}", labels="blast_or_not")


def _facts(dataset: CellDataset) -> list[tuple[str, str, str | None]]:
    """File name, label and group of each record."""
    return [(r.path.name, r.source_label, r.group) for r in dataset.records]


def _rewrite(table: Path, change: Callable[[str], str]) -> None:
    table.write_text(change(table.read_text(encoding="ascii")), encoding="utf-8")


def _error(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        _open(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What may be given as root


def test_the_whole_holds_the_folds_and_the_preliminary_test(root: Path) -> None:
    dataset = _open(root)
    assert dataset.name == "cnmc"
    assert not dataset.notes
    assert dataset.class_counts == {"blast": 4 * N, "not_blast": 4 * N}
    assert {r.source_label: r.cell_type for r in dataset.records} == {"all": "lymphoblast", "hem": "lymphoid_precursor"}
    assert {r.domain for r in dataset.records} == {"cnmc"}
    assert Counter(r.path.relative_to(root).parts[0] for r in dataset.records) == {TRAINING: 6 * N, PRELIMINARY: 2 * N}


def test_the_training_folder_alone_has_its_name_and_no_note(root: Path) -> None:
    dataset = _open(root / TRAINING)
    assert (dataset.name, dataset.notes) == ("cnmc training", ())
    assert dataset.records == _open(root).records[: 6 * N]


@pytest.mark.parametrize("fold", cnmc.FOLDS)
def test_one_fold_alone_is_named_after_it(root: Path, fold: str) -> None:
    dataset = _open(root / TRAINING / fold)
    assert (dataset.name, dataset.notes) == (f"cnmc {fold}", ())
    assert dataset.class_counts == {"blast": N, "not_blast": N}
    assert all(r.path.parent.name == r.source_label and r.path.parent.parent.name == fold for r in dataset.records)


def test_class_folders_under_another_name_are_named_after_their_folder(root: Path) -> None:
    (root / TRAINING / "fold_0").rename(root / "C-NMC_train_merged")
    assert _open(root / "C-NMC_train_merged").name == "cnmc C-NMC_train_merged"
    assert "'C-NMC_train_merged'" in " ".join(_open(root).notes)


def test_the_preliminary_test_alone_has_its_name_and_comes_in_the_order_of_its_numbers(root: Path) -> None:
    cnmc.write(root.with_name("more"), n_per_class=6, side_px=24)
    dataset = _open(root.with_name("more") / PRELIMINARY)
    assert (dataset.name, dataset.notes) == ("cnmc preliminary test", ())
    assert [r.path.name for r in dataset.records] == [f"{n}.bmp" for n in range(1, 13)]
    assert [r.source_label for r in dataset.records] == ["all", "hem"] * 6


def test_support_and_test_of_a_study_share_no_subject_and_no_name(root: Path) -> None:
    support, test = _open(root / TRAINING / "fold_0"), _open(root / PRELIMINARY)
    assert support.name != test.name
    assert {r.group for r in support.records}.isdisjoint({r.group for r in test.records})


@pytest.mark.parametrize("part", ["", TRAINING, f"{TRAINING}/fold_1", PRELIMINARY])
def test_the_folder_one_stands_in_and_a_link_to_it_are_named_as_the_part_itself(
    root: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _open(root / part)
    (root.parent / "link").symlink_to(root / part, target_is_directory=True)
    linked = _open(root.parent / "link")
    monkeypatch.chdir(root / part)
    here = _open(Path())
    for dataset in (linked, here):
        assert (dataset.name, _facts(dataset), dataset.notes) == (expected.name, _facts(expected), expected.notes)


def test_redistributed_names_of_the_outer_folders_are_understood(root: Path) -> None:
    before = _open(root)
    (root / TRAINING).rename(root / "training_data")
    (root / "validation_data").mkdir()
    (root / PRELIMINARY / TABLE).rename(root / "validation_data" / TABLE)
    (root / PRELIMINARY).rename(root / "validation_data" / PRELIMINARY)
    dataset = _open(root)
    assert (dataset.name, _facts(dataset), dataset.notes) == ("cnmc", _facts(before), ())
    assert _open(root / "training_data").name == "cnmc training"
    assert _open(root / "training_data" / "fold_2").name == "cnmc fold_2"
    for part in ("validation_data", f"validation_data/{PRELIMINARY}"):
        assert (_open(root / part).name, len(_open(root / part))) == ("cnmc preliminary test", 2 * N)


def test_folds_may_lie_directly_beside_the_preliminary_test(root: Path) -> None:
    before = _facts(_open(root))
    for fold in cnmc.FOLDS:
        (root / TRAINING / fold).rename(root / fold)
    (root / TRAINING).rmdir()
    dataset = _open(root)
    assert (dataset.name, _facts(dataset), dataset.notes) == ("cnmc", before, ())


def test_folders_unpacked_into_one_of_the_same_name_are_entered_once(root: Path) -> None:
    before = _facts(_open(root))
    for folder in (root / TRAINING / "fold_0", root / TRAINING, root / PRELIMINARY):
        moved = folder.rename(folder.with_name("moved"))
        folder.mkdir()
        moved.rename(folder / folder.name)
    dataset = _open(root)
    assert (dataset.name, _facts(dataset), dataset.notes) == ("cnmc", before, ())
    assert (_open(root / TRAINING).name, _open(root / TRAINING).notes) == ("cnmc training", ())
    assert _open(root / TRAINING / TRAINING / "fold_0").name == "cnmc fold_0"
    assert _open(root / PRELIMINARY).name == "cnmc preliminary test"


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_the_table_may_lie_in_the_folder_or_beside_it(root: Path, nested: bool, place: str) -> None:
    before = _facts(_open(root / PRELIMINARY))
    folder = root / PRELIMINARY
    (folder / TABLE).rename(root / TABLE)
    if nested:
        moved = folder.rename(root / "moved")
        folder.mkdir()
        moved.rename(folder / PRELIMINARY)
    if place == "inside":
        (root / TABLE).rename(folder / TABLE)
    dataset = _open(folder)
    assert (dataset.name, _facts(dataset), dataset.notes) == ("cnmc preliminary test", before, ())
    assert _open(root).name == "cnmc"
    assert not _open(root).notes


@pytest.mark.parametrize(
    ("gone", "name", "count", "missing"),
    [(PRELIMINARY, "cnmc training", 6 * N, PRELIMINARY), (TRAINING, "cnmc preliminary test", 2 * N, TRAINING)],
)
def test_a_whole_that_lacks_one_part_is_named_after_the_other_and_notes_it(
    root: Path, gone: str, name: str, count: int, missing: str
) -> None:
    shutil.rmtree(root / gone)
    dataset = _open(root)
    assert (dataset.name, len(dataset)) == (name, count)
    assert dataset.notes == (f"the folder {missing!r} is missing",)


def test_missing_and_empty_folders_of_folds_are_noted(root: Path) -> None:
    shutil.rmtree(root / TRAINING / "fold_0")
    shutil.rmtree(root / TRAINING / "fold_1" / "hem")
    for path in (root / TRAINING / "fold_2" / "all").iterdir():
        path.unlink()
    assert _open(root / TRAINING).notes == (
        "the folder 'fold_0' is missing",
        "the folder 'fold_1/hem' is missing",
        "the folder 'fold_2/all' holds no image",
    )


def test_one_part_under_both_its_names_is_refused_not_guessed(root: Path) -> None:
    shutil.copytree(root / TRAINING, root / "training_data")
    text = _error(root)
    assert "holds one part of C-NMC 2019 twice" in text
    assert "got C-NMC_training_data and training_data" in text


# Subjects and names


def test_subjects_are_the_groups_also_in_the_preliminary_test(root: Path) -> None:
    groups: dict[str, set[str | None]] = {"all": set(), "hem": set()}
    for record in _open(root).records:
        groups[record.source_label].add(record.group)
    assert groups == {"all": {"11", "12", "21", "57"}, "hem": {"H10", "H22", "H3", "H49"}}


def test_a_small_h_is_the_same_subject_as_a_capital_one(root: Path) -> None:
    folder = root / TRAINING / "fold_2" / "hem"
    assert all(path.name.startswith("UID_h3_") for path in folder.iterdir())
    shutil.copy(folder / "UID_h3_1_1_hem.bmp", folder / "UID_H3_9_9_hem.bmp")
    assert {r.group for r in _open(root / TRAINING / "fold_2").records} == {"21", "H3"}


@pytest.mark.parametrize(
    "name",
    ["1.bmp", "UID_11_1_all.bmp", "UID_11_1_1.bmp", "UID_X1_1_1_all.bmp", "UID_11_1_1_all copy.bmp", "UID_11_1_1_ALL.bmp"],
)
def test_an_image_of_another_name_is_an_error_that_names_it(root: Path, name: str) -> None:
    folder = root / TRAINING / "fold_0" / "all"
    shutil.copy(folder / "UID_11_1_1_all.bmp", folder / name)
    text = _error(root)
    assert name in text
    assert "is not named as in C-NMC 2019; expected UID_<subject>_<image>_<cell>_all.bmp" in text


@pytest.mark.parametrize("part", ["", TRAINING, f"{TRAINING}/fold_0"])
def test_a_name_that_contradicts_its_folder_is_an_error_that_names_it(root: Path, part: str) -> None:
    fold = root / TRAINING / "fold_0"
    shutil.move(fold / "all" / "UID_11_1_1_all.bmp", fold / "hem")
    text = _error(root / part)
    assert "hem/UID_11_1_1_all.bmp' contradict each other; expected a name ending in _hem.bmp; got _all.bmp" in text


def test_a_label_against_the_subject_is_noted(root: Path) -> None:
    folder = root / TRAINING / "fold_0" / "all"
    (folder / "UID_11_1_1_all.bmp").rename(folder / "UID_H11_1_1_all.bmp")
    notes = _open(root).notes
    assert len(notes) == 1
    assert notes[0].startswith("1 image(s) have a label that contradicts their subject's number")


def test_images_are_cells_on_black_of_the_distributed_size(tmp_path: Path) -> None:
    dataset = open_dataset(cnmc.write(tmp_path / "set", n_per_class=1), labels="blast_or_not")
    for record in dataset.records:
        image = record.read()
        assert image.shape == (450, 450, 3)
        assert not image[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert 0.05 < np.mean(image.any(axis=2)) < 0.95


# What is left out


def test_the_final_test_is_left_out_with_a_note_and_refused_alone(root: Path) -> None:
    before = _open(root).records
    final = root / "C-NMC_test_final_phase_data"
    shutil.copytree(root / PRELIMINARY, final)
    dataset = _open(root)
    assert dataset.records == before
    assert dataset.notes == ("the final test ('C-NMC_test_final_phase_data') has no labels and was left out",)
    # not even with the preliminary test's table in it: the numbers are the same, the cells are not
    assert "is the final test of C-NMC 2019, which has no labels" in _error(final)


def test_the_final_test_never_takes_the_table_beside_it(root: Path) -> None:
    (root / PRELIMINARY / TABLE).rename(root / TABLE)
    (root / PRELIMINARY).rename(root / "final")
    assert "is not laid out as C-NMC 2019" in _error(root / "final")


def test_foreign_files_are_noted_in_every_part(root: Path) -> None:
    (root / "CNMC_readme.pdf").write_bytes(b"")
    (root / TRAINING / "fold_0.zip").write_bytes(b"")
    (root / TRAINING / "fold_0" / "other").mkdir()
    (root / TRAINING / "fold_1" / "hem" / ".DS_Store").write_bytes(b"")
    (root / TRAINING / "fold_1" / "hem" / "._UID_H22_1_1_hem.bmp").write_bytes(b"")
    (root / PRELIMINARY / "list.txt").write_bytes(b"")
    dataset = _open(root)
    assert len(dataset) == 8 * N
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("6 file(s) or folder(s) outside the expected layout were left out")
    assert "'fold_0.zip'" in _open(root / TRAINING).notes[0]
    assert "'other'" in _open(root / TRAINING / "fold_0").notes[0]
    assert "'list.txt'" in _open(root / PRELIMINARY).notes[0]


def test_folds_without_any_image_are_not_laid_out_as_the_dataset(root: Path) -> None:
    for path in (root / TRAINING).rglob("*.bmp"):
        path.rename(path.with_suffix(".txt"))
    assert "is not laid out as C-NMC 2019; expected C-NMC_training_data/fold_" in _error(root / TRAINING)


# The table


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.rstrip(),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ", "),
        lambda text: "\n".join([text.split("\n")[0], *reversed(text.split("\n")[1:])]),
    ],
    ids=["blank line", "no last line end", "windows line ends", "BOM", "spaces", "other order"],
)
def test_ways_to_write_the_same_table_give_the_same_records(root: Path, change: Callable[[str], str]) -> None:
    before = _open(root).records
    _rewrite(root / PRELIMINARY / TABLE, change)
    assert _open(root).records == before


@pytest.mark.parametrize("part", ["", PRELIMINARY])
def test_a_row_without_an_image_is_an_error_that_names_both(root: Path, part: str) -> None:
    (root / PRELIMINARY / "3.bmp").unlink()
    text = _error(root / part)
    assert f"{TABLE}' names 1 image(s) that" in text
    assert "got no '3.bmp'" in text


@pytest.mark.parametrize("name", ["5.bmp", "copy of 1.bmp", "UID_57_1_1_all.bmp"])
def test_an_image_without_a_row_is_an_error_that_names_both(root: Path, name: str) -> None:
    shutil.copy(root / PRELIMINARY / "1.bmp", root / PRELIMINARY / name)
    text = _error(root)
    assert f"{TABLE}' has no row for 1 image(s) of" in text
    assert f"got '{name}'" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("Patient_ID", "ID"), "has another header; expected Patient_ID,new_names,labels; got 'ID,new_"),
        (lambda t: t.partition("\n")[2], "has another header; expected Patient_ID,new_names,labels; got 'UID_57_1_1_all"),
        (lambda t: "", "has another header; expected Patient_ID,new_names,labels; got no header"),
        (lambda t: t.partition("\n")[0], "lists no image"),
        (lambda t: t + "UID_57_2_1_all.bmp,1.bmp,1\n", "line 6: 1.bmp is named a second time; expected one row an image"),
        (lambda t: t + t.split("\n")[1], "line 6: 1.bmp is named a second time"),
        (
            lambda t: t.replace("2.bmp,0", "2.bmp,2"),
            "line 3: 2.bmp has an unknown label; expected 1 (all) or 0 (hem); got '2'",
        ),
        (
            lambda t: t.replace("2.bmp,0", "2.bmp,"),
            "line 3: 2.bmp has an unknown label; expected 1 (all) or 0 (hem); got ''",
        ),
        (lambda t: t.replace("2.bmp,0", "2.bmp,hem"), "got 'hem'"),
        (
            lambda t: t.replace("2.bmp,0", "2.bmp,1"),
            "line 3: the label and the Patient_ID of 2.bmp contradict each other; "
            "expected a Patient_ID ending in _all.bmp with the label 1; got 'UID_H49_1_1_hem.bmp'",
        ),
        (lambda t: t.replace("UID_57_1_1_all", "57"), "line 2: the Patient_ID names no subject; expected UID_<subject>_"),
        (
            lambda t: t.replace(",1.bmp", ",../1.bmp"),
            "line 2: the new name is not one of C-NMC 2019; expected <number>.bmp",
        ),
        (lambda t: t.replace(",1.bmp", ",one.bmp"), "got 'one.bmp'"),
        (
            lambda t: t.replace(",1.bmp,1", ",1.bmp"),
            "line 2: another number of values; expected Patient_ID,new_names,labels",
        ),
        (lambda t: t.replace(",1.bmp,1", ",1.bmp,1,1"), "line 2: another number of values"),
        (lambda t: t + '"', "cannot be read as a UTF-8 CSV"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_it_and_the_line(
    root: Path, change: Callable[[str], str], message: str
) -> None:
    _rewrite(root / PRELIMINARY / TABLE, change)
    for part in ("", PRELIMINARY):
        text = _error(root / part)
        assert TABLE in text
        assert message in text


def test_no_table_and_two_tables_are_errors_that_say_where_it_belongs(root: Path) -> None:
    shutil.copy(root / PRELIMINARY / TABLE, root / TABLE)
    text = _error(root)
    assert "needs one table of labels" in text
    assert " and " in text
    assert "Keep one." in text
    for path in (root / TABLE, root / PRELIMINARY / TABLE):
        path.unlink()
    for part in ("", PRELIMINARY):
        text = _error(root / part)
        assert f"expected {TABLE} in the folder or next to it; got none" in text


@given(content=st.binary(max_size=60))
def test_any_bytes_as_table_give_records_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "cnmc bytes" / PRELIMINARY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_bytes(f"{cnmc.HEADER}\n".encode() + content)
    _error(folder)
