"""Nearest neighbours: those of the definition where all are compared, nearly all of them where cells are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.datasets.nearest import nearest


def _neighbours(own: np.ndarray, near: np.ndarray, n: int) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(n)]
    for i, j in zip(own.tolist(), near.tolist(), strict=True):
        assert j not in found[i]
        found[i].add(j)
    return found


@given(seed=st.integers(0, 2**32), n=st.integers(0, 40), n_near=st.integers(1, 50))
def test_all_compared_they_are_those_of_the_definition(seed: int, n: int, n_near: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    found = _neighbours(*nearest(rows, n_near), n)
    for i in range(n):
        distances = np.linalg.norm(rows.astype(float) - rows[i], axis=1)
        others = sorted((j for j in range(n) if j != i), key=lambda j: distances[j])
        assert found[i] == set(others[:n_near])


def test_in_cells_the_very_nearest_is_found_and_steps_add_up() -> None:
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(1500, 40)).astype(np.float32)
    rows = np.concatenate([cells, cells + rng.normal(0, 0.05, cells.shape).astype(np.float32)])
    steps: list[int] = []
    found = _neighbours(*nearest(rows, 5, most_compared=100, progress=steps.append), 3000)
    assert sum(steps) == 3000
    assert all(i not in near for i, near in enumerate(found))
    # rows without any structure are the hardest for cells
    assert np.mean([(i + 1500) % 3000 in near for i, near in enumerate(found)]) > 0.98


@pytest.mark.parametrize("n", [101, 150])
def test_equal_rows_in_cells_have_neighbours_too(n: int) -> None:
    own, near = nearest(np.ones((n, 4), np.float32), 3, most_compared=100)
    assert (own != near).all()
    assert len(own) >= 3 * n - 6


def test_the_same_rows_give_the_same_pairs() -> None:
    rows = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    first, second = nearest(rows, 4, most_compared=50), nearest(rows, 4, most_compared=50)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
