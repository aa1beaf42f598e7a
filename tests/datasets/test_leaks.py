"""Leaks: test images that a model was trained on are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fakes import cut_outs, folder
from hemalens.datasets import CellDataset, open_dataset
from hemalens.datasets.leaks import refuse_leaks, seen_among, traces
from hemalens.errors import SplitError


def test_a_copy_of_a_training_image_is_refused_under_any_name(tmp_path: Path) -> None:
    train = open_dataset(folder.write(tmp_path / "train", n_per_class=2, seed=0))
    test_name = folder.write(tmp_path / "test", n_per_class=2, seed=1)
    refuse_leaks(train.contents, open_dataset(test_name))
    shutil.copy(train.records[0].path, tmp_path / "test" / "monocyte" / "another name.png")
    with pytest.raises(SplitError, match=r"1 image\(s\) of test .*another name.png'"):
        refuse_leaks(train.contents, open_dataset(test_name))


def _field_and_its_cut_outs(tmp_path: Path) -> tuple[CellDataset, CellDataset]:
    """A folder of cells of which one is a copy of a field, and the cut-outs of three fields."""
    cuts = open_dataset(cut_outs.write(tmp_path / "fields", n_per_class=3), labels="smear")
    name = folder.write(tmp_path / "cells", n_per_class=2)
    shutil.copy(cuts.records[0].path, tmp_path / "cells" / "monocyte" / "a field.png")
    return open_dataset(name, labels="smear"), cuts


def test_a_whole_image_is_refused_where_a_part_of_it_was_trained_on(tmp_path: Path) -> None:
    cells, cuts = _field_and_its_cut_outs(tmp_path)
    with pytest.raises(SplitError, match=r"1 image\(s\) of cells were trained on.*a field.png"):
        refuse_leaks(traces(cuts), cells)
    seen = seen_among(cells, traces(cuts))
    assert [record.path.name for record, is_seen in zip(cells.records, seen, strict=True) if is_seen] == ["a field.png"]


def test_the_parts_of_a_trained_image_are_refused_and_those_of_others_are_not(tmp_path: Path) -> None:
    cells, cuts = _field_and_its_cut_outs(tmp_path)
    seen = seen_among(cuts, traces(cells))
    assert seen.tolist() == [record.path == cuts.records[0].path for record in cuts.records]
    assert 0 < seen.sum() < len(cuts)


def test_another_part_of_the_same_image_is_another_image(tmp_path: Path) -> None:
    cuts = open_dataset(cut_outs.write(tmp_path, n_per_class=2), labels="smear")
    one, other = cuts.subset([0]), cuts.subset([1])
    assert cuts.records[0].path == cuts.records[1].path
    refuse_leaks(traces(one), other)
    with pytest.raises(SplitError, match="trained on"):
        refuse_leaks(traces(one), one)
