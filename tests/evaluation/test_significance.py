"""Paired tests against scipy, against counts of every possibility, and against what a test must keep to."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from report_comparison_fakes import CLASSES, drawn_answers, k_fold_answers, make_answered
from scipy.stats import binomtest

from hemalens.errors import InputError, ReportError
from hemalens.evaluation import metrics
from hemalens.evaluation import significance as comparisons
from hemalens.evaluation.results import Comparison, Estimate, Evaluation
from hemalens.evaluation.significance import NotCompared, compare, holm, not_compared, sign_flip_p_value, standings

TRUTH = np.repeat(np.arange(4), [40, 20, 12, 8])
P = st.lists(st.floats(0, 1), max_size=12)


def _method(name: str, p_right: float, *, seed: int, n_models: int = 1, **changes: Any) -> Evaluation:
    answers = drawn_answers(np.random.default_rng(seed), TRUTH, p_right, n_models)
    return make_answered(name, TRUTH.tolist(), answers, **changes)


def _pair(*evaluations: Evaluation, seed: int = 0) -> Comparison:
    (found,) = compare(evaluations, seed=seed)
    return found


# Holm's correction


def _holm_from_definition(p: list[float]) -> list[float]:
    """The largest of (m - j + 1) p_(j) over all j up to the rank (Holm 1979), ties in any order."""
    ordered = sorted(p)
    at = [max(min(1.0, (len(p) - j) * ordered[j]) for j in range(rank + 1)) for rank in range(len(p))]
    return [at[ordered.index(value)] for value in p]


def test_holm_of_a_hand_made_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(p=P)
def test_holm_equals_its_definition(p: list[float]) -> None:
    assert holm(p) == pytest.approx(_holm_from_definition(p))


@given(p=P, seed=st.integers(0, 99))
def test_holm_is_monotone_at_least_the_raw_p_at_most_one_and_blind_to_order(p: list[float], seed: int) -> None:
    corrected = holm(p)
    assert all(raw <= value <= 1 for raw, value in zip(p, corrected, strict=True))
    assert all(corrected[i] <= corrected[j] for i in range(len(p)) for j in range(len(p)) if p[i] <= p[j])
    order = np.random.default_rng(seed).permutation(len(p))
    assert holm([p[i] for i in order]) == [corrected[i] for i in order]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(value: float) -> None:
    with pytest.raises(InputError, match=r"invalid p-value; expected a number in \[0, 1\]; got"):
        holm([0.5, value])


# Accuracy: McNemar's test and sign flips


@given(first=st.integers(0, 40), second=st.integers(0, 40), same=st.integers(0, 5))
def test_sign_flips_of_single_answers_are_the_exact_test_of_mcnemar(first: int, second: int, same: int) -> None:
    differences = np.array([1] * first + [-1] * second + [0] * same, np.int64)
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert sign_flip_p_value(differences) == pytest.approx(expected)


@given(values=st.lists(st.integers(-9, 9), max_size=9))
def test_sign_flips_are_counted_over_every_choice_of_signs(values: list[int]) -> None:
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    assert sign_flip_p_value(np.array(values, np.int64)) == pytest.approx(np.mean(np.array(sums) >= abs(sum(values))))


@pytest.mark.parametrize("n_models", [1, 4])
def test_mcnemar_where_each_image_has_one_answer(n_models: int) -> None:
    rng = np.random.default_rng(1)
    answers = [k_fold_answers(drawn_answers(rng, TRUTH, p, n_models)) for p in (0.9, 0.7)]
    found = _pair(*(make_answered(name, TRUTH.tolist(), table) for name, table in zip("AB", answers, strict=True)))
    a, b = ((table == TRUTH).any(axis=0) for table in answers)
    assert (found.first_only, found.second_only) == ((a & ~b).sum(), (b & ~a).sum())
    assert (found.test, found.n_models, found.n_units, found.n_images) == ("McNemar, exact", n_models, 80, 80)
    assert found.p_accuracy == pytest.approx(binomtest(int((a & ~b).sum()), int((a ^ b).sum()), 0.5).pvalue)
    assert found.p_accuracy_holm == found.p_accuracy


def test_sign_flips_where_several_models_answer_or_images_are_grouped() -> None:
    several = [_method(name, 0.8, seed=i, n_models=3) for i, name in enumerate("AB")]
    units = (np.arange(len(TRUTH)) // 4).tolist()
    grouped = [_method(name, 0.8, seed=i, units=units) for i, name in enumerate("AB")]
    for pair, unit in ((several, np.arange(len(TRUTH))), (grouped, np.array(units))):
        found = _pair(*pair)
        assert (found.test, found.n_units) == ("sign flips, exact", len(set(unit.tolist())))
        a, b = (np.array(e.answers.answers if e.answers else ()) == TRUTH for e in pair)
        of_unit = np.bincount(unit, (a.astype(int) - b).sum(axis=0)).astype(np.int64)
        assert found.p_accuracy == sign_flip_p_value(of_unit)
        assert found.first_only == pytest.approx((a & ~b).sum() / len(a))
        assert found.second_only == pytest.approx((b & ~a).sum() / len(a))


# Balanced accuracy: paired bootstrap and sign flips


def _tables(pair: tuple[Evaluation, ...]) -> list[NDArray[np.int64]]:
    return [np.array(evaluation.answers.answers) for evaluation in pair if evaluation.answers]


@pytest.mark.parametrize("kind", ["one model", "several models", "folds", "groups"])
def test_difference_is_that_of_the_scores_and_its_interval_that_of_resampled_confusions(kind: str) -> None:
    n_models = 1 if kind in ("one model", "groups") else 3
    units = np.arange(len(TRUTH)) // (5 if kind == "groups" else 1)
    pair = []
    for i, p_right in enumerate((0.9, 0.75)):
        answers = drawn_answers(np.random.default_rng(i), TRUTH, p_right, n_models)
        answers = k_fold_answers(answers) if kind == "folds" else answers
        pair.append(make_answered("AB"[i], TRUTH.tolist(), answers, units=units.tolist()))
    found = _pair(*pair)
    values = [evaluation.scores.balanced_accuracy.value or 0.0 for evaluation in pair]
    assert found.difference.value == pytest.approx(values[0] - values[1])
    models = [
        metrics.Predictions(TRUTH[row >= 0], row[row >= 0], units[row >= 0]) for t in _tables(tuple(pair)) for row in t
    ]
    resampled = metrics.resampled_confusions(models, len(CLASSES), rng=np.random.default_rng(7), n_repeats=4000)
    assert resampled is not None
    scores = metrics.balanced_accuracy(resampled)
    drawn = scores[:n_models].mean(axis=0) - scores[n_models:].mean(axis=0)
    limits = (found.difference.low, found.difference.high)
    np.testing.assert_allclose(limits, np.percentile(drawn, [2.5, 97.5]), atol=0.012)
    assert limits[0] is not None
    assert limits[0] < values[0] - values[1] < (limits[1] or 0.0)


@given(seed=st.integers(0, 1000), n_models=st.integers(1, 3), folds=st.booleans(), size=st.integers(1, 3))
@settings(max_examples=25)
def test_bootstrap_scores_what_the_drawn_confusions_score(seed: int, n_models: int, folds: bool, size: int) -> None:
    """The same draws, through `resampled_confusions`: also where a fold has no image of a class, or none at all."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=14)
    # classes and units as they are numbered after sorting
    truth = np.unique(truth, return_inverse=True)[1]
    units = np.arange(14) // size
    tables = [drawn_answers(rng, truth, 0.6, n_models) for _ in range(2)]
    tables = [k_fold_answers(table) if folds else table for table in tables]
    sheets = comparisons._groups(
        [make_answered(n, truth.tolist(), t, units=units) for n, t in zip("AB", tables, strict=True)]
    )
    found = comparisons._bootstrap(comparisons._count_correct(sheets[0]), 200, np.random.default_rng(3))
    for table, scores in zip(tables, found.T, strict=True):
        models = [metrics.Predictions(truth[row >= 0], row[row >= 0], units[row >= 0]) for row in table]
        resampled = metrics.resampled_confusions(models, 4, rng=np.random.default_rng(3), n_repeats=200)
        assert resampled is not None
        of_model = metrics.balanced_accuracy(resampled)
        tells = ~np.isnan(of_model)
        expected = np.where(tells, of_model, 0).sum(axis=0) / tells.sum(axis=0)
        np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_p_of_the_bootstrap_is_two_sided_and_never_zero() -> None:
    drawn = np.array([0.1] * 97 + [-0.1, 0.0])
    assert comparisons._bootstrap_p_value(drawn) == pytest.approx(2 * (1 + 2) / 100)
    assert comparisons._bootstrap_p_value(-drawn) == pytest.approx(2 * (1 + 2) / 100)
    assert comparisons._bootstrap_p_value(np.full(99, 0.1)) == pytest.approx(2 / 100)
    assert comparisons._bootstrap_p_value(np.full(99, 1e-17)) == 1.0


def test_p_of_random_flips_is_near_the_count_of_every_choice_of_signs() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, (10, 3))
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    exact = (np.abs(signs @ differences) >= np.abs(differences.sum(axis=0)) - 1e-12).mean(axis=0)
    found = comparisons._random_flip_p_values(differences, 20_000, np.random.default_rng(1))
    np.testing.assert_allclose(found, exact, atol=0.012)
    # equal methods, whatever the rounding
    assert comparisons._random_flip_p_values(np.zeros((10, 1)), 99, np.random.default_rng(1)).tolist() == [1.0]


def test_one_image_of_a_rare_class_makes_no_method_better() -> None:
    """All that is drawn from a class of one image is this image: the bootstrap alone takes it for certain."""
    truth = [0] * 50 + [1] * 50 + [2]
    good, bad = list(truth), [*truth[:-1], 0]
    found = _pair(make_answered("A", truth, good), make_answered("B", truth, bad))
    assert (found.difference.low, found.difference.high) == pytest.approx((1 / 3, 1 / 3))
    assert (found.p_difference, found.p_accuracy, found.better) == (1.0, 1.0, None)


def test_equal_answers_are_told_apart_by_nothing() -> None:
    found = _pair(_method("A", 0.8, seed=0, n_models=2), _method("B", 0.8, seed=0, n_models=2))
    assert (found.p_accuracy, found.p_difference, found.better) == (1.0, 1.0, None)
    assert found.difference == Estimate(value=0.0, low=0.0, high=0.0)


@pytest.mark.parametrize("n_models", [1, 3])
def test_equal_methods_are_rarely_told_apart(n_models: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the level 0.05, of 200 pairs no more than 5 % and three standard deviations; rare classes among them."""
    monkeypatch.setattr(comparisons, "N_REPEATS", 200)
    truth = np.repeat(np.arange(4), [60, 30, 6, 2])
    small, rng = np.zeros(2), np.random.default_rng(5)
    for seed in range(200):
        pair = [make_answered(name, truth.tolist(), drawn_answers(rng, truth, 0.8, n_models)) for name in "AB"]
        found = _pair(*pair, seed=seed)
        small += (found.p_accuracy < 0.05, found.p_difference < 0.05)
    assert small.max() <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05 * 0.95)
    assert small.min() >= 1


# Families, names, order


def test_pairs_of_each_source_and_target_are_corrected_together_and_the_better_is_named() -> None:
    here = [_method(name, p, seed=i) for i, (name, p) in enumerate({"A": 0.95, "B": 0.6, "C": 0.62}.items())]
    there = [_method(name, p, seed=9 + i, target="lab_c") for i, (name, p) in enumerate({"A": 0.9, "B": 0.6}.items())]
    found = compare([here[0], there[0], *here[1:], there[1]], seed=0)
    assert [(c.target, c.first, c.second) for c in found] == [
        *(("lab_b", *pair) for pair in ("AB", "AC", "BC")),
        ("lab_c", "A", "B"),
    ]
    for family in (found[:3], found[3:]):
        assert [c.p_accuracy_holm for c in family] == holm([c.p_accuracy for c in family])
        assert [c.p_difference_holm for c in family] == holm([c.p_difference for c in family])
    assert [c.better for c in found] == ["A", "A", None, "A"]
    assert all((c.better is not None) == (c.p_difference_holm < 0.05) for c in found)


def test_order_of_methods_and_images_turns_signs_alone() -> None:
    a, b = _method("A", 0.9, seed=0, n_models=2), _method("B", 0.75, seed=1, n_models=2)
    found, turned = _pair(a, b), _pair(b, a)
    order = np.random.default_rng(0).permutation(len(TRUTH))
    names = [f"{i:016x}" for i in order]
    shuffled = [
        make_answered(e.method, TRUTH[order].tolist(), t[:, order], images=names, units=order.tolist())
        for e, t in zip((a, b), _tables((a, b)), strict=True)
    ]
    assert _pair(*shuffled) == found
    assert (turned.first_only, turned.second_only) == (found.second_only, found.first_only)
    assert (turned.p_accuracy, turned.p_difference) == (found.p_accuracy, found.p_difference)
    assert turned.difference.value == pytest.approx(-(found.difference.value or 0.0))
    assert turned.difference.low == pytest.approx(-(found.difference.high or 0.0))


def test_a_pair_is_the_same_whatever_else_is_compared_and_for_the_same_seed() -> None:
    a, b, c = (_method(name, 0.8, seed=i) for i, name in enumerate("ABC"))
    alone, among = _pair(a, b), compare([c, a, b], seed=0)[-1]
    uncorrected = {"p_accuracy_holm": 0.0, "p_difference_holm": 0.0, "better": None}
    assert alone.model_copy(update=uncorrected) == among.model_copy(update=uncorrected)
    assert _pair(a, b) == alone
    assert _pair(a, b, seed=1).difference.value == alone.difference.value
    assert _pair(a, b, seed=1) != alone


def test_repeats_grow_with_the_family_so_that_a_corrected_p_can_be_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "N_REPEATS", 10)
    found = compare([_method(str(i), 0.95 if i == 0 else 0.4, seed=i) for i in range(8)], seed=0)
    assert [c.better for c in found if c.first == "0"] == ["0"] * 7
    assert comparisons.REPEATS_A_PAIR * 0.05 > 2


def test_transductive_methods_are_marked() -> None:
    found = _pair(_method("A", 0.8, seed=0), _method("B", 0.8, seed=1, transductive=True))
    assert (found.first_transductive, found.second_transductive) == (False, True)


# What cannot be compared


def _others() -> dict[str, tuple[Evaluation, str]]:
    truth = TRUTH.tolist()
    (row,) = _tables((_method("B", 0.8, seed=1),))[0]
    other_names = [f"{i + 30:016x}" for i in range(80)]
    swapped = [*truth[:-1], 0]
    both = np.stack([row, row])
    return {
        "images": (
            make_answered("B", truth, row, images=other_names),
            "they were not tested on the same images (80 and 80; 50 in common)",
        ),
        "truth": (make_answered("B", swapped, row), "the same images have other true cell types"),
        "units": (
            make_answered("B", truth, row, units=[i // 2 for i in range(80)]),
            "the same images are grouped in another way",
        ),
        "models": (make_answered("B", truth, both), "they have 1 and 2 models"),
    }


@pytest.mark.parametrize("what", ["images", "truth", "units", "models"])
def test_different_images_or_models_are_told_and_not_compared(what: str) -> None:
    other, reason = _others()[what]
    first, third = _method("A", 0.8, seed=0), _method("C", 0.8, seed=2)
    found = compare([first, other, third], seed=0)
    assert [(c.first, c.second) for c in found] == [("A", "C")]
    assert not_compared([first, other, third]) == (NotCompared("lab_a", "lab_b", ("A", "C"), ("B",), reason),)


def test_folds_of_other_images_are_told_and_not_compared() -> None:
    answers = drawn_answers(np.random.default_rng(0), TRUTH, 0.8, 2)
    folds = k_fold_answers(answers)
    pair = [make_answered("A", TRUTH.tolist(), folds), make_answered("B", TRUTH.tolist(), folds[::-1])]
    assert compare(pair, seed=0) == ()
    assert not_compared(pair)[0].reason == "their models were not tested on the same images"


def test_answers_that_are_not_kept_and_names_given_twice_are_told() -> None:
    a, b = _method("A", 0.8, seed=0), _method("B", 0.8, seed=1)
    silent = [_method(name, 0.8, seed=2, answers=None) for name in "CD"]
    empty = make_answered("E", TRUTH.tolist(), TRUTH).model_copy(
        update={
            "answers": make_answered("E", [0], [0]).answers.model_copy(
                update=dict.fromkeys(("images", "units", "truth"), ())
            )
        }  # type: ignore[union-attr]
    )
    every = [a, b, *silent, empty, _method("F", 0.8, seed=3), _method("F", 0.7, seed=4)]
    assert [(c.first, c.second) for c in compare(every, seed=0)] == [("A", "B")]
    assert not_compared(every) == (
        NotCompared("lab_a", "lab_b", ("F",), (), "several evaluations have this name"),
        NotCompared("lab_a", "lab_b", ("C", "D", "E"), (), "their predictions of each image are missing"),
    )


def test_one_method_alone_and_labels_in_another_order_are_no_gap() -> None:
    a = _method("A", 0.8, seed=0)
    assert compare([a, _method("A", 0.8, seed=0, target="lab_c")], seed=0) == not_compared([a]) == compare([], seed=0) == ()
    turned = make_answered("B", (3 - TRUTH).tolist(), 3 - _tables((a,))[0], classes=CLASSES[::-1])
    assert not_compared([a, turned]) == ()
    assert _pair(a, turned).p_accuracy == 1.0
    # units are the same groups, whatever their numbers
    assert not_compared([a, make_answered("B", TRUTH.tolist(), TRUTH, units=range(100, 180))]) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"units": (0,)}, "a unit, a true class and a prediction of each model for each image, and no image twice"),
        ({"images": ("a", "a")}, "no image twice"),
        ({"answers": ()}, "a prediction of each model"),
        ({"answers": ((0, 1, 2),)}, "a prediction of each model"),
        ({"truth": (0, 4)}, "indices of its 4 classes, and -1 for untested images"),
        ({"answers": ((0, -2),)}, "indices of its 4 classes"),
        ({"answers": ((0, -1),)}, "a prediction or more for every image and of every model"),
        ({"answers": ((0, 0), (-1, -1))}, "a prediction or more for every image and of every model"),
    ],
)
def test_inconsistent_predictions_are_refused(changes: dict[str, Any], expected: str) -> None:
    sound = make_answered("A", [0, 1], [0, 1])
    assert sound.answers is not None
    damaged = sound.model_copy(update={"answers": sound.answers.model_copy(update=changes)})
    with pytest.raises(ReportError, match=r"the predictions of 'A: lab_a -> lab_b' are inconsistent; expected") as error:
        compare([damaged, sound.model_copy(update={"method": "B"})], seed=0)
    assert expected in str(error.value)


# Who is best


def test_best_is_better_than_every_other_one() -> None:
    every = [_method(name, p, seed=i) for i, (name, p) in enumerate({"B": 0.7, "A": 0.97, "C": 0.72}.items())]
    (standing,) = standings(every, compare(every, seed=0))
    assert (standing.highest.method, standing.is_best, standing.n_methods, standing.n_comparisons) == ("A", True, 3, 3)
    assert standing.not_told_apart == standing.not_compared == ()


def test_who_is_not_told_apart_or_not_compared_leaves_no_best() -> None:
    every = [_method(name, p, seed=i) for i, (name, p) in enumerate({"A": 0.95, "B": 0.94, "C": 0.5}.items())]
    (standing,) = standings(every, compare(every, seed=0))
    assert [e.method for e in standing.not_told_apart] == [e.method for e in every[:2] if e is not standing.highest]
    assert not standing.is_best
    alone = [every[0], every[2], _method("D", 0.3, seed=5, answers=None)]
    (standing,) = standings(alone, compare(alone, seed=0))
    assert ([e.method for e in standing.not_compared], standing.not_told_apart) == (["D"], ())
    assert (standing.is_best, standing.n_methods, standing.n_comparisons) == (False, 3, 1)
    assert standings(every, ()) == ()
