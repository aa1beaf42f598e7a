"""Mixes of cell types: counts by the definition of the rule, nothing twice, at least a few cells of each type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hemalens.datasets import CellDataset, Record
from hemalens.datasets.mixes import BLOOD, LEAST, MIXES, Mix, counts_of, mix_named, mixed, shares_of
from hemalens.errors import InputError

TYPES = tuple(BLOOD)
SIZES = st.lists(st.integers(0, 60), min_size=5, max_size=5)


@pytest.fixture(autouse=True)
def _content_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a record's content be its file's name, so that no files are needed."""
    monkeypatch.setattr(Record, "content_id", lambda self: self.path.stem)


def _dataset(sizes: Sequence[int], *, copies: int = 1) -> CellDataset:
    """Cells of the five types, each `copies` times under several names."""
    records = [
        Record(Path(f"{copy}/{label}{i}.png"), label, "lab", label=label)
        for label, n in zip(TYPES, sizes, strict=True)
        for i in range(n)
        for copy in range(copies)
    ]
    classes = tuple(label for label, n in zip(TYPES, sizes, strict=True) if n)
    return CellDataset("cells", tuple(records), classes, "five_class", "-", "-")


def _counts(dataset: CellDataset) -> Counter[str]:
    return Counter(record.source_label for record in dataset.records)


@given(SIZES, st.sampled_from(MIXES), st.integers(25, 200), st.integers(0, 999), st.integers(1, 2))
def test_a_mix_takes_no_cell_twice_and_some_of_each_type(
    sizes: list[int], mix: Mix, n: int, seed: int, copies: int
) -> None:
    assume(sizes[TYPES.index("lymphocyte")] and sizes[TYPES.index("eosinophil")])
    dataset = _dataset(sizes, copies=copies)
    drawn = mixed(dataset, mix, n, seed)
    found, room = _counts(drawn), dict(zip(TYPES, sizes, strict=True))
    assert len(set(drawn.contents)) == len(drawn), "no cell twice, under no name"
    assert set(drawn.contents) <= set(dataset.contents)
    gone = {label for label, size in room.items() if size and not found[label]}
    assert len(gone) == (mix == "absent"), "one type is absent, from that mix alone"
    assert all(found[label] >= min(LEAST, size) for label, size in room.items() if label not in gone)
    assert len(drawn) == min(n, sum(size for label, size in room.items() if label not in gone))
    assert drawn.records == mixed(dataset, mix, n, seed).records
    assert drawn.classes == dataset.classes


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 80)), min_size=1, max_size=6), st.integers(30, 200))
def test_counts_follow_the_rule_of_sainte_lague(types: list[tuple[float, int]], n: int) -> None:
    """By its definition: no cell could pass from one type to another that has more right to it."""
    shares, room = zip(*types, strict=True)
    counts = counts_of(shares, room, n)
    assert counts.sum() == min(n, sum(room))
    for giver, taker in permutations(range(len(types)), 2):
        if counts[giver] > LEAST and counts[taker] < room[taker]:
            right = shares[giver] / (2 * counts[giver] - 1)
            assert right >= shares[taker] / (2 * counts[taker] + 1) - 1e-12


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("balanced", (100, 100, 100, 100, 100)),
        ("blood", (300, 150, 30, 15, 5)),
        ("lymphocytic", (25, 400, 25, 25, 25)),
        ("eosinophilic", (50, 50, 50, 300, 50)),
    ],
)
def test_a_large_set_gives_the_shares_of_the_mix(mix: Mix, expected: tuple[int, ...]) -> None:
    found = _counts(mixed(_dataset([600] * 5), mix, 500, 3))
    assert tuple(found[label] for label in TYPES) == expected


def test_the_seed_draws_the_absent_type_and_the_cells() -> None:
    dataset = _dataset([40] * 5)
    drawn = [mixed(dataset, "absent", 80, seed) for seed in range(40)]
    gone = Counter(label for each in drawn for label in TYPES if not _counts(each)[label])
    assert set(gone) == set(TYPES)
    assert sum(gone.values()) == 40
    assert all(set(_counts(each).values()) == {20} for each in drawn)
    assert mixed(dataset, "balanced", 80, 0).records != mixed(dataset, "balanced", 80, 1).records


def test_where_a_type_runs_short_the_others_keep_their_proportions() -> None:
    found = _counts(mixed(_dataset([100, 600, 600, 600, 600]), "blood", 500, 0))
    assert found["neutrophil"] == 100
    assert found["lymphocyte"] / found["monocyte"] == pytest.approx(5, rel=0.03)
    assert sum(found.values()) == 500


@given(st.sampled_from(MIXES), st.lists(st.sampled_from(TYPES), min_size=2, unique=True), st.integers(0, 99))
def test_shares_sum_to_one(mix: Mix, labels: list[str], seed: int) -> None:
    assume(mix != "lymphocytic" or "lymphocyte" in labels)
    assume(mix != "eosinophilic" or "eosinophil" in labels)
    shares = shares_of(mix, labels, np.random.default_rng(seed))
    assert sum(shares.values()) == pytest.approx(1)
    assert len(shares) == len(labels) - (mix == "absent")


def test_types_outside_a_blood_count_are_as_rare_as_basophils() -> None:
    shares = shares_of("blood", [*TYPES, "erythroblast"], np.random.default_rng(0))
    assert shares["erythroblast"] == shares["basophil"] < shares["eosinophil"]


@pytest.mark.parametrize(
    ("sizes", "mix", "n", "says"),
    [
        ([9, 0, 9, 9, 9], "lymphocytic", 50, "needs a cell of the type lymphocyte"),
        ([9, 9, 9, 0, 9], "eosinophilic", 50, "needs a cell of the type eosinophil"),
        ([9, 0, 0, 0, 0], "absent", 50, "needs two types"),
        ([9] * 5, "balanced", 24, "too few images for a mix of 5 types.*25 or more"),
    ],
)
def test_what_a_mix_cannot_be_drawn_from(sizes: list[int], mix: Mix, n: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mixed(_dataset(sizes), mix, n, 0)


def test_a_mix_by_its_name() -> None:
    assert [mix_named(name) for name in MIXES] == list(MIXES)
    with pytest.raises(InputError, match=r"unknown mix 'blod'.*did you mean 'blood'"):
        mix_named("blod")
