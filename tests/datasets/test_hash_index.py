"""The index of hashes finds what a comparison of all pairs finds, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.hash_index import LARGE, MAX_DISTANCE, SMALL, HashIndex, packed, parts_of, ranges

BANDS = pytest.mark.parametrize("bands", [SMALL, LARGE], ids=["few", "many"])


def _clustered(rng: np.random.Generator, n: int, n_centres: int, most_flips: int) -> np.ndarray:
    """Hashes bool (n, 64) that differ in at most `most_flips` bits from one of a few centres."""
    bits = rng.random((n_centres, 64))[rng.integers(n_centres, size=n)] < 0.5
    for row in bits:
        row[rng.permutation(64)[: rng.integers(most_flips + 1)]] ^= True
    return bits


@BANDS
@given(seed=st.integers(0, 2**32), n=st.integers(1, 60), n_centres=st.integers(1, 8), flips=st.integers(0, 9))
def test_every_pair_within_the_distance_is_found_once(bands: tuple, seed: int, n: int, n_centres: int, flips: int) -> None:
    rng = np.random.default_rng(seed)
    bits = _clustered(rng, n, n_centres, flips)
    asked = np.concatenate([bits[: n // 2], _clustered(rng, 5, 5, flips)])
    index = HashIndex(packed(bits), bands)
    of, entries = index.near(packed(asked))
    pairs = [(int(i), int(j)) for i, e in zip(of, entries, strict=True) for j in index.members(np.array([e]))]
    distances = (asked[:, None] != bits[None]).sum(axis=2)
    assert len(set(pairs)) == len(pairs)
    assert sorted(pairs) == [tuple(pair) for pair in np.argwhere(distances <= MAX_DISTANCE).tolist()]


@pytest.mark.parametrize("n_flipped", range(MAX_DISTANCE + 2))
@BANDS
def test_bits_may_differ_anywhere(bands: tuple, n_flipped: int) -> None:
    rng = np.random.default_rng(n_flipped)
    bits = rng.random((400, 64)) < 0.5
    other = bits.copy()
    for row in other:
        row[rng.permutation(64)[:n_flipped]] ^= True
    of, entries = HashIndex(packed(bits), bands).near(packed(other))
    found = set(of[np.bincount(of, minlength=400)[of] > 0].tolist())
    assert found == (set(range(400)) if n_flipped <= MAX_DISTANCE else set())
    assert len(entries) == len(of)


@BANDS
def test_the_bands_hold_every_bit_and_keep_the_promise(bands: tuple) -> None:
    """By the pigeonhole principle the radii of m bands add up to the distance less m, plus 1."""
    assert sum(width for width, _ in bands) == 64
    assert sum(radius for _, radius in bands) == MAX_DISTANCE - len(bands) + 1


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=30, max_size=30))
def test_an_entry_has_a_common_value_where_all_its_hashes_share_it(codes: list[int], values: list[int]) -> None:
    index = HashIndex(np.array(codes, np.uint64))
    given_values = np.array(values[: len(codes)])
    for entry, (code, common) in enumerate(zip(sorted(set(codes)), index.common(given_values), strict=True)):
        own = {v for c, v in zip(codes, values, strict=False) if c == code}
        assert common == (own.pop() if len(own) == 1 else -1)
        assert index.members(np.array([entry])).tolist() == [i for i, c in enumerate(codes) if c == code]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=20))
def test_ranges_are_one_after_the_other(pairs: list[tuple[int, int]]) -> None:
    begins, counts = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    assert ranges(begins, counts).tolist() == [n for begin, count in pairs for n in range(begin, begin + count)]


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 20))
def test_parts_follow_one_another_and_none_is_too_large(counts: list[int], most: int) -> None:
    parts = list(parts_of(np.array(counts, np.int64), most))
    assert [n for part in parts for n in range(part.start, part.stop)] == list(range(len(counts)))
    assert all(sum(counts[part]) <= most or part.stop - part.start == 1 for part in parts)
