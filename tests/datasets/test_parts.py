"""Parts that a set is given in: names of folders, and what is held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemalens.datasets import CellDataset, Record, together
from hemalens.datasets.parts import describe_parts, given_part, hold_out_part, n_drawn, part_named, shared_groups, without
from hemalens.datasets.splits import hold_out
from hemalens.taxonomy import AS_LABELLED


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, "train") for name in ("train", "TRAIN", "Training", "train_set", "train1")),
        *((name, "validation") for name in ("val", "Valid", "VALIDATION", "val-set")),
        *((name, "test") for name in ("test", "Testing", "TestA", "Test-B", "TEST_SIMPLE", "holdout", "hold_out")),
        *(
            (name, None)
            for name in ("trainee", "tested", "contest", "value", "test blast", "", "neutrophil", "training cells")
        ),
    ],
)
def test_names_of_parts(name: str, part: str | None) -> None:
    assert part_named(name) == part


def _cells(folder: Path, name: str, parts: str) -> CellDataset:
    """One image of each of two classes for each letter of `parts`: t(rain), v(alidation), T(est), - for none."""
    meaning = {"t": "train", "v": "validation", "T": "test", "-": None}
    records = []
    for i, letter in enumerate(parts):
        for label in ("a", "b"):
            path = folder / f"{name} {i} {label}.png"
            path.write_text(path.name)
            records.append(Record(path, label, name, label=label, part=meaning[letter]))
    return CellDataset(name, tuple(records), ("a", "b"), AS_LABELLED, "l", "c")


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_given_part_is_held_out_and_nothing_is_drawn(tmp_path: Path) -> None:
    dataset = _cells(tmp_path, "one", "ttvT")
    rest, test = hold_out_part(dataset, "test", 0.5, _rng())
    assert [record.part for record in test.records] == ["test"] * 2
    assert rest.records == dataset.records[:6]
    assert n_drawn(dataset, "test") == 0
    assert describe_parts(dataset.records) == ["parts as given: train 4, validation 2, test 2"]


def test_without_a_given_part_one_is_drawn_as_ever(tmp_path: Path) -> None:
    dataset = _cells(tmp_path, "one", "------")
    assert [p.records for p in hold_out_part(dataset, "test", 0.3, _rng())] == [
        p.records for p in hold_out(dataset, 0.3, _rng())
    ]
    assert n_drawn(dataset, "test") == 12
    assert describe_parts(dataset.records) == []


@pytest.mark.parametrize("parts", ["TTTT", "tttt"])
def test_a_set_of_one_part_alone_counts_as_a_set_without_parts(tmp_path: Path, parts: str) -> None:
    dataset = _cells(tmp_path, "one", parts)
    assert given_part(dataset, "test") == set()
    assert len(hold_out_part(dataset, "test", 0.25, _rng())[1]) == 2


def test_of_several_sets_each_is_held_out_as_it_is_given(tmp_path: Path) -> None:
    dataset = together([_cells(tmp_path, "one", "tttT"), _cells(tmp_path, "two", "----")])
    rest, test = hold_out_part(dataset, "test", 0.5, _rng())
    assert [(r.domain, r.part) for r in test.records] == [("one", "test")] * 2 + [("two", None)] * 4
    assert len(rest) == 16 - 6
    assert not {r.path for r in rest.records} & {r.path for r in test.records}
    assert n_drawn(dataset, "test") == 8


def test_groups_in_two_parts_are_counted_once_each(tmp_path: Path) -> None:
    dataset = _cells(tmp_path, "one", "tT")
    grouped = replace(
        dataset, records=tuple(replace(r, group=group) for r, group in zip(dataset.records, "xyxz", strict=True))
    )
    rest, test = hold_out_part(grouped, "test", 0.5, _rng())
    assert shared_groups(rest, test) == 1
    assert shared_groups(*hold_out_part(dataset, "test", 0.5, _rng())) == 0


def test_nothing_taken_away_is_the_same_dataset(tmp_path: Path) -> None:
    dataset = _cells(tmp_path, "one", "t")
    assert without(dataset, set()) is dataset
    assert without(dataset, {0}).records == dataset.records[1:]


def test_what_is_cut_out_of_a_given_image_lies_on_its_side(tmp_path: Path) -> None:
    whole = _cells(tmp_path, "one", "tttT")
    cut = [Record(record.path, "b", "two", group=record.path.stem, box=(0, 0, 9, 9), label="b") for record in whole.records]
    more = _cells(tmp_path, "two", "--").records
    dataset = together([whole, CellDataset("two", (*cut, *more), ("a", "b"), AS_LABELLED, "l", "c")])
    rest, test = hold_out_part(dataset, "test", 0.25, _rng())
    sides = [{record.path for record in side.records if record.source == 1 and record.box} for side in (rest, test)]
    assert sides == [{r.path for r in whole.records if r.part == part} for part in ("train", "test")]
    assert len(rest) + len(test) == len(dataset)
