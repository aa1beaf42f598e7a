"""Splits that leak nothing, over random classes, groups and copies; cleaning; weights."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse.csgraph import connected_components

from hemalens.datasets import CellDataset, Record
from hemalens.datasets.base import Source
from hemalens.datasets.splits import (
    LargerClasses,
    balanced_weights,
    capped,
    capped_sizes,
    check_classes,
    clean,
    hold_out,
    k_fold,
    leave_out_small,
    nested_fractions,
    part_of,
    units,
)
from hemalens.errors import DatasetError, ImageError, InputError, SplitError

Row = tuple[str, str | None, int]
"""Class, group or None, and what the image shows: equal numbers are byte-identical images."""


@pytest.fixture(autouse=True)
def _content_by_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a record's content be its file's name, so that no files are needed; tests of `clean` take real ones."""
    if "tmp_path" not in request.fixturenames:
        monkeypatch.setattr(Record, "content_id", lambda self: self.path.stem)


def _dataset(rows: Sequence[Row], *, domain: str = "lab") -> CellDataset:
    records = [
        # the folder's number keeps the records apart, the name is the content
        Record(Path(f"{i}/{content}.png"), label, domain, group=group, label=label)
        for i, (label, group, content) in enumerate(rows)
    ]
    return CellDataset("cells", tuple(records), tuple(sorted({row[0] for row in rows})), "as_labelled", "-", "-")


def _singles(sizes: Sequence[int]) -> CellDataset:
    """Classes of these sizes, each image on its own."""
    labels = [f"class {c}" for c, n in enumerate(sizes) for _ in range(n)]
    return _dataset([(label, None, i) for i, label in enumerate(labels)])


def _components(dataset: CellDataset) -> NDArray[np.int32]:
    """Units by the definition: connected components of "same content or same group of the same domain"."""
    content = np.array([r.path.stem for r in dataset.records])
    group = np.array(
        [f"{r.domain}/{r.group}" if r.group is not None else f"alone {i}" for i, r in enumerate(dataset.records)]
    )
    linked = (content[:, None] == content) | (group[:, None] == group)
    return connected_components(linked, directed=False)[1]


@st.composite
def _rows(draw: st.DrawFn) -> list[Row]:
    """Rows with groups that hold several classes and copies that link groups."""
    n_classes = draw(st.integers(2, 4))
    n = draw(st.integers(2, 50))
    n_groups = draw(st.integers(1, 30))
    n_contents = draw(st.integers(max(1, n // 2), 2 * n))
    groups = st.one_of(st.none(), st.integers(0, n_groups).map(lambda g: f"patient {g}"))
    row = st.tuples(st.integers(0, n_classes - 1).map(lambda c: f"class {c}"), groups, st.integers(0, n_contents))
    return draw(st.lists(row, min_size=n, max_size=n))


@st.composite
def _pure_groups(draw: st.DrawFn) -> list[Row]:
    """Rows whose groups hold one class each, as with patients of one diagnosis."""
    rows: list[Row] = []
    for c in range(draw(st.integers(2, 3))):
        for g, size in enumerate(draw(st.lists(st.integers(1, 6), min_size=4, max_size=12))):
            rows += [(f"class {c}", f"{c}-{g}", len(rows) + i) for i in range(size)]
    return rows


def _check_parts(whole: CellDataset, parts: Sequence[CellDataset]) -> None:
    """The parts hold every record exactly once and no unit stands in two of them; the classes are those of the whole."""
    assert Counter(id(r) for part in parts for r in part.records) == Counter(id(r) for r in whole.records)
    part_of = {id(record): p for p, part in enumerate(parts) for record in part.records}
    sides: dict[int, set[int]] = {}
    for unit, record in zip(_components(whole), whole.records, strict=True):
        sides.setdefault(int(unit), set()).add(part_of[id(record)])
    assert all(len(found) == 1 for found in sides.values())
    assert all(part.classes == whole.classes for part in parts)


# Units


@given(rows=_rows())
def test_units_are_the_connected_components_of_groups_and_copies(rows: list[Row]) -> None:
    dataset = _dataset(rows)
    found, expected = units(dataset), _components(dataset)
    assert found.shape == (len(dataset),)
    # the same partition: pairs of numbers correspond one to one
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))
    assert set(found) == set(range(len(set(found))))


def test_a_group_of_the_same_name_in_two_domains_is_two_groups() -> None:
    here, there = (_dataset([("a", "1", i)], domain=d) for i, d in enumerate(("x", "y")))
    both = dataclasses.replace(here, records=here.records + there.records)
    assert len(set(units(both))) == 2


def test_copies_link_their_groups_in_a_chain() -> None:
    # patient 1 - copy - patient 2 - copy - patient 3
    rows: list[Row] = [("a", "1", 0), ("a", "2", 0), ("a", "2", 1), ("b", "3", 1), ("b", "4", 2)]
    assert list(units(_dataset(rows))) == [0, 0, 0, 0, 1]


# hold_out


@given(rows=_rows(), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 2**32))
def test_hold_out_splits_no_unit_and_keeps_every_class_on_both_sides(rows: list[Row], fraction: float, seed: int) -> None:
    dataset = _dataset(rows)
    try:
        rest, held = hold_out(dataset, fraction, np.random.default_rng(seed))
    except (SplitError, DatasetError):
        return
    _check_parts(dataset, [rest, held])
    assert min(*rest.class_counts.values(), *held.class_counts.values()) >= 1


@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=4),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_hold_out_of_single_images_takes_the_rounded_share_of_every_class(
    sizes: list[int], fraction: float, seed: int
) -> None:
    rest, held = hold_out(_singles(sizes), fraction, np.random.default_rng(seed))
    for n, kept, taken in zip(sizes, rest.class_counts.values(), held.class_counts.values(), strict=True):
        assert kept + taken == n
        assert min(kept, taken) >= 1
        # half-way cases may round either way
        assert abs(taken - n * fraction) <= 0.5 + 1e-9 or taken in (1, n - 1)


def _two_sets(first: Sequence[int], second: Sequence[int]) -> CellDataset:
    """Classes of these sizes in two sets, each image on its own."""
    labels = [(f"class {c}", s) for s, sizes in enumerate((first, second)) for c, n in enumerate(sizes) for _ in range(n)]
    plain = _dataset([(label, None, i) for i, (label, _) in enumerate(labels)])
    records = tuple(dataclasses.replace(r, source=s) for r, (_, s) in zip(plain.records, labels, strict=True))
    sources = (Source("a", "-", "-", False), Source("b", "-", "-", False))
    return dataclasses.replace(plain, records=records, sources=sources)


def test_hold_out_takes_its_share_of_every_set_and_class() -> None:
    # the second set has no class 2, and of class 1 a single image
    dataset = _two_sets([40, 20, 8], [10, 1, 0])
    rest, held = hold_out(dataset, 0.25, np.random.default_rng(0))
    found = Counter((r.source, r.label) for r in held.records)
    assert found == {(0, "class 0"): 10, (0, "class 1"): 5, (0, "class 2"): 2, (1, "class 0"): 2}
    assert len(rest) + len(held) == len(dataset)
    assert [len(part) for part in held.by_source()] == [17, 2]


def test_hold_out_of_a_class_that_each_set_has_once_takes_one_of_them() -> None:
    _, held = hold_out(_two_sets([6, 1], [6, 1]), 0.25, np.random.default_rng(0))
    assert Counter(r.label for r in held.records)["class 1"] == 1


@given(rows=_pure_groups(), fraction=st.floats(0.1, 0.5), seed=st.integers(0, 2**32))
def test_hold_out_of_groups_misses_the_share_by_less_than_one_group(rows: list[Row], fraction: float, seed: int) -> None:
    dataset = _dataset(rows)
    rest, held = hold_out(dataset, fraction, np.random.default_rng(seed))
    _check_parts(dataset, [rest, held])
    for label, n in dataset.class_counts.items():
        largest = max(Counter(group for name, group, _ in rows if name == label).values())
        assert abs(held.class_counts[label] - n * fraction) <= largest


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range_is_a_split_error(fraction: float) -> None:
    with pytest.raises(SplitError, match=rf"held-out fraction is out of range; expected between 0 and 1; got {fraction}"):
        hold_out(_singles([5, 5]), fraction, np.random.default_rng(0))


def test_two_images_of_each_class_part_one_by_one() -> None:
    rest, held = hold_out(_singles([2, 2]), 0.01, np.random.default_rng(0))
    assert list(rest.class_counts.values()) == list(held.class_counts.values()) == [1, 1]


def test_large_share_leaves_a_group_of_every_class_on_either_side() -> None:
    rows: list[Row] = [(c, f"{c}{g}", 100 * i + 10 * g + j) for i, c in enumerate("ab") for g in (0, 1) for j in range(5)]
    rest, held = hold_out(_dataset(rows), 0.9, np.random.default_rng(0))
    assert rest.class_counts == held.class_counts == {"a": 5, "b": 5}


def test_groups_that_leave_no_split_are_a_split_error_that_names_the_class() -> None:
    # one patient holds all of class b but one image, which another patient holds with all of class a but one
    rows: list[Row] = [("a", "1", i) for i in range(9)] + [("b", "1", 10), ("b", "1", 11)]
    with pytest.raises(SplitError, match=r"class '[ab]' of cells is too small for holding a part out") as error:
        hold_out(_dataset(rows), 0.3, np.random.default_rng(0))
    assert "expected at least 2 independent images or groups; got 1" in str(error.value)


def test_split_that_no_whole_group_can_make_says_that_groups_are_too_large() -> None:
    # three patients with two classes each: whichever are held out, a class is missing on one side
    rows: list[Row] = [(c, patient, i) for i, (c, patient) in enumerate(["a1", "b1", "b2", "c2", "a3", "c3"])]
    with pytest.raises(SplitError, match=r"with class '[abc]' on both sides. Its groups are too large"):
        hold_out(_dataset(rows), 0.3, np.random.default_rng(0))


def test_a_group_larger_than_the_wanted_share_is_held_out_where_no_smaller_one_is() -> None:
    rows: list[Row] = [
        (c, patient, i) for i, (c, patient) in enumerate(["a1", "a1", "a2", "a2", "b3", "b3", "b4", "b4", "b4"])
    ]
    rest, held = hold_out(_dataset(rows), 0.1, np.random.default_rng(0))
    assert held.class_counts == {"a": 2, "b": 2}
    assert rest.class_counts == {"a": 2, "b": 3}


# part_of


@given(rows=_rows(), fraction=st.floats(0, 1), seed=st.integers(0, 2**32), labelled=st.booleans())
def test_part_of_takes_whole_units_whatever_their_labels(
    rows: list[Row], fraction: float, seed: int, labelled: bool
) -> None:
    dataset = _dataset(rows)
    if not labelled:
        records = tuple(dataclasses.replace(record, label=None) for record in dataset.records)
        dataset = dataclasses.replace(dataset, records=records, classes=())
    n_units = len(set(_components(dataset)))
    if n_units < 2:
        with pytest.raises(SplitError, match=r"cells cannot be split; expected two independent images or groups; got 1"):
            part_of(dataset, fraction, np.random.default_rng(seed))
        return
    rest, part = part_of(dataset, fraction, np.random.default_rng(seed))
    _check_parts(dataset, [rest, part])
    assert min(len(rest), len(part)) >= 1
    units_of_part = len(set(units(part)))
    assert units_of_part + len(set(units(rest))) == n_units
    assert abs(units_of_part - n_units * fraction) <= 0.5 or units_of_part in (1, n_units - 1)
    again = part_of(dataset, fraction, np.random.default_rng(seed))
    assert [side.records for side in again] == [rest.records, part.records]


def test_part_of_keeps_the_order_and_follows_the_generator() -> None:
    dataset = _singles([30, 10])
    parts = {part_of(dataset, 0.25, np.random.default_rng(seed))[1].records for seed in range(5)}
    assert len(parts) == 5
    for records in parts:
        assert len(records) == 10
        places = [dataset.records.index(record) for record in records]
        assert places == sorted(places)


def test_nothing_can_be_split_from_nothing() -> None:
    with pytest.raises(SplitError, match=r"expected two independent images or groups; got 0"):
        part_of(_dataset([]), 0.5, np.random.default_rng(0))


# nested_fractions


Sizes = list[tuple[int, int]]
"""(images, those of them with a mask) of each class."""

_sizes = st.lists(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=4)
_per_mille = st.lists(st.integers(1, 1000), min_size=1, max_size=5, unique=True)


def _with_masks(sizes: Sizes) -> CellDataset:
    """Classes of these sizes; which of their images have a mask is scattered."""
    dataset = _singles([n for n, _ in sizes])
    rng = np.random.default_rng(0)
    masked = {int(i) for c, (_, m) in enumerate(sizes) for i in rng.permutation(np.flatnonzero(dataset.targets == c))[:m]}
    records = [
        dataclasses.replace(r, mask_path=Path(f"{i}.mask")) if i in masked else r for i, r in enumerate(dataset.records)
    ]
    return dataclasses.replace(dataset, records=tuple(records))


def _sizes_of(part: CellDataset) -> Sizes:
    masks = Counter(record.label for record in part.records if record.mask_path is not None)
    return [(n, masks[label]) for label, n in part.class_counts.items()]


@given(sizes=_sizes, per_mille=_per_mille, seed=st.integers(0, 2**32))
def test_fractions_are_nested_and_of_each_class_the_whole_number_below_its_share(
    sizes: Sizes, per_mille: list[int], seed: int
) -> None:
    dataset = _with_masks(sizes)
    parts = nested_fractions(dataset, [p / 1000 for p in per_mille], np.random.default_rng(seed))
    assert list(parts) == [p / 1000 for p in per_mille]
    for p in per_mille:
        part = parts[p / 1000]
        assert list(part.class_counts.values()) == [max(1, n * p // 1000) for n, _ in sizes]
        assert part.classes == dataset.classes
        places = [dataset.records.index(record) for record in part.records]
        assert places == sorted(set(places))
    by_size = [set(parts[p / 1000].records) for p in sorted(per_mille)]
    assert all(small <= large for small, large in pairwise(by_size))


@given(sizes=_sizes, per_mille=_per_mille, seed=st.integers(0, 2**32))
def test_every_fraction_holds_its_share_of_the_masks_of_each_class_to_within_one(
    sizes: Sizes, per_mille: list[int], seed: int
) -> None:
    parts = nested_fractions(_with_masks(sizes), [1.0, *(p / 1000 for p in per_mille)], np.random.default_rng(seed))
    assert _sizes_of(parts[1.0]) == sizes
    for part in parts.values():
        for (n, masks), (n_all, masks_of_all) in zip(_sizes_of(part), sizes, strict=True):
            assert abs(masks * n_all - n * masks_of_all) <= n_all


@given(sizes=_sizes, per_mille=_per_mille, seed=st.integers(0, 2**32), strict=st.booleans())
def test_a_class_without_an_image_keeps_one_or_is_refused(
    sizes: Sizes, per_mille: list[int], seed: int, strict: bool
) -> None:
    fractions = [p / 1000 for p in per_mille]
    if strict and any(n * p < 1000 for n, _ in sizes for p in per_mille):
        with pytest.raises(SplitError, match=r"of class 'class \d' is no image"):
            nested_fractions(_with_masks(sizes), fractions, np.random.default_rng(seed), strict=True)
        return
    parts = nested_fractions(_with_masks(sizes), fractions, np.random.default_rng(seed), strict=strict)
    assert min(n for part in parts.values() for n in part.class_counts.values()) >= 1


def test_the_published_subsets_of_white_cells_have_their_published_sizes() -> None:
    """Images and masks of basophils, eosinophils, lymphocytes, monocytes and neutrophils in WBC_100, 50, 10 and 1."""
    published = {
        1.0: [(176, 17), (618, 61), (2015, 201), (466, 46), (5172, 517)],
        0.5: [(88, 8), (309, 30), (1007, 100), (233, 23), (2586, 258)],
        0.1: [(17, 1), (61, 6), (201, 20), (46, 4), (517, 51)],
        0.01: [(1, 0), (6, 0), (20, 2), (4, 0), (51, 5)],
    }
    dataset = _with_masks(published[1.0])
    for seed in range(3):
        parts = nested_fractions(dataset, list(published), np.random.default_rng(seed), strict=True)
        assert {fraction: _sizes_of(part) for fraction, part in parts.items()} == published


@pytest.mark.parametrize(("fraction", "n"), [(0.57, 57), (0.29, 29), (0.01, 1), (1, 100), (1e-9, 1), (0.999, 99)])
def test_a_share_is_counted_in_decimals(fraction: float, n: int) -> None:
    """0.57 * 100 is 56.99999999999999 in floating point."""
    part = nested_fractions(_singles([100]), [fraction], np.random.default_rng(0))[fraction]
    assert len(part) == n


@given(sizes=_sizes, per_mille=_per_mille, seed=st.integers(0, 2**32))
def test_a_fraction_is_the_same_whichever_others_are_asked_for(sizes: Sizes, per_mille: list[int], seed: int) -> None:
    dataset = _with_masks(sizes)
    together = nested_fractions(dataset, [p / 1000 for p in per_mille], np.random.default_rng(seed))
    for p in per_mille:
        alone = nested_fractions(dataset, [p / 1000], np.random.default_rng(seed))
        assert alone == {p / 1000: together[p / 1000]}


def test_every_image_with_a_mask_or_without_may_be_drawn() -> None:
    dataset = _with_masks([(12, 4)])
    drawn = [nested_fractions(dataset, [0.25], np.random.default_rng(seed))[0.25].records for seed in range(80)]
    times = Counter(record for records in drawn for record in records)
    assert set(times) == set(dataset.records)
    assert len(set(drawn)) > 40
    # a quarter of each kind, whatever its number
    of_masks = sum(n for record, n in times.items() if record.mask_path is not None)
    assert of_masks / 4 == pytest.approx(80 / 4)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_of_nothing_or_of_more_than_all_is_refused(fraction: float) -> None:
    with pytest.raises(SplitError, match=f"fraction is out of range; expected above 0, at most 1; got {fraction}"):
        nested_fractions(_singles([5, 5]), [0.5, fraction], np.random.default_rng(0))


def test_strict_says_how_many_images_are_needed() -> None:
    with pytest.raises(SplitError, match=r"0\.07 of class 'class 1'.*at least 15 images; got 14.*--strict"):
        nested_fractions(_singles([15, 14]), [1.0, 0.07], np.random.default_rng(0), strict=True)


# k_fold


@given(rows=_rows(), n_folds=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_k_fold_splits_no_unit_and_tests_every_record_exactly_once(rows: list[Row], n_folds: int, seed: int) -> None:
    dataset = _dataset(rows)
    try:
        folds = k_fold(dataset, n_folds, np.random.default_rng(seed))
    except (SplitError, DatasetError):
        return
    assert len(folds) == n_folds
    _check_parts(dataset, [test for _, test in folds])
    for train, test in folds:
        _check_parts(dataset, [train, test])
        assert min(train.class_counts.values()) >= 1


@given(rows=_pure_groups(), n_folds=st.integers(2, 4), seed=st.integers(0, 2**32))
def test_k_fold_of_pure_groups_has_every_class_in_every_fold(rows: list[Row], n_folds: int, seed: int) -> None:
    dataset = _dataset(rows)
    for train, test in k_fold(dataset, n_folds, np.random.default_rng(seed)):
        assert min(*train.class_counts.values(), *test.class_counts.values()) >= 1


@given(sizes=st.lists(st.integers(5, 40), min_size=2, max_size=4), n_folds=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_k_fold_of_single_images_shares_every_class_evenly(sizes: list[int], n_folds: int, seed: int) -> None:
    folds = k_fold(_singles(sizes), n_folds, np.random.default_rng(seed))
    for c, n in enumerate(sizes):
        tested = [test.class_counts[f"class {c}"] for _, test in folds]
        assert sum(tested) == n
        assert max(tested) - min(tested) <= 1


def test_k_fold_needs_two_folds_and_as_many_units_as_folds() -> None:
    with pytest.raises(SplitError, match="too few folds; expected at least 2; got 1"):
        k_fold(_singles([5, 5]), 1, np.random.default_rng(0))
    with pytest.raises(SplitError, match=r"class 'class 1' of cells is too small for 5 folds.*got 4. .*--min-per-class 5"):
        k_fold(_singles([9, 4, 9]), 5, np.random.default_rng(0))
    with pytest.raises(SplitError, match=r"got 4. Add images; where they have groups, from further groups"):
        k_fold(_singles([9, 4]), 5, np.random.default_rng(0))


# Randomness


@given(rows=_rows(), seed=st.integers(0, 2**32))
def test_the_generator_s_state_alone_decides_the_split(rows: list[Row], seed: int) -> None:
    dataset = _dataset(rows)
    try:
        first = hold_out(dataset, 0.3, np.random.default_rng(seed))
    except InputError:
        assume(False)
    assert hold_out(dataset, 0.3, np.random.default_rng(seed)) == first


def test_other_seeds_give_other_splits() -> None:
    dataset = _singles([20, 20])
    for split in (lambda g: hold_out(dataset, 0.5, g)[1], lambda g: k_fold(dataset, 4, g)[0][1]):
        assert len({split(np.random.default_rng(seed)).records for seed in range(5)}) == 5


# check_classes, leave_out_small, balanced_weights


def test_one_class_or_none_is_a_dataset_error() -> None:
    with pytest.raises(
        DatasetError,
        match=r"at least two classes; got class 0 \(5\)",
    ):
        check_classes(_singles([5]))
    with pytest.raises(DatasetError, match="got none"):
        check_classes(_dataset([]))


def test_the_minimum_in_the_error_leaves_a_class_of_few_groups_out() -> None:
    rows: list[Row] = [(name, None if name != "a" else "g", i) for i, name in enumerate("aaaabbbbbbcccccc")]
    dataset = _dataset(rows)
    with pytest.raises(SplitError, match=r"class 'a' .* got 1. .*--min-per-class 5; in a study with --set min_per_class=5"):
        check_classes(dataset)
    kept, small = leave_out_small(dataset, 5)
    assert small == {"a": 4}
    check_classes(kept)


def test_copies_and_groups_count_once_as_units() -> None:
    rows: list[Row] = [("a", None, 0), ("a", None, 0), ("a", None, 0), ("b", None, 1), ("b", None, 2)]
    with pytest.raises(SplitError, match=r"class 'a' of cells is too small for training; .* got 1. Add images; where"):
        check_classes(_dataset(rows))
    check_classes(_dataset([*rows, ("a", "one patient", 5), ("a", "one patient", 6)]), n_units=2)
    with pytest.raises(SplitError, match=r"at least 3 independent images or groups; got 2"):
        check_classes(_dataset([*rows, ("a", "one patient", 5), ("a", "one patient", 6)]), n_units=3)


def test_class_of_the_label_order_without_images_is_too_small() -> None:
    with pytest.raises(SplitError, match=r"class 'class 1' .* got 0"):
        check_classes(_singles([5, 5]).subset(range(5)))


def test_leave_out_small_names_what_it_leaves_out() -> None:
    dataset = _singles([5, 2, 3])
    kept, small = leave_out_small(dataset, 3)
    assert kept.class_counts == {"class 0": 5, "class 2": 3}
    assert small == {"class 1": 2}
    assert leave_out_small(dataset, 2) == (dataset, {})


@given(targets=st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_balanced_weights_give_every_class_the_same_sum(targets: list[int]) -> None:
    weights = balanced_weights(np.array(targets))
    assert weights.shape == (len(targets),)
    present = sorted(set(targets))
    sums = [weights[np.array(targets) == c].sum() for c in present]
    np.testing.assert_allclose(sums, 1 / len(present))
    for c in present:
        assert np.ptp(weights[np.array(targets) == c]) == 0


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("xyz")), min_size=1, max_size=60),
    alpha=st.floats(0, 1),
    shares=st.lists(st.floats(0.1, 2), min_size=4, max_size=4),
)
def test_classes_are_drawn_by_their_shares_and_laboratories_by_a_power_of_their_size(
    rows: list[tuple[int, str]], alpha: float, shares: list[float]
) -> None:
    targets, domains = np.array([row[0] for row in rows]), [row[1] for row in rows]
    weights = balanced_weights(targets, shares=np.array(shares), domains=domains, alpha=alpha)
    present = sorted(set(targets.tolist()))
    counts = Counter(rows)
    for (label, domain), n in counts.items():
        power = n**alpha / sum(m**alpha for (other, _), m in counts.items() if other == label)
        expected = shares[label] / sum(shares[c] for c in present) * power / n
        own = [w for w, row in zip(weights, rows, strict=True) if row == (label, domain)]
        np.testing.assert_allclose(own, expected)
    plain = balanced_weights(targets)
    np.testing.assert_allclose(balanced_weights(targets, domains=domains, alpha=1.0), plain)


def test_a_whole_image_and_what_is_cut_out_of_it_are_one_unit(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        path.write_text(path.name)
    shutil.copy(paths[0], tmp_path / "copy.png")
    records = (
        Record(tmp_path / "copy.png", "a", "lab", label="a"),
        Record(paths[0], "b", "other", group="f", box=(0, 0, 9, 9), label="b"),
        Record(paths[0], "b", "other", group="f", box=(5, 5, 9, 9), label="b"),
        # of one image that is not here as a whole: apart without a group
        Record(paths[1], "b", "other", box=(0, 0, 9, 9), label="b"),
        Record(paths[1], "b", "other", box=(5, 5, 9, 9), label="b"),
        Record(paths[2], "a", "lab", label="a"),
    )
    unit = units(CellDataset("cells", records, ("a", "b"), "as_labelled", "-", "-"))
    assert len({*unit[:3]}) == 1
    assert len({*unit[2:]}) == 4


# clean: real files


@pytest.fixture
def files(tmp_path: Path) -> CellDataset:
    """Six images of two classes: a copy, a conflict, and one record outside the label map."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    plan = [
        ("0", "a", 0),
        ("1", "a", 1),
        ("1 copy", "a", 1),
        ("2", "a", 2),
        ("2 again", "b", 2),
        ("3", "b", 3),
        ("4", "b", 4),
    ]
    for name, _, picture in plan:
        Image.fromarray(pixels[picture]).save(tmp_path / f"{name}.png")
    records = [Record(tmp_path / f"{name}.png", label, "lab", label=label) for name, label, _ in plan]
    outside = Record(tmp_path / "5.png", "c", "lab", excluded="no class")
    Image.fromarray(pixels[5]).save(outside.path)
    return CellDataset("cells", (*records, outside), ("a", "b"), "five_class", "-", "-")


def _names(records: Sequence[Record]) -> list[str]:
    return [record.path.stem for record in records]


def test_clean_takes_out_conflicts_and_spare_copies_and_keeps_the_order(files: CellDataset) -> None:
    cleaned, cleaning = clean(files)
    assert _names(cleaned.records) == ["0", "1", "3", "4"]
    assert _names(cleaning.copies) == ["1 copy"]
    assert _names(cleaning.conflicting) == ["2", "2 again"]
    assert cleaning.unreadable == ()
    assert cleaning.outside == {"no class": 1}
    assert cleaning.counts() == {"conflicting": 2, "copies": 1, "unreadable": 0}
    assert str(cleaning) == "dropped 2 image(s) under two labels, 1 duplicate, 0 unreadable"


def test_cleaning_twice_changes_nothing(files: CellDataset) -> None:
    once, _ = clean(files)
    twice, cleaning = clean(once)
    assert twice.records == once.records
    assert sum(cleaning.counts().values()) == 0


def test_label_outside_the_map_makes_a_conflict_too(files: CellDataset) -> None:
    inside = files.records[0]
    outside = dataclasses.replace(inside, source_label="c", label=None, excluded="no class")
    cleaned, cleaning = clean(dataclasses.replace(files, records=(*files.records, outside)))
    assert _names(cleaning.conflicting) == ["0", "2", "2 again"]
    assert "0" not in _names(cleaned.records)


def test_two_source_labels_of_one_class_are_a_conflict_of_the_source(files: CellDataset) -> None:
    """Band and segmented neutrophil are one class of five, and an image under both names is still wrongly labelled."""
    other = dataclasses.replace(files.records[0], source_label="a, another word")
    _, cleaning = clean(dataclasses.replace(files, records=(*files.records, other)))
    assert "0" in _names(cleaning.conflicting)


def test_boxes_of_one_field_are_no_copies(files: CellDataset) -> None:
    boxes = [dataclasses.replace(files.records[0], box=(0, 0, 8 + i, 8)) for i in (0, 1, 1)]
    cleaned, cleaning = clean(dataclasses.replace(files, records=tuple(boxes)))
    assert len(cleaned) == 2
    assert len(cleaning.copies) == 1


@pytest.fixture
def damaged(files: CellDataset) -> CellDataset:
    """The same with an empty file, and one whose header is whole and whose pixels are not."""
    files.records[0].path.write_bytes(b"")
    half = files.records[5].path
    half.write_bytes(half.read_bytes()[:-200])
    return files


def test_unreadable_images_are_refused_with_their_number_and_the_way_out(damaged: CellDataset) -> None:
    with pytest.raises(ImageError, match=r"1 of 7 images cannot be read, first: image '.*0.png' is empty") as error:
        clean(damaged)
    assert "--drop-unreadable" in str(error.value)


def test_unreadable_images_are_dropped_and_counted_down_to_the_last_pixel(damaged: CellDataset) -> None:
    cleaned, cleaning = clean(damaged, unreadable="drop")
    assert _names(cleaning.unreadable) == ["0", "3"]
    assert _names(cleaned.records) == ["1", "4"]


def test_unreadable_images_are_kept_on_request_even_where_the_file_is_gone(damaged: CellDataset) -> None:
    damaged.records[6].path.unlink()
    cleaned, cleaning = clean(damaged, unreadable="keep")
    assert cleaning.unreadable == ()
    assert _names(cleaned.records) == ["0", "1", "3", "4"]
    assert len(cleaned.fingerprint) == 64


def test_all_dropped_leaves_an_empty_dataset_that_no_split_accepts(damaged: CellDataset) -> None:
    for record in damaged.records:
        record.path.write_bytes(b"")
    cleaned, cleaning = clean(damaged, unreadable="drop")
    assert len(cleaned) == 0
    assert len(cleaning.unreadable) == 7
    with pytest.raises(InputError):
        hold_out(cleaned, 0.2, np.random.default_rng(0))


# capped


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), share=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_capped_takes_small_classes_whole_and_the_same_number_of_the_others(
    sizes: list[int], share: float, seed: int
) -> None:
    rows = [(f"class {i}", None, 1000 * i + j) for i, n in enumerate(sizes) for j in range(n)]
    whole = _dataset(rows)
    total = max(1, int(sum(sizes) * share))
    found = capped(whole, total, np.random.default_rng(seed))
    counts = [found.class_counts[c] for c in found.classes]
    assert sum(counts) == total
    largest = max(counts)
    for n, taken in zip(sizes, counts, strict=True):
        assert taken == n if n < largest else taken in (largest - 1, largest)
    assert set(found.contents) <= set(whole.contents)


MATEK_IN_EIGHT = (3268, 70, 42, 15, 109, 8484, 1789, 4588)
"""Matek-19 under the label map fab_eight: the counts of its paper, 18,365 images in all."""


@pytest.mark.parametrize(
    ("larger", "wanted"),
    [
        ("equal", (1450, 70, 42, 15, 109, 1449, 1449, 1449)),
        ("proportional", (1045, 70, 42, 15, 109, 2713, 572, 1467)),
    ],
)
def test_6033_images_of_matek_19(larger: LargerClasses, wanted: tuple[int, ...]) -> None:
    assert sum(MATEK_IN_EIGHT) == 18365
    found = capped_sizes(np.array(MATEK_IN_EIGHT), 6033, larger=larger)
    assert tuple(found) == wanted
    assert sum(wanted) == 6033


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5), share=st.floats(0.02, 1))
def test_larger_classes_in_proportion_lose_the_same_share(sizes: list[int], share: float) -> None:
    whole, total = np.array(sizes), max(1, int(sum(sizes) * share))
    cap = int(capped_sizes(whole, total, larger="equal").max())
    assume(cap not in sizes)
    found = capped_sizes(whole, total, larger="proportional")
    assert found.sum() == total
    small = whole < cap
    assert (found[small] == whole[small]).all()
    # whole images: off by less than one
    kept = (total - whole[small].sum()) / whole[~small].sum()
    assert (abs(found[~small] - kept * whole[~small]) < 1).all()


def test_capped_draws_in_proportion() -> None:
    whole = _dataset([(f"class {i}", None, 1000 * i + j) for i, n in enumerate((3, 20, 40)) for j in range(n)])
    found = capped(whole, 33, np.random.default_rng(0), larger="proportional")
    assert list(found.class_counts.values()) == [3, 10, 20]
    assert set(found.contents) <= set(whole.contents)


def test_capped_refuses_more_images_than_there_are() -> None:
    with pytest.raises(SplitError, match="too few images"):
        capped(_dataset([("a", None, 0), ("b", None, 1)]), 3, np.random.default_rng(0))
