"""Scores against scikit-learn, published tables and values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from hemalens.classifiers.calibration import fit_temperature, log_softmax
from hemalens.evaluation import metrics
from hemalens.evaluation.metrics import (
    Predictions,
    accuracy,
    balanced_accuracy,
    bootstrap_interval,
    confusion,
    exact_interval,
    expected_calibration_error,
    f1,
    macro_f1,
    majority_rate,
    negative_log_likelihood,
    precision,
    recall,
    reliability,
    resampled_confusions,
    two_way_interval,
)

K = 4

answers = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(npst.arrays(np.int64, n, elements=st.integers(0, K - 1)) for _ in range(2)))
)
Pair = tuple[NDArray[np.int64], NDArray[np.int64]]

# true rows, predicted columns; by hand: 10 images, 6 right
HAND = np.array([[3, 1, 0], [1, 2, 1], [0, 1, 1]])


# Confusion and the scores drawn from it


def test_hand_made_confusion_has_rows_of_truth() -> None:
    counts = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_hand_made_scores() -> None:
    assert accuracy(HAND) == pytest.approx(0.6)
    assert majority_rate(HAND) == pytest.approx(0.4)
    np.testing.assert_allclose(recall(HAND), [3 / 4, 2 / 4, 1 / 2])
    np.testing.assert_allclose(precision(HAND), [3 / 4, 2 / 4, 1 / 2])
    np.testing.assert_allclose(f1(HAND), [3 / 4, 2 / 4, 1 / 2])
    assert balanced_accuracy(HAND) == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert macro_f1(HAND) == pytest.approx((0.75 + 0.5 + 0.5) / 3)


def test_class_without_images_does_not_count_and_class_never_answered_counts_as_zero() -> None:
    # no image of class 2, and class 1 is never answered
    counts = np.array([[4, 0, 1], [2, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(recall(counts), [0.8, 0.0, np.nan])
    np.testing.assert_array_equal(precision(counts), [4 / 6, np.nan, 0.0])
    np.testing.assert_array_equal(f1(counts), [8 / 11, 0.0, 0.0])
    assert balanced_accuracy(counts) == pytest.approx(0.4)
    assert macro_f1(counts) == pytest.approx(4 / 11)


@pytest.mark.parametrize("score", [accuracy, majority_rate, balanced_accuracy, macro_f1])
def test_scores_of_no_images_are_nan_without_a_warning(score: Any) -> None:
    assert math.isnan(score(np.zeros((3, 3), np.int64)))


@given(pair=answers)
def test_confusion_and_accuracy_equal_scikit_learn(pair: Pair) -> None:
    target, predicted = pair
    counts = confusion(target, predicted, K)
    np.testing.assert_array_equal(counts, sk.confusion_matrix(target, predicted, labels=range(K)))
    assert accuracy(counts) == pytest.approx(sk.accuracy_score(target, predicted))
    assert majority_rate(counts) == pytest.approx(np.bincount(target).max() / len(target))


@given(pair=answers)
def test_per_class_scores_equal_scikit_learn(pair: Pair) -> None:
    target, predicted = pair
    counts = confusion(target, predicted, K)
    options: dict[str, Any] = {"labels": range(K), "average": None, "zero_division": np.nan}
    np.testing.assert_allclose(recall(counts), sk.recall_score(target, predicted, **options))
    np.testing.assert_allclose(precision(counts), sk.precision_score(target, predicted, **options))
    np.testing.assert_allclose(f1(counts), sk.f1_score(target, predicted, **options))


@given(pair=answers)
def test_means_over_present_classes_equal_scikit_learn(pair: Pair) -> None:
    target, predicted = pair
    counts = confusion(target, predicted, K)
    present = sorted(set(target.tolist()))
    options: dict[str, Any] = {"labels": present, "average": "macro", "zero_division": 0}
    assert balanced_accuracy(counts) == pytest.approx(sk.recall_score(target, predicted, **options))
    assert macro_f1(counts) == pytest.approx(sk.f1_score(target, predicted, **options))


@given(pair=answers, seed=st.integers(0, 1000))
def test_scores_do_not_depend_on_the_order_of_images_or_classes(pair: Pair, seed: int) -> None:
    target, predicted = pair
    rng = np.random.default_rng(seed)
    images, names = rng.permutation(len(target)), rng.permutation(K)
    for score in (accuracy, majority_rate, balanced_accuracy, macro_f1):
        expected = score(confusion(target, predicted, K))
        assert score(confusion(target[images], predicted[images], K)) == pytest.approx(expected)
        assert score(confusion(names[target], names[predicted], K)) == pytest.approx(expected)
        assert 0 <= expected <= 1


@given(counts=npst.arrays(np.int64, (5, 3, 3), elements=st.integers(0, 4)))
def test_stacked_counts_give_the_scores_of_each(counts: NDArray[np.int64]) -> None:
    for score in (accuracy, majority_rate, balanced_accuracy, macro_f1, recall, precision, f1):
        stacked = score(counts)
        np.testing.assert_allclose(stacked, [score(one) for one in counts])


# Intervals

# Rümke's table of the differential count, in %: n cells, successes -> limits
RUEMKE = [
    (100, 0, 0, 3.6),
    (100, 1, 0, 5.4),
    (100, 5, 1.6, 11.3),
    (100, 10, 4.9, 17.6),
    (100, 20, 12.7, 29.2),
    (100, 50, 39.8, 60.2),
    (200, 0, 0, 1.8),
    (200, 10, 2.4, 9.0),
    (200, 20, 6.2, 15.0),
    (400, 20, 3.1, 7.6),
    (400, 40, 7.2, 13.4),
]


@pytest.mark.parametrize(("n", "successes", "low", "high"), RUEMKE)
def test_exact_interval_gives_ruemke_s_limits(n: int, successes: int, low: float, high: float) -> None:
    assert [round(100 * limit, 1) for limit in exact_interval(successes, n)] == [low, high]


@given(n=st.integers(1, 300), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_exact_limits_are_where_the_binomial_tail_is_half_the_error(n: int, data: st.DataObject, confidence: float) -> None:
    """Clopper and Pearson's definition: P(X >= k | low) = P(X <= k | high) = (1 - confidence) / 2."""
    k = data.draw(st.integers(0, n))
    low, high = exact_interval(k, n, confidence=confidence)
    assert 0 <= low <= k / n <= high <= 1
    tail = (1 - confidence) / 2
    assert low == 0 if k == 0 else stats.binom.sf(k - 1, n, low) == pytest.approx(tail, rel=1e-6)
    assert high == 1 if k == n else stats.binom.cdf(k, n, high) == pytest.approx(tail, rel=1e-6)


@given(n=st.integers(1, 200), data=st.data())
def test_exact_interval_is_symmetric_in_success_and_failure(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = exact_interval(k, n)
    assert exact_interval(n - k, n) == (pytest.approx(1 - high, abs=1e-9), pytest.approx(1 - low, abs=1e-9))


def test_no_images_say_nothing_of_a_share() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)


def _answers(rng: np.random.Generator, n: int, right: float, n_groups: int | None = None) -> Predictions:
    target = np.arange(n) % 2
    predicted = np.where(rng.random(n) < right, target, 1 - target)
    unit = np.arange(n) if n_groups is None else np.arange(n) % n_groups
    return Predictions(target, predicted, unit)


def test_bootstrap_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(120):
        low, high = bootstrap_interval(accuracy, [_answers(rng, 120, 0.8)], 2, rng=rng, n_repeats=200)
        covered += low <= 0.8 <= high
    # 95 % of 120 are 114; below 104 or all 120 would each happen less than once in a hundred times
    assert 104 <= covered <= 119


def test_bootstrap_interval_has_the_width_of_the_binomial() -> None:
    rng = np.random.default_rng(1)
    low, high = bootstrap_interval(accuracy, [_answers(rng, 400, 0.7)], 2, rng=rng, n_repeats=2000)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 400), rel=0.2)


def test_bootstrap_interval_of_groups_is_wider_where_their_members_err_together() -> None:
    rng = np.random.default_rng(2)
    target = np.repeat(np.arange(2), 100)
    group = np.arange(200) // 10
    wrong = rng.random(20)[group] < 0.3
    predicted = np.where(wrong, 1 - target, target)
    grouped = bootstrap_interval(accuracy, [Predictions(target, predicted, group)], 2, rng=np.random.default_rng(3))
    single = bootstrap_interval(accuracy, [Predictions(target, predicted, np.arange(200))], 2, rng=np.random.default_rng(3))
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_bootstrap_keeps_a_rare_class() -> None:
    target = np.array([0] * 50 + [1])
    # the only image of class 1 is missed: drawn without strata it would be left out of every third draw, for a score of 1
    missed = Predictions(target, np.zeros(51, np.int64), np.arange(51))
    found = bootstrap_interval(balanced_accuracy, [missed], 2, rng=np.random.default_rng(0), n_repeats=200)
    assert found == (0.5, 0.5)


def test_bootstrap_of_several_models_is_of_their_mean_and_determined_by_the_generator() -> None:
    target = np.arange(60) % 2
    good, bad = (Predictions(target, predicted, np.arange(60)) for predicted in (target, 1 - target))
    assert bootstrap_interval(accuracy, [good, bad], 2, rng=np.random.default_rng(0), n_repeats=50) == (0.5, 0.5)
    noisy = [_answers(np.random.default_rng(s), 60, 0.7) for s in range(2)]
    first, again = (bootstrap_interval(accuracy, noisy, 2, rng=np.random.default_rng(7), n_repeats=50) for _ in range(2))
    assert first == again
    assert first[0] < first[1]


def test_bootstrap_without_images_is_nan() -> None:
    nothing = np.zeros(0, np.int64)
    for models in ([], [Predictions(nothing, nothing, nothing)]):
        assert all(math.isnan(v) for v in bootstrap_interval(accuracy, models, 2, rng=np.random.default_rng(0)))


@given(seed=st.integers(0, 10_000), n_models=st.integers(1, 4), n=st.integers(1, 25))
@settings(max_examples=25)
def test_resampled_confusions_are_sums_over_drawn_units(seed: int, n_models: int, n: int) -> None:
    """The same draws in plain loops: units within strata of their most frequent class, alike for all models."""
    rng = np.random.default_rng(seed)
    unit_of, target = rng.integers(0, max(1, n // 2), n), rng.integers(0, K, n)
    tested = [rng.random(n) < 0.7 for _ in range(n_models)]
    tested[0][0] = True
    models = [Predictions(target[t], rng.integers(0, K, int(t.sum())), unit_of[t]) for t in tested]
    found = resampled_confusions(models, K, rng=np.random.default_rng(seed), n_repeats=6)
    assert found is not None
    assert found.shape == (n_models, 6, K, K)
    used = sorted({int(u) for model in models for u in model.unit})
    strata: dict[int, list[int]] = {}
    for u in used:
        truths = [int(t) for model in models for t, own in zip(model.target, model.unit, strict=True) if own == u]
        strata.setdefault(max(range(K), key=truths.count), []).append(u)
    draws = np.random.default_rng(seed)
    times = np.zeros((6, max(used) + 1), int)
    for stratum in sorted(strata):
        members = strata[stratum]
        times[:, members] = draws.multinomial(len(members), np.full(len(members), 1 / len(members)), size=6)
    for model, counts in zip(models, found, strict=True):
        for repeat in range(6):
            expected = np.zeros((K, K), int)
            for t, p, u in zip(model.target, model.predicted, model.unit, strict=True):
                expected[t, p] += times[repeat, u]
            np.testing.assert_array_equal(counts[repeat], expected)


def test_resampled_confusions_without_images_are_none() -> None:
    nothing = np.zeros(0, np.int64)
    for models in ([], [Predictions(nothing, nothing, nothing)]):
        assert resampled_confusions(models, 2, rng=np.random.default_rng(0)) is None


@given(
    scores=npst.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=st.floats(0, 1)),
    missing=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
def test_two_way_interval_is_that_of_means_over_models_drawn_again(
    scores: NDArray[np.float64], missing: float, seed: int
) -> None:
    scores = np.where(np.random.default_rng(seed).random(scores.shape) < missing, np.nan, scores)
    n_models, n_repeats = scores.shape
    drawn = np.random.default_rng(seed).integers(n_models, size=(n_models, n_repeats))
    means = []
    for repeat in range(n_repeats):
        values = [scores[m, repeat] for m in drawn[:, repeat] if not math.isnan(scores[m, repeat])]
        if values:
            means.append(math.fsum(values) / len(values))
    found = two_way_interval(scores, rng=np.random.default_rng(seed))
    expected = np.percentile(means, [2.5, 97.5]) if means else [np.nan, np.nan]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_two_way_interval_has_both_sources_of_chance() -> None:
    rng = np.random.default_rng(0)
    n_models, n_repeats = 30, 4000
    of_model, of_repeat = rng.normal(0, 1, (n_models, 1)), rng.normal(0, 0.2, (1, n_repeats))
    low, high = two_way_interval(of_model + of_repeat, rng=rng)
    expected = 2 * 1.96 * math.sqrt(of_model.var() / n_models + 0.2**2)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low < of_model.mean() < high
    only_repeats = two_way_interval(np.repeat(of_repeat, 5, axis=0), rng=rng)
    assert only_repeats[1] - only_repeats[0] == pytest.approx(2 * 1.96 * 0.2, rel=0.1)


# Probabilities


@given(logits=npst.arrays(np.float64, (5, K), elements=st.floats(-1e4, 1e4)))
def test_log_softmax_is_the_definition_and_does_not_overflow(logits: NDArray[np.float64]) -> None:
    found = log_softmax(logits)
    for row, values in zip(found, logits.tolist(), strict=True):
        top = max(values)
        normaliser = top + math.log(math.fsum(math.exp(v - top) for v in values))
        np.testing.assert_allclose(row, [v - normaliser for v in values], atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


def test_log_softmax_ignores_a_constant_and_takes_float32() -> None:
    logits = np.array([[1, 2, 3]], np.float32)
    assert log_softmax(logits).dtype == np.float64
    np.testing.assert_allclose(log_softmax(logits), log_softmax(logits + 1000), atol=1e-9)


def test_nll_of_hand_made_probabilities() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    expected = -(math.log(0.5) + math.log(0.75) + math.log(1.0)) / 3
    assert negative_log_likelihood(probabilities, np.array([0, 1, 0])) == pytest.approx(expected)
    # a certain and wrong answer costs -log 1e-12, not infinity
    assert negative_log_likelihood(probabilities[2:], np.array([1])) == pytest.approx(12 * math.log(10))
    assert math.isnan(negative_log_likelihood(np.zeros((0, 2)), np.zeros(0, np.int64)))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_nll_equals_scikit_learn(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(K), n)
    target = rng.integers(0, K, n)
    assume(probabilities[np.arange(n), target].min() > 1e-12)
    found = negative_log_likelihood(probabilities, target)
    assert found == pytest.approx(sk.log_loss(target, probabilities, labels=range(K)))


def _two(confidence: float, n: int) -> NDArray[np.float64]:
    return np.tile([confidence, 1 - confidence], (n, 1))


def test_ece_of_hand_made_cases() -> None:
    # ten answers at 0.8, eight right: calibrated
    eight_of_ten = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(_two(0.8, 10), eight_of_ten) == pytest.approx(0)
    # ten answers at 0.9 and eight right: 0.1 too sure
    assert expected_calibration_error(_two(0.9, 10), eight_of_ten) == pytest.approx(0.1)
    # certain and wrong
    assert expected_calibration_error(_two(1.0, 4), np.ones(4, np.int64)) == pytest.approx(1)
    # two bins: (10 * 0.1 + 30 * 0.3) / 40
    both = np.concatenate([_two(0.9, 10), _two(0.7, 30)])
    target = np.concatenate([eight_of_ten, np.zeros(30, np.int64)])
    assert expected_calibration_error(both, target) == pytest.approx(0.25)
    assert math.isnan(expected_calibration_error(np.zeros((0, 2)), np.zeros(0, np.int64)))


def test_errors_of_either_sign_in_one_bin_cancel_and_in_two_bins_do_not() -> None:
    # 0.62 (all right) and 0.64 (all wrong) share a bin of fifteen [0.6, 0.667): |0.63 - 0.5|
    close = np.concatenate([_two(0.62, 5), _two(0.64, 5)])
    target = np.array([0] * 5 + [1] * 5)
    assert expected_calibration_error(close, target) == pytest.approx(0.13)
    # 0.62 and 0.94 do not: (0.38 + 0.94) / 2
    far = np.concatenate([_two(0.62, 5), _two(0.94, 5)])
    assert expected_calibration_error(far, target) == pytest.approx(0.66)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), n_bins=st.integers(1, 20))
def test_ece_equals_its_definition(seed: int, n: int, n_bins: int) -> None:
    """Guo et al. 2017, equation 3: sum over bins of |B| / n * |accuracy(B) - confidence(B)|."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(K) / 2, n)
    target = rng.integers(0, K, n)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, truth in zip(probabilities.tolist(), target.tolist(), strict=True):
        confidence = max(row)
        bins.setdefault(min(int(confidence * n_bins), n_bins - 1), []).append((confidence, row.index(confidence) == truth))
    expected = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins.values()) / n
    found = expected_calibration_error(probabilities, target, n_bins)
    assert found == pytest.approx(expected)
    assert 0 <= found <= 1
    rows = reliability(probabilities, target, n_bins)
    assert sum(row["n"] for row in rows) == n
    for row in rows:
        assert row["low"] - 1e-9 <= row["confidence"] <= row["high"] + 1e-9
        assert row["high"] - row["low"] == pytest.approx(1 / n_bins)


def test_reliability_puts_the_ends_into_the_first_and_last_bin() -> None:
    rows = reliability(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0]), 2)
    assert [(row["low"], row["high"], row["n"]) for row in rows] == [(0.5, 1.0, 2)]
    assert metrics.N_BINS == 15


# Temperature


@given(temperature=st.floats(0.3, 5.0), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_temperature_recovers_a_planted_one(temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (3000, K))
    chances = np.exp(log_softmax(logits))
    target = (chances.cumsum(axis=1) > rng.random((3000, 1))).argmax(axis=1)
    assert fit_temperature(logits * temperature, target) == pytest.approx(temperature, rel=0.15)


def test_temperature_is_the_best_on_a_grid_and_keeps_the_answers() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, K)).astype(np.float32)
    target = np.where(rng.random(200) < 0.7, logits.argmax(axis=1), rng.integers(0, K, 200))

    def loss(t: float) -> float:
        # the prior weighs as one image among the 200
        return negative_log_likelihood(np.exp(log_softmax(logits / t)), target) + np.log(t) ** 2 / 2 / 200

    best = fit_temperature(logits, target)
    assert loss(best) <= min(loss(t) for t in np.geomspace(0.05, 20, 200)) + 1e-6
    np.testing.assert_array_equal((logits / best).argmax(axis=1), logits.argmax(axis=1))


def test_a_few_images_do_not_drive_the_temperature_to_its_bounds() -> None:
    logits = np.array([[0.2, 0.0], [0.0, 0.2]])
    # always right: colder, always wrong: hotter; neither without end
    assert 0.5 < fit_temperature(logits, np.array([0, 1])) < 1
    assert 1 < fit_temperature(logits, np.array([1, 0])) < 2
    perfect = np.tile([[30.0, 0.0], [0.0, 30.0]], (20, 1))
    assert fit_temperature(perfect, np.tile([0, 1], 20)) > 0.5
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64)) == 1.0
