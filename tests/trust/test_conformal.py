"""Prediction sets: coverage on exchangeable images, thresholds by the definition, groups of classes."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import binom

from hemalens.errors import InputError
from hemalens.trust.conformal import FEWEST_OF_CLASS, PredictionSets, class_groups, threshold


def _drawn(n: int, k: int, rng: np.random.Generator, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, k) of a model that is wrong about its confidence, and true classes (n,)."""
    targets = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += 1.5
    powers = np.exp(sharpness * logits)
    return powers / powers.sum(axis=1, keepdims=True), targets


@hypothesis.given(
    seed=st.integers(0, 10**6), k=st.integers(2, 6), coverage=st.sampled_from([0.8, 0.9, 0.95]), sharpness=st.floats(0.2, 5)
)
def test_exchangeable_images_are_covered_as_often_as_stated(seed: int, k: int, coverage: float, sharpness: float) -> None:
    rng = np.random.default_rng(seed)
    hits = n_tested = 0
    for _ in range(60):
        probabilities, targets = _drawn(160, k, rng, sharpness)
        sets = PredictionSets.calibrate(probabilities[:120], targets[:120], coverage=coverage)
        hits += int(sets.members(probabilities[120:])[np.arange(40), targets[120:]].sum())
        n_tested += 40
    # images of one round share their thresholds: 60 rounds count, not 2,400 images
    slack = coverage - binom.ppf(1e-4, 60 * 8, coverage) / (60 * 8)
    assert hits / n_tested >= coverage - slack


@hypothesis.given(seed=st.integers(0, 10**6), n=st.integers(1, 60), coverage=st.floats(0.05, 0.99))
def test_the_threshold_leaves_a_new_score_below_it_as_often_as_stated(seed: int, n: int, coverage: float) -> None:
    scores = np.random.default_rng(seed).permutation(n + 1).astype(float)
    # each of n + 1 exchangeable scores in turn is the new one
    below = [scores[i] <= threshold(np.delete(scores, i), coverage) for i in range(n + 1)]
    assert np.mean(below) >= coverage - 1e-9


def test_the_threshold_is_the_order_statistic_of_the_definition() -> None:
    assert threshold(np.arange(9.0), 0.9) == 8.0
    assert threshold(np.arange(19.0), 0.9) == 17.0
    assert threshold(np.arange(8.0), 0.9) == np.inf, "eight images cannot tell 90 %"


def test_a_set_holds_each_label_of_enough_probability_and_the_answer() -> None:
    rng = np.random.default_rng(0)
    probabilities, targets = _drawn(400, 3, rng, 1.0)
    sets = PredictionSets.calibrate(probabilities, targets, coverage=0.9)
    for c in range(3):
        scores = np.sort(1 - probabilities[targets == c, c])
        expected = scores[int(np.ceil((len(scores) + 1) * 0.9)) - 1]
        assert sets.thresholds[c] == pytest.approx(expected)
    members = sets.members(probabilities)
    for p, row in zip(probabilities, members, strict=True):
        assert set(np.flatnonzero(row)) == {c for c in range(3) if 1 - p[c] <= sets.thresholds[c]} | {int(p.argmax())}


def test_each_large_class_is_covered_by_itself() -> None:
    rng = np.random.default_rng(1)
    covered: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(40):
        targets = rng.choice(2, 1200, p=[0.9, 0.1])
        p = np.where(targets == 0, rng.beta(8, 1, 1200), rng.beta(1, 1.5, 1200))  # of the true class: the rare one is hard
        probabilities = np.column_stack([np.where(targets == 0, p, 1 - p), np.where(targets == 0, 1 - p, p)])
        sets = PredictionSets.calibrate(probabilities[:600], targets[:600])
        hit = sets.members(probabilities[600:])[np.arange(600), targets[600:]]
        for c, rates in covered.items():
            rates.append(hit[targets[600:] == c].mean())
    assert min(np.mean(found) for found in covered.values()) > 0.88


@hypothesis.given(counts=st.lists(st.integers(0, 60), min_size=2, max_size=8))
def test_small_classes_share_a_group_that_is_large_enough(counts: list[int]) -> None:
    groups = class_groups(np.array(counts))
    sizes = np.bincount(groups, weights=counts)
    assert set(groups) == set(range(len(sizes)))
    if sum(counts) >= FEWEST_OF_CLASS:
        assert sizes.min() >= FEWEST_OF_CLASS
    else:
        assert len(sizes) == 1
    for c, n in enumerate(counts):
        if (groups == groups[c]).sum() == 1:
            assert n >= FEWEST_OF_CLASS or sum(counts) < FEWEST_OF_CLASS


def test_of_too_few_images_every_label_remains() -> None:
    sets = PredictionSets.calibrate(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2]))
    assert np.isinf(sets.thresholds).all()
    assert sets.members(np.eye(3)).all()


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, float("nan")])
def test_a_coverage_that_cannot_be_is_refused(coverage: float) -> None:
    with pytest.raises(InputError, match="above 0, below 1"):
        PredictionSets.calibrate(np.eye(2), np.array([0, 1]), coverage=coverage)
