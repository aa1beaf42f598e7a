"""Several datasets as one: order of the classes, names, contents, licences; what stays apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hemalens.datasets import CellDataset, Record, open_dataset, together
from hemalens.datasets.open import spec_path
from hemalens.datasets.splits import units
from hemalens.errors import LabelError
from hemalens.taxonomy import AS_LABELLED


def _cells(folder: Path, name: str, labels: str, *, label_map: str = AS_LABELLED, **more: object) -> CellDataset:
    """One image a letter of `labels`, each file with a content of its own, in one group."""
    names = {"n": "neutrophil", "e": "eosinophil", "l": "lymphocyte", "m": "monocyte", "b": "basophil"}
    records = []
    for i, letter in enumerate(labels):
        label = names.get(letter, letter)
        path = folder / f"{name} {i}.png"
        path.write_text(f"{name} {i}")
        records.append(Record(path, label, name, group="1", label=label))
    order = tuple(dict.fromkeys(record.label or "" for record in records))
    values = {"licence": f"licence of {name}", "citation": f"citation of {name}", **more}
    return CellDataset(name, tuple(records), order, label_map, **values)  # type: ignore[arg-type]


@pytest.fixture
def sets(tmp_path: Path) -> list[CellDataset]:
    return [
        _cells(tmp_path, "first", "zyx", notes=("two left out",)),
        _cells(tmp_path, "second", "dxc", licence="licence of first", synthetic=True),
        _cells(tmp_path, "third", "a", citation="citation of first", notes=("one", "two")),
    ]


def test_records_stand_one_behind_the_other(sets: list[CellDataset]) -> None:
    joined = together(sets)
    assert tuple(replace(r, source=0) for r in joined.records) == sets[0].records + sets[1].records + sets[2].records
    assert [r.source for r in joined.records] == [0, 0, 0, 1, 1, 1, 2]
    assert joined.contents == tuple(record.content_id() for record in joined.records)
    assert len(set(joined.contents)) == 7
    assert joined.name == "first + second + third"
    assert joined.label_map == AS_LABELLED


def test_classes_keep_the_first_set_s_order_and_new_ones_follow_by_name(sets: list[CellDataset]) -> None:
    joined = together(sets)
    assert joined.classes == ("z", "y", "x", "a", "c", "d")
    assert joined.class_counts == {"z": 1, "y": 1, "x": 2, "a": 1, "c": 1, "d": 1}
    assert [joined.classes[i] for i in joined.targets] == [record.label for record in joined.records]


def test_under_a_label_map_its_order_holds_whatever_comes_first(tmp_path: Path) -> None:
    five = [_cells(tmp_path, name, labels, label_map="five_class") for name, labels in (("one", "ml"), ("two", "bnm"))]
    for given in (five, five[::-1]):
        joined = together(given)
        assert joined.classes == ("neutrophil", "basophil", "lymphocyte", "monocyte")
        assert joined.label_map == "five_class"
    kept = [*five, _cells(tmp_path, "three", "qn", label_map="five_class")]
    assert together(kept).classes == ("neutrophil", "basophil", "lymphocyte", "monocyte", "q"), (
        "a class kept beside the map"
    )


def test_licences_and_citations_are_named_once_each(sets: list[CellDataset]) -> None:
    joined = together(sets)
    assert joined.licence == "licence of first; licence of third"
    assert joined.citation == "citation of first; citation of second"
    assert joined.notes == ("first: two left out", "third: one", "third: two")
    assert joined.synthetic, "one drawn image makes it so"
    assert not together([sets[0], sets[2]]).synthetic


def test_one_set_is_itself(sets: list[CellDataset]) -> None:
    assert together(sets[:1]) is sets[0]


def test_groups_of_one_name_in_two_sets_stay_two(sets: list[CellDataset]) -> None:
    assert units(together(sets)).tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_copies_in_two_sets_are_one_unit(tmp_path: Path) -> None:
    a, b = _cells(tmp_path, "a", "xx"), _cells(tmp_path, "b", "xx")
    b.records[1].path.write_bytes(a.records[0].path.read_bytes())
    assert len(set(units(together([a, b])))) == 1


def test_the_fingerprint_is_that_of_the_images_whatever_their_order(sets: list[CellDataset]) -> None:
    assert together(sets).fingerprint == together(sets[::-1]).fingerprint
    assert together(sets).fingerprint != together(sets[:2]).fingerprint


def test_parts_of_a_whole_know_their_contents(sets: list[CellDataset]) -> None:
    joined = together(sets)
    part = joined.only_classes(["x", "a"])
    assert part.classes == ("x", "a")
    assert part.contents == tuple(record.content_id() for record in part.records)


def test_each_set_is_there_again_with_its_own_licence(sets: list[CellDataset]) -> None:
    parts = together(sets).by_source()
    assert [part.name for part in parts] == ["first", "second", "third"]
    assert [part.licence for part in parts] == [s.licence for s in sets]
    assert [part.citation for part in parts] == [s.citation for s in sets]
    assert [part.synthetic for part in parts] == [False, True, False]
    assert [part.contents for part in parts] == [s.contents for s in sets]
    assert {part.classes for part in parts} == {together(sets).classes}
    assert sets[0].by_source() == (sets[0],)


def test_a_set_of_which_nothing_is_left_is_no_part(sets: list[CellDataset]) -> None:
    parts = together(sets).subset([0, 6]).by_source()
    assert [(part.name, len(part)) for part in parts] == [("first", 1), ("third", 1)]


# Labels that name no cell type


def _folder(place: Path, *labels: str) -> str:
    for label in labels:
        (place / label).mkdir(parents=True)
        (place / label / "a.png").write_text(f"{label}")
    return f"folder:{place}"


def test_an_unknown_label_is_left_out_with_its_hint_and_its_count(tmp_path: Path) -> None:
    dataset = open_dataset(_folder(tmp_path / "set", "monocyte", "neutrofil", "Pro-B", "PM"))
    assert dataset.class_counts == {"monocyte": 1}
    assert dataset.excluded_counts == {
        "'neutrofil' is no known cell type (did you mean 'neutrophil'?)": 1,
        "'Pro-B' is no known cell type": 1,
        "'PM' is no known cell type (It may mean promyelocyte or promonocyte: rename it.)": 1,
    }


def test_many_unknown_labels_share_a_reason(tmp_path: Path) -> None:
    reasons = open_dataset(_folder(tmp_path / "set", "monocyte", *(f"kind {i}" for i in range(9)))).excluded_counts
    assert len(reasons) == 6
    assert reasons["4 other label(s) that are no known cell type, as 'kind 5', 'kind 6', 'kind 7' and 1 more"] == 4


def test_with_strict_and_where_no_label_is_known_it_is_an_error(tmp_path: Path) -> None:
    spec = _folder(tmp_path / "set", "monocyte", "Pro-B")
    with pytest.raises(LabelError, match=r"the label 'Pro-B' is no known cell type. `hemalens data types` lists the names"):
        open_dataset(spec, strict=True)
    assert set(open_dataset(spec, labels=AS_LABELLED, strict=True).classes) == {"monocyte", "Pro-B"}
    with pytest.raises(LabelError, match="the label 'neutrofil' is no known cell type"):
        open_dataset(_folder(tmp_path / "other", "neutrofil", "Pro-B"))


def test_a_label_that_is_kept_is_not_unknown(tmp_path: Path) -> None:
    spec = _folder(tmp_path / "set", "monocyte", "Pro-B")
    assert open_dataset(spec, keep=lambda label: label == "Pro-B").class_counts == {"monocyte": 1, "Pro-B": 1}


def test_the_path_of_a_sheet_is_that_of_its_workbook(tmp_path: Path) -> None:
    assert spec_path(f"csv:{tmp_path}/a.xlsx#Sheet 1") == tmp_path / "a.xlsx"
    assert spec_path(f"csv:{tmp_path}/a.csv#x") == tmp_path / "a.csv#x"
    assert spec_path(f"yolo:{tmp_path}/fields") == tmp_path / "fields", "fields with boxes are inputs too"
