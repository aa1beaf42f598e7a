"""Which fields a detector learns from: laboratories left out with all their copies, given parts, groups."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import drawn_fields
from hemalens.datasets.fields.base import FieldDataset
from hemalens.datasets.splits import Unreadable
from hemalens.errors import DatasetError, ImageError, InputError, SplitError
from hemalens.imaging.boxes import WHITE
from hemalens.runs.field_parts import COPY, LEFT_OUT, FieldParts, split_fields


def _split(
    *given: FieldDataset,
    leave_out: tuple[str, ...] = (),
    test_fraction: float = 0.0,
    seed: int = 0,
    unreadable: Unreadable = "refuse",
) -> FieldParts:
    return split_fields(given, leave_out=leave_out, test_fraction=test_fraction, seed=seed, unreadable=unreadable)


def _names(datasets: tuple[FieldDataset, ...]) -> list[str]:
    return [field.record.path.name for dataset in datasets for field in dataset.fields]


def _of(*fields: object, name: str = "set") -> FieldDataset:
    return FieldDataset(name, tuple(fields), "CC0", "nobody")  # type: ignore[arg-type]


@pytest.fixture
def two(tmp_path: Path) -> FieldDataset:
    """Five fields of laboratory a and three of b."""
    one = drawn_fields.fields(tmp_path / "a", 5, domain="a").fields
    return _of(*one, *drawn_fields.fields(tmp_path / "b", 3, first=10, domain="b").fields)


def test_a_laboratory_left_out_is_in_neither_part(two: FieldDataset) -> None:
    parts = _split(two, leave_out=("b",), test_fraction=0.4)
    assert {field.record.domain for part in (*parts.learn, *parts.test) for field in part.fields} == {"a"}
    assert (len(parts.learn[0]), len(parts.test[0])) == (3, 2)
    assert parts.left_out == {"b": 3}
    assert parts.dropped == ({LEFT_OUT: 3},)
    assert parts.notes == ("b: laboratory left out of training, 3 field(s)",)


def test_copies_of_what_is_left_out_are_left_out_under_any_name(two: FieldDataset, tmp_path: Path) -> None:
    shutil.copy(two.fields[5].record.path, tmp_path / "copy.png")
    copy = replace(two.fields[5], record=replace(two.fields[5].record, path=tmp_path / "copy.png", domain="elsewhere"))
    more = _of(copy, *drawn_fields.fields(tmp_path / "c", 2, first=20, domain="c").fields, name="more")
    parts = _split(two, more, leave_out=("b",))
    assert "copy.png" not in _names(parts.learn)
    assert [len(dataset) for dataset in parts.learn] == [5, 2]
    assert parts.dropped == ({LEFT_OUT: 3}, {LEFT_OUT: 1})


def test_of_copies_the_first_is_learned(two: FieldDataset) -> None:
    again = replace(two, name="again")
    parts = _split(two, again)
    assert [len(dataset) for dataset in parts.learn] == [8, 0]
    assert parts.dropped == ({}, {COPY: 8})
    assert "again: left out 8 field(s), copy of another field" in parts.notes


def test_the_test_part_is_drawn_by_groups(tmp_path: Path) -> None:
    plain = drawn_fields.fields(tmp_path, 12).fields
    grouped = _of(*(replace(f, record=replace(f.record, group=f"slide {i // 3}")) for i, f in enumerate(plain)))
    parts = _split(grouped, test_fraction=0.25)
    learned, tested = ({f.record.group for f in dataset.fields} for dataset in (parts.learn[0], parts.test[0]))
    assert not learned & tested
    assert (len(learned), len(tested)) == (3, 1)
    assert parts.protocol == "one split: 25% of the fields held out for the test, 3 field(s)"
    assert _names(_split(grouped, test_fraction=0.25).test) == _names(parts.test)
    others = {tuple(_names(_split(grouped, test_fraction=0.25, seed=seed).test)) for seed in range(8)}
    assert len(others) > 1


def test_a_given_test_part_is_taken(tmp_path: Path) -> None:
    given = _of(*(drawn_fields.field(tmp_path, i, part="test" if i < 2 else "train") for i in range(6)))
    parts = _split(given, test_fraction=0.5)
    assert sorted(_names(parts.test)) == ["field_0.png", "field_1.png"]
    assert len(parts.learn[0]) == 4
    assert parts.protocol == "one split: the given test part, 2 field(s)"
    none = _split(given, test_fraction=0.0)
    assert not none.test
    assert len(none.learn[0]) == 4
    # a second set without parts has its share drawn
    both = _split(given, drawn_fields.fields(tmp_path / "more", 4, first=30), test_fraction=0.5)
    assert [len(dataset) for dataset in both.test] == [2, 2]


def test_a_set_of_one_part_is_split(tmp_path: Path) -> None:
    given = _of(*(drawn_fields.field(tmp_path, i, part="test") for i in range(4)))
    assert len(_split(given, test_fraction=0.5).test[0]) == 2


def test_masks_change_the_request_and_not_the_fields(tmp_path: Path) -> None:
    masked = _of(drawn_fields.field(tmp_path, 0, mask=True), drawn_fields.field(tmp_path, 1, mask=True))
    before = _split(masked).masks
    path = masked.fields[0].record.mask_path
    assert path is not None
    shutil.copy(masked.fields[1].record.mask_path or path, path)
    assert _split(masked).masks != before


def test_unreadable_fields_are_dropped_if_asked_for(two: FieldDataset) -> None:
    path = two.fields[0].record.path
    path.write_bytes(path.read_bytes()[:100])
    parts = _split(two, unreadable="drop")
    assert parts.dropped == ({"unreadable": 1},)
    assert len(parts.learn[0]) == 7
    assert len(_split(two).learn[0]) == 8
    with pytest.raises(ImageError, match=rf"{path.name}.*--drop-unreadable"):
        # in the test part it is found before the training, in the training part while it is read for it
        _split(two.subset([*range(1, 8), 0]), test_fraction=0.9)


def test_what_cannot_be_learned_is_refused(two: FieldDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"leave_out names the laboratory 'bb', .* expected some of 'a', 'b'"):
        _split(two, leave_out=("bb",))
    with pytest.raises(InputError, match=r"leave_out names every laboratory of the training data; .* got 'a', 'b'"):
        _split(two, leave_out=("a", "b"))
    with pytest.raises(DatasetError, match="the training data have no field"):
        _split(_of())
    with pytest.raises(SplitError, match="cannot be split"):
        _split(two.subset([0]), test_fraction=0.5)
    none = _of(*(replace(f, boxes=f.boxes[f.boxes.kinds != WHITE]) for f in two.fields))
    with pytest.raises(DatasetError, match=r"has a box of a white cell; .* got 8 field\(s\) without one"):
        _split(none)
    for field in two.fields:
        field.record.path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="is left to learn from; expected one field or more; got unreadable"):
        _split(two, unreadable="drop")
