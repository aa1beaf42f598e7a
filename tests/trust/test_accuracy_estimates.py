"""Accuracy without labels: each estimate from its definition, right where its assumption holds."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from hemalens.trust.accuracy_estimates import difference_of_confidences, thresholded_confidence, typical_cells

SEEDS = st.integers(0, 10**6)


@hypothesis.given(seed=SEEDS)
def test_at_home_each_estimate_is_the_accuracy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, 200)
    right = rng.random(200) < confidence
    assert thresholded_confidence(confidence, right, confidence) == pytest.approx(right.mean())
    assert difference_of_confidences(confidence, right, confidence) == pytest.approx(right.mean())
    uniform = (1 + np.arange(200)) / 201
    assert typical_cells(confidence, right, confidence, uniform, 5) == pytest.approx(right.mean(), abs=0.03)


@hypothesis.given(seed=SEEDS)
def test_the_formulas_by_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, new, right = rng.random(50), rng.random(30), rng.random(50) < 0.8
    at = min((t for t in reference if (reference < t).sum() >= (~right).sum()), default=np.inf)
    assert thresholded_confidence(reference, right, new) == pytest.approx(np.mean([c >= at for c in new]))
    expected = min(1.0, max(0.0, right.mean() + new.mean() - reference.mean()))
    assert difference_of_confidences(reference, right, new) == pytest.approx(expected)


def test_cells_unlike_home_are_guessed_at() -> None:
    reference, right = np.linspace(0.5, 1, 100), np.ones(100, bool)
    sure = np.full(100, 0.99)
    assert thresholded_confidence(reference, right, sure) == 1.0
    assert typical_cells(reference, right, sure, np.full(100, 0.004), 5) == 0.2
    half = np.repeat([0.004, 0.6], 50)
    assert typical_cells(reference, right, sure, half, 5) == pytest.approx(0.5 / 0.95 + (1 - 0.5 / 0.95) / 5)


def test_a_model_that_is_never_right_at_home_is_never_right_elsewhere() -> None:
    assert thresholded_confidence(np.full(5, 0.9), np.zeros(5, bool), np.full(5, 1.0)) == 0.0
