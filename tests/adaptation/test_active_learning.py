"""Strategies that choose cells to label: what none of them may do, and what each is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.adaptation.active_learning import STRATEGIES, WHY, Pool, choose, margins, typicality
from hemalens.errors import ConfigError, InputError


def _pool(seed: int, n: int = 24, k: int = 3, n_labelled: int = 3, copies: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    content = np.concatenate([np.arange(n - copies), rng.integers(n - copies, size=copies)])
    embeddings = rng.normal(size=(n, 6))[content]
    probabilities = rng.dirichlet(np.ones(k), size=n)[content]
    labelled = np.zeros(n, bool)
    labelled[rng.choice(n, n_labelled, replace=False)] = True
    return Pool(embeddings, probabilities, labelled, content)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(seed=st.integers(0, 10_000), wanted=st.integers(1, 30), n_labelled=st.integers(0, 8), copies=st.integers(0, 8))
@settings(max_examples=15, deadline=None)
def test_no_strategy_takes_a_labelled_cell_or_a_copy(
    strategy: str, seed: int, wanted: int, n_labelled: int, copies: int
) -> None:
    pool = _pool(seed, n_labelled=n_labelled, copies=copies)
    chosen = choose(strategy, pool, wanted, np.random.default_rng(seed))
    known = set(pool.content[pool.labelled].tolist())
    contents = pool.content[chosen].tolist()
    assert len(contents) == len(set(contents))
    assert not known & set(contents)
    assert len(chosen) == min(wanted, len(set(pool.content.tolist()) - known))
    np.testing.assert_array_equal(chosen, choose(strategy, pool, wanted, np.random.default_rng(seed)))


def test_a_margin_is_the_best_less_the_second_best_probability() -> None:
    found = margins(np.array([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0], [0.4, 0.2, 0.4]]))
    np.testing.assert_allclose(found, [0.2, 1.0, 0.0], atol=1e-12)


def test_typical_cells_stand_for_kinds_of_which_none_is_labelled() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(4)
    kind = np.repeat(np.arange(4), [20, 15, 10, 5])
    points = centres[kind] + rng.normal(0, 0.3, (50, 4))
    labelled = np.zeros(50, bool)
    labelled[0] = True
    pool = Pool(points, np.full((50, 4), 0.25), labelled, np.arange(50))
    chosen = choose("typical", pool, 3, rng)
    assert kind[chosen].tolist() == [1, 2, 3]


def test_typicality_is_one_over_the_mean_distance_to_the_neighbours() -> None:
    points = np.array([[0.0], [1.0], [3.0]])
    np.testing.assert_allclose(typicality(points), [1 / 2, 1 / 1.5, 1 / 2.5])
    np.testing.assert_allclose(typicality(points, n_neighbours=1), [1, 1, 1 / 2])
    np.testing.assert_allclose(typicality(points[:1]), [1])


def test_guesses_take_turns() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    pool = Pool(np.random.default_rng(0).normal(size=(4, 3)), probabilities, np.zeros(4, bool), np.arange(4))
    assert choose("even", pool, 3, np.random.default_rng(0)).tolist() == [3, 2, 1]


def test_nonsense_is_refused() -> None:
    pool = _pool(0)
    with pytest.raises(ConfigError, match=r"unknown strategy 'typicl'.*did you mean 'typical'"):
        choose("typicl", pool, 3, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="unknown strategy 'badge'"):
        choose("badge", pool, 3, np.random.default_rng(0))
    with pytest.raises(InputError, match="too few cells"):
        choose("even", pool, 0, np.random.default_rng(0))
    with pytest.raises(InputError, match="no cell is left"):
        choose("even", _pool(0, n_labelled=24), 3, np.random.default_rng(0))
    assert set(WHY) == set(STRATEGIES)
