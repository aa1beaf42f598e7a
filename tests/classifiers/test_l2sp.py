"""Classifiers on top of a head against their definitions; their graphs; classes that one side does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from hemalens.classifiers.few_shot import FewShotConfig, PrototypeClassifier, few_shot_graph, leave_one_out
from hemalens.classifiers.l2sp import MAX_FOLDS, PENALTIES, fit_correction, folds_of
from hemalens.errors import ConfigError

Floats = NDArray[np.float64]
seeds = st.integers(0, 10_000)


def _cells(
    seed: int, k: int = 3, n_each: int = 4, d: int = 12, spread: float = 1.0
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Embeddings (n, d) of k classes, the classes, and logits of a head that knows a little, (n, k + 1)."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.repeat(np.arange(k), n_each))
    points = rng.normal(0, 1, (k, d))[index] + rng.normal(0, spread, (len(index), d))
    base = 2 * np.eye(k, k + 1)[index] + rng.normal(0, 2, (len(index), k + 1))
    return points.astype(np.float32).astype(np.float64), index, base.astype(np.float32).astype(np.float64)


def _loss(correction: Any, points: Floats, index: NDArray[np.int64], base: Floats) -> float:
    """Weighed negative log likelihood, by its definition."""
    counts = np.bincount(index)
    total = 0.0
    for x, b, c in zip(points, base, index, strict=True):
        logits = correction.scale * b + correction.weight @ x + correction.bias
        weight = len(index) / (len(counts[counts > 0]) * counts[c])
        total -= weight * (logits[c] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
    return total


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_correction_is_the_minimum_of_its_loss(seed: int) -> None:
    points, index, base = _cells(seed)
    found = fit_correction(points, index, base, np.arange(len(index)))
    length = np.sqrt((points**2).sum(axis=1).mean())

    def whole(weight: Floats, bias: Floats, penalty: float) -> float:
        moved = type(found)(found.scale, weight, bias)
        square = ((weight * length) ** 2).sum() + (bias**2).sum()
        return _loss(moved, points, index, base) + penalty / 2 * square

    rng = np.random.default_rng(seed)
    here = [whole(found.weight, found.bias, penalty) for penalty in PENALTIES]
    least = []
    for penalty, value in zip(PENALTIES, here, strict=True):
        steps = [0.01 * rng.normal(size=found.weight.shape) / length for _ in range(6)]
        least.append(all(whole(found.weight + step, found.bias, penalty) > value - 1e-3 for step in steps))
    assert any(least), "of one of the penaltys"


def test_without_a_base_it_is_logistic_regression() -> None:
    points, index, _ = _cells(1, n_each=8)
    found = fit_correction(points, index, np.zeros((len(index), 3)), np.arange(len(index)))
    length = np.sqrt((points**2).sum(axis=1).mean())
    wide = np.concatenate([points / length, np.ones((len(points), 1))], axis=1)
    answers = (points @ found.weight.T + found.bias).argmax(axis=1)
    agree = []
    for penalty in PENALTIES:
        plain = LogisticRegression(C=1 / penalty, fit_intercept=False, max_iter=5000).fit(wide, index)
        weight = np.concatenate([found.weight * length, found.bias[:, None]], axis=1)
        agree.append(np.abs(plain.coef_ - weight).max())
        assert len(answers) == len(index)
    assert min(agree) < 0.02


def test_a_class_without_a_cell_keeps_what_the_base_knows() -> None:
    points, index, base = _cells(2)
    base[:, 3] = -20.0
    rare = np.concatenate([points, points[:1] + 9.0])
    fitted = FewShotConfig(rule="base").make().fit(points, index, base=base)
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    sure = np.concatenate([base, [[0.0, 0.0, 0.0, 200.0]]])
    assert fitted.predict(rare, sure)[-1] == 3


def test_one_cell_a_class_helps_a_head_that_is_unsure() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (4, 30))
    index = np.tile(np.arange(4), 50)
    points = centres[index] + rng.normal(0, 1.5, (200, 30))
    base = 1.5 * np.eye(4)[index] + rng.normal(0, 1.5, (200, 4))
    support, query = np.arange(4), np.arange(4, 200)

    def right(classifier: PrototypeClassifier, *more: Floats) -> float:
        return float((classifier.predict(points[query], *more) == index[query]).mean())

    both = FewShotConfig(rule="base").make().fit(points[support], index[support], base=base[support])
    assert right(both, base[query]) > float((base[query].argmax(axis=1) == index[query]).mean())


@pytest.mark.parametrize("n", [1, 5, MAX_FOLDS, 3 * MAX_FOLDS + 1])
def test_every_unit_is_left_out_once(n: int) -> None:
    unit = np.random.default_rng(n).integers(n, size=4 * n)
    parts = folds_of(unit)
    assert len(parts) == min(len(np.unique(unit)), MAX_FOLDS)
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
    for part in parts:
        assert not set(unit[part]) & set(unit[~part])


@pytest.mark.parametrize("centre", ["none", "support"])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_graph_answers_as_the_classifier(centre: Any, normalise: bool) -> None:
    points, index, base = _cells(5)
    fitted = FewShotConfig(rule="base", centre=centre, normalise=normalise).make().fit(points, index, base=base)
    graph = few_shot_graph(fitted).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = {"embedding": points.astype(np.float32), "base_logits": base.astype(np.float32)}
    (found,) = session.run(["raw_logits"], inputs)
    expected = fitted.decision_function(points, base)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def test_left_out_logits_are_those_of_a_classifier_that_has_not_seen_the_cell() -> None:
    points, index, base = _cells(6)
    config = FewShotConfig(rule="base")
    found = leave_one_out(config, points, index, np.arange(len(index)), base=base)
    assert found.shape == base.shape
    others = np.arange(len(index)) != 7
    alone = config.make().fit(points[others], index[others], base=base[others], unit=np.flatnonzero(others))
    np.testing.assert_allclose(found[7], alone.decision_function(points[[7]], base[[7]])[0], atol=1e-6)


@given(seed=seeds, factor=st.floats(0.01, 100), shift=st.floats(-50, 50))
@settings(max_examples=10, deadline=None)
def test_of_embeddings_side_by_side_each_counts_alike(seed: int, factor: float, shift: float) -> None:
    """The further part is centred, and both have one mean length: its place and its scale do not matter."""
    points, index, base = _cells(seed)
    more = _cells(seed + 1)[0][:, :7]
    joint = np.hstack([points, shift + factor * more])
    fitted = FewShotConfig(rule="base").make().fit(joint, index, base=base, parts=(12, 7))
    centred = more - more.mean(axis=0)
    level = [part / np.sqrt((part**2).sum(axis=1).mean()) for part in (points, centred)]
    alone = fit_correction(np.hstack(level), index, base, np.arange(len(index)))
    expected = alone.scale * base + np.hstack(level) @ alone.weight.T + alone.bias
    np.testing.assert_allclose(fitted.decision_function(joint, base), expected, atol=0.02)
    (session,) = (onnxruntime.InferenceSession(few_shot_graph(fitted).SerializeToString()),)
    asked = {"embedding": joint.astype(np.float32), "base_logits": base.astype(np.float32)}
    np.testing.assert_allclose(session.run(["raw_logits"], asked)[0], expected, atol=0.05)


def test_a_classifier_behind_other_columns_does_not_look_at_them() -> None:
    points, index, base = _cells(8)
    more = np.random.default_rng(0).normal(size=(len(points), 5))
    for way in (FewShotConfig(rule="base", centre="support"), FewShotConfig(rule="logistic_regression")):
        kept = {"base": base} if way.uses_base else {}
        alone = way.make().fit(points, index, **kept)
        behind = alone.shifted(5)
        expected = alone.decision_function(points, *kept.values())
        np.testing.assert_allclose(behind.decision_function(np.hstack([more, points]), *kept.values()), expected, atol=1e-9)
        assert (alone.n_features_in_, behind.n_features_in_) == (12, 17)


def test_a_base_that_is_not_given_is_refused() -> None:
    points, index, _ = _cells(7)
    with pytest.raises(ConfigError, match="rule=base needs the logits"):
        FewShotConfig(rule="base").make().fit(points, index)
