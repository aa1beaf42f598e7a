"""Prediction sets with the laboratory as the unit: coverage in laboratories never seen, thresholds by the definition."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import binom

from hemalens.errors import InputError
from hemalens.trust.laboratory_sets import LABORATORY_SHARE, SOFTENING, LaboratorySets, adaptive_scores

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
SEEDS = st.integers(0, 10**6)


def _laboratory(n: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, k) and classes (n,) of one laboratory, whose difficulty and mix are its own."""
    targets = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += rng.uniform(0, 4)
    powers = np.exp(rng.uniform(0.5, 3) * logits)
    return powers / powers.sum(axis=1, keepdims=True), targets


def _laboratories(n_laboratories: int, n: int, k: int, rng: np.random.Generator) -> Drawn:
    parts = [_laboratory(n, k, rng) for _ in range(n_laboratories)]
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.repeat(np.arange(n_laboratories), n),
    )


def _score(probabilities: list[float], c: int) -> float:
    """The softened probability of the labels likelier than c."""
    soft = [p ** (1 / SOFTENING) for p in probabilities]
    return sum(value for value in soft if value > soft[c]) / sum(soft)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("k", [2, 5])
def test_the_coverage_holds_in_as_many_laboratories_as_stated(coverage: float, k: int) -> None:
    rng = np.random.default_rng(0)
    held, rounds = 0, 150
    for _ in range(rounds):
        sets = LaboratorySets.calibrate(*_laboratories(12, 60, k, rng), coverage=coverage)
        # many images: the coverage of the laboratory itself, not that of a sample
        probabilities, targets = _laboratory(800, k, rng)
        held += bool(sets.members(probabilities)[np.arange(800), targets].mean() >= coverage)
    assert held >= binom.ppf(1e-4, rounds, LABORATORY_SHARE)


@hypothesis.given(seed=SEEDS, n_laboratories=st.integers(1, 15), n=st.integers(1, 70), coverage=st.floats(0.05, 0.99))
def test_the_threshold_is_a_quantile_over_laboratories_of_their_quantiles(
    seed: int, n_laboratories: int, n: int, coverage: float
) -> None:
    drawn = _laboratories(n_laboratories, n, 4, np.random.default_rng(seed))
    found = LaboratorySets.calibrate(*drawn, coverage=coverage)
    limits = []
    for name in range(n_laboratories):
        scores = sorted(
            _score(p.tolist(), int(c)) for p, c in zip(drawn[0][drawn[2] == name], drawn[1][drawn[2] == name], strict=True)
        )
        enough = [s for i, s in enumerate(scores, 1) if i >= (n + 1) * (1 + coverage) / 2 - 1e-9]
        limits.append(enough[0] if enough else np.inf)
    enough = [s for i, s in enumerate(sorted(limits), 1) if i >= (n_laboratories + 1) * LABORATORY_SHARE - 1e-9]
    assert found.threshold == pytest.approx(enough[0] if enough else np.inf)
    assert (found.n_images, found.n_laboratories) == (n * n_laboratories, n_laboratories)


@hypothesis.given(seed=SEEDS, k=st.integers(2, 6), low=st.floats(0.05, 0.95), more=st.floats(0, 0.04))
def test_a_larger_coverage_has_larger_sets(seed: int, k: int, low: float, more: float) -> None:
    rng = np.random.default_rng(seed)
    drawn, (new, _) = _laboratories(5, 30, k, rng), _laboratory(40, k, rng)
    small, large = (LaboratorySets.calibrate(*drawn, coverage=c).members(new) for c in (low, low + more))
    assert (large >= small).all()


@hypothesis.given(seed=SEEDS, k=st.integers(2, 6), coverage=st.floats(0.01, 0.99))
def test_a_set_holds_the_prediction_and_all_labels_likelier_than_its_last(seed: int, k: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    members = LaboratorySets.calibrate(*_laboratories(4, 20, k, rng), coverage=coverage)
    new = _laboratory(30, k, rng)[0]
    for row, held in zip(new, members.members(new), strict=True):
        assert held[row.argmax()]
        assert set(np.flatnonzero(held)) == set(np.argsort(-row, kind="stable")[: held.sum()])


@hypothesis.given(seed=SEEDS, n=st.integers(1, 20), k=st.integers(2, 6))
def test_scores_begin_at_nothing_and_grow_with_the_rank(seed: int, n: int, k: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(k), n)
    scores = adaptive_scores(probabilities)
    ranked = np.take_along_axis(scores, np.argsort(-probabilities, axis=1), axis=1)
    np.testing.assert_array_equal(ranked[:, 0], 0)
    assert (np.diff(ranked, axis=1) >= 0).all()
    assert scores.max() <= 1


def test_certain_and_tied_probabilities_have_scores() -> None:
    np.testing.assert_array_equal(adaptive_scores(np.array([[1.0, 0.0, 0.0]])), [[0, 1, 1]])
    np.testing.assert_allclose(adaptive_scores(np.full((1, 4), 0.25)), [[0, 0.25, 0.5, 0.75]])


def test_too_few_laboratories_or_images_put_every_label_into_every_set() -> None:
    rng = np.random.default_rng(0)
    for few in (_laboratories(2, 60, 3, rng), _laboratories(12, 18, 3, rng)):
        sets = LaboratorySets.calibrate(*few)
        assert sets.threshold == np.inf
        assert sets.members(few[0]).all()
    assert np.isfinite(LaboratorySets.calibrate(*_laboratories(12, 19, 3, rng)).threshold)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, np.nan])
def test_a_coverage_out_of_range_is_refused(coverage: float) -> None:
    with pytest.raises(InputError, match="coverage"):
        LaboratorySets.calibrate(*_laboratories(3, 20, 3, np.random.default_rng(0)), coverage=coverage)


# ---------------------------------------------------------------------------------------------------- among some classes


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=SEEDS)
def test_sets_among_some_classes_are_those_without_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, among = 400, np.array([True, True, False, True, False])
    probabilities = rng.dirichlet(np.ones(5), size=n)
    targets, laboratories = rng.integers(5, size=n), rng.integers(8, size=n)
    found = LaboratorySets.calibrate(probabilities, targets, laboratories, among=among)
    kept, columns = among[targets], np.flatnonzero(among)
    alone = probabilities[:, columns] / probabilities[:, columns].sum(axis=1, keepdims=True)
    places = np.searchsorted(columns, targets[kept])
    plain = LaboratorySets.calibrate(alone[kept], places, laboratories[kept])
    assert found.threshold == pytest.approx(plain.threshold)
    assert found.n_images == kept.sum()
    members, best = found.members(probabilities), np.eye(5, dtype=bool)[probabilities.argmax(axis=1)]
    expected = np.zeros((n, 5), bool)
    expected[:, columns] = plain.members(alone)
    # a label of another class only where it is the predicted one
    np.testing.assert_array_equal(members, expected | best)
