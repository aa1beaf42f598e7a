"""Episodes: what is memorised is never tested, every model sees the same drawings, and what cannot be is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.datasets import CellDataset, Record
from hemalens.datasets.episodes import Episode, draw_episodes, draw_labelled, refuse_overlap, shared_groups
from hemalens.errors import SplitError

Row = tuple[str, str | None, int]
"""Class, group or None, and what the image shows: equal numbers are byte-identical images."""


@pytest.fixture(autouse=True)
def _content_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a record's content be its file's name, so that no files are needed."""
    monkeypatch.setattr(Record, "content_id", lambda self: self.path.stem)


def _dataset(rows: Sequence[Row], *, domain: str = "lab", name: str = "cells") -> CellDataset:
    records = [
        Record(Path(f"{name} {i}/{content}.png"), label, domain, group=group, label=label)
        for i, (label, group, content) in enumerate(rows)
    ]
    return CellDataset(name, tuple(records), tuple(sorted({row[0] for row in rows})), "as_labelled", "-", "-")


def _singles(*sizes: int, first: int = 0, name: str = "cells") -> CellDataset:
    """Classes of these sizes, each image on its own."""
    labels = [f"class {c}" for c, n in enumerate(sizes) for _ in range(n)]
    return _dataset([(label, None, first + i) for i, label in enumerate(labels)], name=name)


def _draw(target: CellDataset, pool: CellDataset | None = None, **changes: Any) -> list[Episode]:
    asked = {"k_shot": 2, "n_repeats": 3, "seed": 0, "replacement": False, **changes}
    return draw_episodes(target, pool, **asked)


def _same(a: list[Episode], b: list[Episode]) -> bool:
    return all(np.array_equal(x.support, y.support) and np.array_equal(x.query, y.query) for x, y in zip(a, b, strict=True))


@st.composite
def _rows(draw: st.DrawFn) -> list[Row]:
    """Rows with groups that hold several classes and copies that link groups."""
    n = draw(st.integers(6, 40))
    groups = st.one_of(st.none(), st.integers(0, draw(st.integers(1, 30))).map(lambda g: f"patient {g}"))
    row = st.tuples(
        st.integers(0, draw(st.integers(1, 3))).map(lambda c: f"class {c}"),
        groups,
        st.integers(0, draw(st.integers(n, 3 * n))),
    )
    return draw(st.lists(row, min_size=n, max_size=n))


# ---------------------------------------------------------------------------------------------------------- no leaks


@given(rows=_rows(), k=st.integers(1, 3), replacement=st.booleans(), seed=st.integers(0, 2**32))
def test_support_and_query_share_no_image_no_copy_and_no_group(
    rows: list[Row], k: int, replacement: bool, seed: int
) -> None:
    target = _dataset(rows)
    try:
        episodes = _draw(target, k_shot=k, replacement=replacement, seed=seed)
    except SplitError:
        return
    for episode in episodes:
        memorised = {int(i) for i in episode.support}
        tested = {int(i) for i in np.flatnonzero(episode.query)}
        assert not memorised & tested
        for what in (lambda r: r.path.stem, lambda r: r.group or r.path):
            assert not {what(target.records[i]) for i in memorised} & {what(target.records[i]) for i in tested}
        assert {target.records[i].label for i in tested} == set(target.classes)


@given(rows=_rows(), k=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_only_what_belongs_to_the_support_is_not_tested(rows: list[Row], k: int, seed: int) -> None:
    """An image that shares neither content nor group with anything that does is always tested."""
    target = _dataset(rows)
    try:
        episodes = _draw(target, k_shot=k, seed=seed)
    except SplitError:
        return
    contents = Counter(content for _, _, content in rows)
    for episode in episodes:
        memorised = {int(i) for i in episode.support}
        for i, (_, group, content) in enumerate(rows):
            if i not in memorised and group is None and contents[content] == 1:
                assert episode.query[i]


def test_a_copy_in_another_group_takes_that_group_out_of_the_test() -> None:
    rows: list[Row] = [("a", "p1", 0), ("a", "p2", 0), ("a", "p2", 1), ("a", None, 2), ("b", None, 3), ("b", None, 4)]
    for episode in _draw(_dataset(rows), k_shot=1, n_repeats=20):
        linked = {0, 1, 2}
        if int(episode.support[0]) in linked:
            assert not episode.query[[0, 1, 2]].any()
            assert episode.query[3]
        else:
            assert episode.query[[0, 1, 2]].all()


def test_a_group_of_the_same_name_in_another_domain_is_tested() -> None:
    rows: list[Row] = [("a", "1", 0), ("b", "2", 1)]
    here, there = (_dataset([(c, g, 10 * d + n) for c, g, n in rows], domain=f"lab {d}") for d in range(2))
    both = dataclasses.replace(here, records=here.records + there.records)
    for episode in _draw(both, k_shot=1):
        assert episode.query.sum() == 2


# ---------------------------------------------------------------------------------------------------------- drawings


@given(
    sizes=st.lists(st.integers(4, 12), min_size=2, max_size=4),
    k=st.integers(1, 3),
    replacement=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_support_holds_k_of_each_class_class_by_class(sizes: list[int], k: int, replacement: bool, seed: int) -> None:
    target = _singles(*sizes)
    for pool in (None, _singles(*sizes, first=1000, name="pool")):
        episodes = _draw(target, pool, k_shot=k, replacement=replacement, seed=seed)
        assert len(episodes) == 3
        for episode in episodes:
            source = pool or target
            assert source.targets[episode.support].tolist() == [c for c in range(len(sizes)) for _ in range(k)]
            assert episode.query.shape == (len(target),)
            assert episode.query.sum() == len(target) - (0 if pool else len(set(episode.support.tolist())))


def test_without_replacement_no_image_comes_twice_and_with_it_some_do() -> None:
    target = _singles(6, 6)
    distinct = [len(set(e.support.tolist())) for e in _draw(target, k_shot=4, n_repeats=30)]
    assert set(distinct) == {8}
    again = [len(set(e.support.tolist())) for e in _draw(target, k_shot=4, n_repeats=30, replacement=True)]
    # four of six drawn with replacement are all different in 28 % of the drawings, in both classes in 8 %
    assert np.mean(np.array(again) == 8) < 0.4
    assert min(again) >= 2


def test_every_image_is_drawn_about_as_often_as_any_other() -> None:
    target = _singles(5, 10)
    n = 600
    drawn = Counter(int(i) for e in _draw(target, k_shot=1, n_repeats=n) for i in e.support)
    for members, share in ((range(5), n / 5), (range(5, 15), n / 10)):
        # within four standard deviations
        assert all(abs(drawn[i] - share) < 4 * np.sqrt(share) for i in members)


def test_a_drawing_depends_on_the_seed_its_k_and_its_number_alone() -> None:
    target = _singles(8, 9)
    five = _draw(target, n_repeats=5)
    assert _same(five[:2], _draw(target, n_repeats=2)), "more repeats change none"
    _draw(target, k_shot=3)
    assert _same(five, _draw(target, n_repeats=5)), "nothing is remembered"
    assert len({tuple(e.support.tolist()) for e in five}) > 1
    assert not _same(five, _draw(target, n_repeats=5, seed=1))
    three = _draw(target, k_shot=3, n_repeats=5)
    assert any(set(a.support.tolist()) - set(b.support.tolist()) for a, b in zip(five, three, strict=True))


def test_where_the_images_lie_and_what_they_show_change_no_drawing() -> None:
    here, there = _singles(8, 9), _singles(8, 9, first=500, name="elsewhere")
    assert _same(_draw(here), _draw(there))


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("replacement", [False, True])
def test_k_larger_than_a_class_allows_is_refused_with_the_class_named(replacement: bool) -> None:
    target, pool = _singles(9, 4), _singles(9, 4, first=100, name="pool")
    assert len(_draw(target, k_shot=3, replacement=replacement)) == 3
    with pytest.raises(
        SplitError,
        match=r"k = 4 .*'class 1' of cells allows; expected at least 5 images, one of them to test; got 4\. .*per-class 5",
    ):
        _draw(target, k_shot=4, replacement=replacement)
    # all of a pool may be memorised
    assert len(_draw(target, pool, k_shot=4, replacement=replacement)) == 3
    with pytest.raises(SplitError, match=r"k = 5 .*'class 1' of pool allows; expected at least 5 images; got 4\. "):
        _draw(target, pool, k_shot=5, replacement=replacement)


def test_a_class_with_nothing_left_to_test_is_refused_with_the_class_named() -> None:
    # all of class b come from one patient
    rows: list[Row] = [("a", None, 0), ("a", None, 1), ("a", None, 2), ("b", "1", 3), ("b", "1", 4), ("b", "1", 5)]
    with pytest.raises(
        SplitError,
        match=r"class 'b' of cells .*groups",
    ):
        _draw(_dataset(rows), k_shot=1)
    _draw(_dataset(rows), _singles_named("a", "b"), k_shot=1)


def _singles_named(*labels: str) -> CellDataset:
    return _dataset([(label, None, 900 + i) for i, label in enumerate(labels)], name="pool")


def test_a_class_of_the_target_without_images_is_refused_with_a_pool() -> None:
    target = _singles(3, 3)
    empty = target.subset(range(3))
    with pytest.raises(SplitError, match="class 'class 1' of cells"):
        _draw(empty, _singles(3, 3, first=100, name="pool"), k_shot=1)


def test_a_support_of_other_classes_is_refused() -> None:
    with pytest.raises(SplitError, match="pool and the target cells have different classes; expected a, b; got a, c"):
        _draw(_dataset([("a", None, 0), ("b", None, 1)]), _singles_named("a", "c"), k_shot=1)


@pytest.mark.parametrize("k", [1, 4])
def test_one_generator_draws_as_in_bloodshot_s_code(k: int) -> None:
    """One generator of the seed over all repeats, class by class in order of their names."""
    target, pool = _singles(5, 5), _singles(7, 9, first=100, name="pool")
    episodes = _draw(target, pool, k_shot=k, n_repeats=6, seed=42, replacement=True, generator="one")
    rng = np.random.default_rng(42)
    for episode in episodes:
        expected = [rng.choice(np.arange(7), k), rng.choice(np.arange(7, 16), k)]
        assert episode.support.tolist() == np.concatenate(expected).tolist()
    fewer = _draw(target, pool, k_shot=k, n_repeats=2, seed=42, replacement=True, generator="one")
    assert _same(fewer, episodes[:2]), "fewer drawings are the first ones"
    assert not _same(_draw(target, pool, k_shot=k, n_repeats=2, seed=42, replacement=True), fewer)


def test_groups_in_both_are_allowed_where_asked_for_but_never_an_image() -> None:
    support = _dataset([("a", "1", 0), ("a", "7", 1), ("b", "2", 2), ("b", None, 3)], name="support")
    test = _dataset([("a", "1", 10), ("b", None, 11), ("b", "2", 12), ("a", "5", 13)], name="test")
    assert shared_groups(support, test) == ("1", "2")
    refuse_overlap(support, test, groups="allow")
    assert shared_groups(support, _dataset([("a", "1", 10)], name="test", domain="another lab")) == ()
    copied = _dataset([("a", "1", 10), ("b", None, 3)], name="test")
    with pytest.raises(SplitError, match=r"overlap in 1 image\(s\); expected no image in both"):
        refuse_overlap(support, copied, groups="allow")


def test_an_overlap_names_the_pairs() -> None:
    support = _dataset([("a", "1", 0), ("a", None, 1), ("b", "2", 2), ("b", None, 3)], name="support")
    apart = _dataset([("a", "3", 10), ("b", None, 11)], name="test")
    refuse_overlap(support, apart)
    refuse_overlap(support, _dataset([("a", "1", 10), ("b", "2", 11)], name="test", domain="another lab"))
    test = _dataset([("a", "1", 10), ("b", None, 11), ("b", "2", 2), ("a", None, 1)], name="test")
    with pytest.raises(SplitError) as caught:
        refuse_overlap(support, test)
    assert str(caught.value) == (
        "support support and test test overlap in 3 image(s); expected no image and no group in both; got "
        "'support 0/0.png' and 'test 0/10.png' (same group '1'); 'support 2/2.png' and 'test 2/2.png' (same image); "
        "'support 1/1.png' and 'test 3/1.png' (same image). Remove them from one side."
    )


def test_of_many_pairs_some_are_named_and_the_others_counted() -> None:
    support, test = _singles(3, 3, name="support"), _singles(3, 3, name="test")
    with pytest.raises(SplitError, match=r"overlap in 6 image\(s\).*got (.*\(same image\); ){3}and 3 more\. "):
        refuse_overlap(support, test)


@given(rows=_rows(), other=_rows())
@settings(max_examples=20)
def test_an_overlap_is_found_exactly_where_there_is_one(rows: list[Row], other: list[Row]) -> None:
    support, test = _dataset(rows, name="support"), _dataset([(c, g, n + 25) for c, g, n in other], name="test")
    contents, groups = {n for _, _, n in rows}, {g for _, g, _ in rows if g}
    n = sum(content + 25 in contents or group in groups for _, group, content in other)
    if n:
        with pytest.raises(SplitError, match=rf"overlap in {n} image"):
            refuse_overlap(support, test)
    else:
        refuse_overlap(support, test)


# ----------------------------------------------------------------------------------------------------- up to k labelled


@settings(max_examples=60, deadline=None)
@given(rows=_rows(), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_up_to_k_labelled_cells_leave_every_class_to_test(rows: list[Row], k: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "content_id", lambda self: self.path.stem)
        target = _dataset(rows)
        episode = draw_labelled(target, k, np.random.default_rng(seed))
        again = draw_labelled(target, k, np.random.default_rng(seed))
    assert _same([episode], [again])
    drawn = Counter(rows[i][0] for i in episode.support)
    tested = Counter(row[0] for row, query in zip(rows, episode.query, strict=True) if query)
    for label, n in Counter(row[0] for row in rows).items():
        assert drawn[label] <= min(k, n // 2)
        assert tested[label] >= 1
    for i in episode.support:
        for j in np.flatnonzero(episode.query):
            assert rows[i][2] != rows[j][2]
            assert rows[i][1] is None or rows[i][1] != rows[j][1]


def test_single_images_give_k_or_half_of_a_class() -> None:
    episode = draw_labelled(_singles(30, 12, 5), 10, np.random.default_rng(0))
    assert np.bincount(np.repeat([0, 1, 2], [30, 12, 5])[episode.support]).tolist() == [10, 6, 2]
    assert int(episode.query.sum()) == 47 - 18
