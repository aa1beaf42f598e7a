"""The correction for known confusion: maximum likelihood, and limits that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hemalens.differential import confusion as module
from hemalens.differential.confusion import Confusion, adjusted_slide, em, true_shares
from hemalens.differential.rules import CountRules
from hemalens.differential.slides import slide_result
from hemalens.errors import InputError

CODES = ("neutrophil", "lymphocyte", "monocyte", "erythroblast")
COUNTS = ((90, 4, 6, 0), (2, 95, 3, 0), (10, 5, 85, 0), (0, 5, 0, 45))
KNOWN = Confusion(CODES, CODES, COUNTS, "the test part")
CELLS = ["neutrophil"] * 60 + ["lymphocyte"] * 30 + ["monocyte"] * 10 + ["erythroblast"] * 9


def test_em_finds_the_maximum_of_the_likelihood() -> None:
    matrix = np.array(COUNTS, float) / np.sum(COUNTS, axis=1, keepdims=True)
    seen = np.array([60, 30, 10, 9.0])

    def loss(z: np.ndarray) -> float:
        p = np.exp(z) / np.exp(z).sum()
        return -float(seen @ np.log(p @ matrix))

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    expected = np.exp(best) / np.exp(best).sum()
    assert em(seen[None] / seen.sum(), matrix[None])[0] == pytest.approx(expected, abs=1e-3)


def test_where_inverting_gives_a_negative_share_the_estimate_is_zero() -> None:
    matrix = np.array([[0.9, 0.1], [0.1, 0.9]])
    seen = np.array([0.95, 0.05])
    assert np.linalg.solve(matrix.T, seen)[1] < 0
    assert em(seen[None], matrix[None])[0] == pytest.approx([1, 0], abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=3, max_size=3), st.integers(0, 2**31))
def test_shares_stay_on_the_simplex_and_exact_confusion_is_undone(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = 0.7 * np.eye(3) + 0.3 * rng.dirichlet(np.ones(3), size=3)
    true = np.array(counts) / sum(counts)
    found = em((true @ matrix)[None], matrix[None])[0]
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert found == pytest.approx(true, abs=5e-3)


def test_beside_the_count_and_among_white_cells() -> None:
    plain = slide_result("a", CELLS)
    made = adjusted_slide(plain, CELLS, KNOWN, CountRules())
    assert [each.share for each in made.types] == [each.share for each in plain.types]
    adjusted = [each.adjusted for each in made.types]
    assert all(each is not None for each in adjusted)
    assert sum(each.value or 0 for each in adjusted if each) == pytest.approx(1)
    assert all(each.low <= each.value <= each.high for each in adjusted if each)  # type: ignore[operator]
    assert made.adjusted_by == "the test part"
    assert made == adjusted_slide(plain, CELLS, KNOWN, CountRules())


def test_a_perfect_test_of_many_images_changes_little() -> None:
    perfect = Confusion(CODES, CODES, tuple(tuple(10**6 * (i == j) for j in range(4)) for i in range(4)), "x")
    made = adjusted_slide(slide_result("a", CELLS), CELLS, perfect, CountRules())
    for each in made.types:
        assert each.adjusted is not None
        assert each.adjusted.value == pytest.approx(each.share.value, abs=1e-3)
        assert each.adjusted.low == pytest.approx(each.share.low, abs=0.03)
        assert each.adjusted.high == pytest.approx(each.share.high, abs=0.03)


def test_types_that_were_not_tested() -> None:
    with pytest.raises(InputError, match="knows no eosinophil"):
        adjusted_slide(slide_result("a", ["eosinophil"]), ["eosinophil"], KNOWN, CountRules())
    untested = Confusion(CODES, CODES[:3], COUNTS[:3], "x")
    with pytest.raises(InputError, match="no erythroblast was tested"):
        adjusted_slide(slide_result("a", CELLS), CELLS, untested, CountRules())


def test_an_empty_slide_stays_as_it_is() -> None:
    plain = slide_result("a", ["erythroblast"])
    assert adjusted_slide(plain, ["erythroblast"], KNOWN, CountRules()) == plain


def _matrix(k: int, error: float) -> np.ndarray:
    matrix = np.full((k, k), error / (k - 1))
    np.fill_diagonal(matrix, 1 - error)
    return matrix


@pytest.mark.slow
def test_limits_cover_over_several_designs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 150)
    monkeypatch.setattr(module, "MOST_STEPS", 300)
    uneven = _matrix(8, 0.04)
    uneven[6, 6:] += (-0.3, 0.3)
    designs = [
        (_matrix(5, 0.05), [0.6, 0.28, 0.08, 0.03, 0.01], 200, 60),
        (_matrix(5, 0.15), [0.6, 0.28, 0.08, 0.03, 0.01], 200, 40),
        (_matrix(4, 0.08), [0.7, 0.25, 0.05, 0.0], 100, 50),
        (uneven, [0.55, 0.25, 0.07, 0.03, 0.005, 0.02, 0.05, 0.025], 400, 100),
    ]
    for matrix, shares, n, n_tested in designs:
        assert _coverage(matrix, np.array(shares), n, n_tested, trials=60) >= 0.93


def test_limits_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 100)
    monkeypatch.setattr(module, "MOST_STEPS", 200)
    assert _coverage(_matrix(3, 0.1), np.array([0.7, 0.27, 0.03]), 100, 50, trials=60) >= 0.9


def _coverage(matrix: np.ndarray, shares: np.ndarray, n: int, n_tested: int, *, trials: int) -> float:
    """The share of limits, over types and trials, that hold the true share."""
    rng, codes, hits = np.random.default_rng(0), tuple(f"t{i}" for i in range(len(shares))), 0
    for _ in range(trials):
        tested = tuple(tuple(rng.multinomial(n_tested, row).tolist()) for row in matrix)
        counts = rng.multinomial(n, shares @ matrix).tolist()
        found = true_shares(counts, Confusion(codes, codes, tested, "x"), range(len(codes)), rng)
        hits += sum(each.low <= share <= each.high for each, share in zip(found.values(), shares, strict=True))  # type: ignore[operator]
    return hits / (trials * len(shares))
