"""Domain shift: another mix of cell types is reference, a moved embedding is foreign, few images tell nothing."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hemalens.trust.domain_shift import DETECTED, NOT_DETECTED, TOO_FEW, Shift, domain_shift, energies, ood_auroc

CENTRES = 8 * np.eye(5)[:4]


def _cells(n: int, shares: list[float], rng: np.random.Generator, *, moved: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 5) around the centres of four classes, and the nearest of these."""
    points = CENTRES[rng.choice(4, n, p=shares)] + rng.normal(size=(n, 5))
    answers = ((points[:, None] - CENTRES) ** 2).sum(axis=2).argmin(axis=1)
    return points + moved, answers


def _shift(n: int, shares: list[float], *, seed: int = 0, moved: float = 0.0) -> Shift:
    rng = np.random.default_rng(seed)
    reference = _cells(300, [0.25] * 4, rng)
    new = _cells(n, shares, rng, moved=moved)
    return domain_shift(*reference, *new, rng=rng)


@hypothesis.given(
    seed=st.integers(0, 10**6), weights=st.lists(st.floats(0.01, 1), min_size=4, max_size=4), n=st.integers(40, 200)
)
def test_another_mix_of_cell_types_is_not_another_laboratory(seed: int, weights: list[float], n: int) -> None:
    shares = (np.array(weights) / sum(weights)).tolist()
    assert _shift(n, shares, seed=seed).verdict == NOT_DETECTED


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.7, 0.1, 0.1, 0.1]])
@pytest.mark.parametrize("seed", range(3))
def test_a_moved_embedding_is_detected(shares: list[float], seed: int) -> None:
    found = _shift(100, shares, seed=seed, moved=1.0)
    assert found.verdict == DETECTED
    assert found.score is not None
    assert found.score > 0.1
    assert found.p_value == pytest.approx(1 / 200)


def test_the_score_grows_with_the_distance() -> None:
    scores = [_shift(150, [0.25] * 4, moved=moved).score for moved in (0.0, 0.5, 1.0, 3.0)]
    assert scores == sorted(scores)  # type: ignore[type-var]


def test_few_images_give_no_verdict() -> None:
    found = _shift(12, [0.25] * 4, moved=9.0)
    assert (found.verdict, found.score, found.p_value) == (TOO_FEW, None, None)
    assert found.n_compared <= 12


def test_p_values_are_valid_without_a_shift() -> None:
    p_values = [_shift(80, [0.25] * 4, seed=seed).p_value for seed in range(100)]
    assert np.mean([p <= 0.05 for p in p_values if p is not None]) <= 0.12


def test_the_energy_distance_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    distance, between = energies(x, y, n_permutations=0, rng=rng)
    mean = lambda a, b: np.mean([np.linalg.norm(u - v) for u in a for v in b])  # noqa: E731
    assert between[0] == pytest.approx(mean(x, y))
    assert distance[0] == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y))


def test_the_auroc_is_the_fraction_of_ordered_pairs() -> None:
    reference, new = np.array([0.0, 1.0, 2.0, 2.0]), np.array([2.0, 3.0, -1.0])
    expected = np.mean([(n > h) + (n == h) / 2 for h in reference for n in new])
    assert ood_auroc(reference, new) == pytest.approx(expected)
