"""Few-shot classification against its definition, in plain loops; its graph, its grammar, and leaving one out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from hemalens.classifiers.few_shot import COSINE_SCALE, FewShotConfig, PrototypeClassifier, few_shot_graph, leave_one_out
from hemalens.errors import ConfigError, InputError

Floats = NDArray[np.float64]
NAMES = ("monocyte", "blast", "neutrophil", "erythroblast", "basophil")
"""Not in the order of the alphabet, as a user's labels are not."""
WAYS = [
    {"rule": rule, "normalise": normalise, "centre": centre, "n_prototypes": n}
    for rule, normalise, centre, n in itertools.product(
        ("prototype", "nearest_neighbour", "logistic_regression"), (False, True), ("none", "support", "target"), (1, 2)
    )
    if n == 1 or rule == "prototype"
]


def _name(way: dict[str, Any]) -> str:
    return "-".join(str(value) for value in way.values())


each_way = pytest.mark.parametrize("way", WAYS, ids=_name)


def _float32(values: Any) -> Floats:
    """What a graph can hold, as float64."""
    return np.asarray(values, np.float32).astype(np.float64)


def _cells(seed: int, sizes: Sequence[int], d: int, n_queries: int = 9) -> tuple[Floats, NDArray[Any], Floats]:
    """Support (n, d) in random order with its labels, and queries (m, d), around a mean that is not zero."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = rng.normal(0, 1, (len(sizes), d))
    shift = rng.normal(0, 1, d)
    support = shift + centres[index] + rng.normal(0, 0.5, (len(index), d))
    queries = shift + centres[rng.integers(len(sizes), size=n_queries)] + rng.normal(0, 0.5, (n_queries, d))
    return _float32(support), np.array(NAMES)[index], _float32(queries)


shapes = st.tuples(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(2, 24), st.integers(0, 10_000))


def _unit(vector: Floats) -> Floats:
    length = math.sqrt(sum(v * v for v in vector.tolist()))
    return vector / length if length else vector


def _by_definition(
    way: dict[str, Any], support: Floats, labels: NDArray[Any], queries: Floats, unlabelled: Floats | None = None
) -> Floats:
    """Cosine (m, k) to the mean of each class, or to its nearest image, of what is centred first."""
    origin = np.zeros(support.shape[1])
    if way["centre"] == "support":
        origin = sum(support) / len(support)
    if way["centre"] == "target":
        assert unlabelled is not None
        origin = sum(unlabelled) / len(unlabelled)
    learned = [_unit(x - origin) if way["normalise"] else x - origin for x in support]
    rows = []
    for query in queries:
        row = []
        for label in sorted(set(labels.tolist())):
            members = [x for x, own in zip(learned, labels, strict=True) if own == label]
            means = [sum(members) / len(members)] if way["rule"] == "prototype" else members
            row.append(max(float(_unit(query - origin) @ _unit(np.asarray(mean))) for mean in means))
        rows.append(row)
    return np.array(rows)


def _run(fitted: PrototypeClassifier, queries: Floats) -> Floats:
    """The graph's answers."""
    graph = few_shot_graph(fitted)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (answers,) = session.run(["raw_logits"], {"embedding": queries.astype(np.float32)})
    return np.asarray(answers, np.float64)


def _fit(way: dict[str, Any], support: Floats, labels: NDArray[Any], queries: Floats) -> PrototypeClassifier:
    return PrototypeClassifier(**way).fit(support, labels, queries if way["centre"] == "target" else None)


# ------------------------------------------------------------------------------------------------------- definitions


@pytest.mark.parametrize(
    "way", [w for w in WAYS if w["rule"] != "logistic_regression" and w["n_prototypes"] == 1], ids=_name
)
@given(shape=shapes)
@settings(max_examples=8)
def test_class_means_and_nearest_images_are_those_of_the_definition(
    way: dict[str, Any], shape: tuple[list[int], int, int]
) -> None:
    sizes, d, seed = shape
    support, labels, queries = _cells(seed, sizes, d)
    fitted = _fit(way, support, labels, queries)
    cosine = _by_definition(way, support, labels, queries, queries)
    assert COSINE_SCALE == 64
    np.testing.assert_allclose(fitted.decision_function(queries), 64 * cosine, atol=1e-8)
    np.testing.assert_array_equal(fitted.predict(queries), np.array(sorted(set(labels)))[cosine.argmax(axis=1)])
    powers = np.exp(64 * (cosine - cosine.max(axis=1, keepdims=True)))
    np.testing.assert_allclose(fitted.predict_proba(queries), powers / powers.sum(axis=1, keepdims=True), atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("c", "d"), [(0.1, 6), (10.0, 6), (1.0, 60)])
@pytest.mark.parametrize("way", [w for w in WAYS if w["rule"] == "logistic_regression"], ids=_name)
def test_logistic_regression_is_scikit_learn_s_on_what_is_centred_and_of_unit_length(
    *, way: dict[str, Any], n_classes: int, c: float, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more images than dimensions, and with fewer."""
    exact = partial(LogisticRegression, tol=1e-9)
    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", exact)
    support, labels, queries = _cells(3, [7] * n_classes, d)
    fitted = _fit({**way, "c": c}, support, labels, queries)
    origin = {"none": 0 * support[0], "support": support.mean(axis=0), "target": queries.mean(axis=0)}[way["centre"]]
    moved, asked = support - origin, queries - origin
    if way["normalise"]:
        moved, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (moved, asked))
    direct = exact(C=c, max_iter=2000).fit(moved, labels)
    np.testing.assert_array_equal(fitted.classes_, direct.classes_)
    np.testing.assert_allclose(fitted.predict_proba(queries), direct.predict_proba(asked), atol=1e-5)
    logits = fitted.decision_function(queries)
    found = logits[:, 1] - logits[:, 0] if n_classes == 2 else logits
    np.testing.assert_allclose(found, direct.decision_function(asked), atol=1e-4)
    np.testing.assert_array_equal(fitted.predict(queries), direct.predict(asked))


def test_several_means_a_class_are_those_of_its_clusters() -> None:
    """Two far and tight heaps a class: k-means must find them, whatever the start."""
    rng = np.random.default_rng(0)
    heaps = 10 * np.eye(4)
    index = np.repeat(np.arange(4), 6)
    support = heaps[index] + rng.normal(0, 0.1, (24, 4))
    labels = index // 2
    fitted = PrototypeClassifier(n_prototypes=2).fit(support, labels)
    queries = rng.normal(0, 1, (10, 4))
    means = np.array([support[index == heap].mean(axis=0) for heap in range(4)])
    cosine = np.array([[_unit(q) @ _unit(m) for m in means] for q in queries])
    expected = np.stack([cosine[:, :2].max(axis=1), cosine[:, 2:].max(axis=1)], axis=1)
    np.testing.assert_allclose(fitted.decision_function(queries), 64 * expected, atol=1e-6)
    assert [p.shape for p in fitted.prototypes_] == [(2, 4), (2, 4)]


@given(shape=shapes, normalise=st.booleans())
@settings(max_examples=10)
def test_with_no_more_points_than_prototypes_each_point_is_one(shape: tuple[list[int], int, int], normalise: bool) -> None:
    sizes, d, seed = shape
    support, labels, queries = _cells(seed, sizes, d)
    # a copy is no further point
    support, labels = np.concatenate([support, support[:1]]), np.append(labels, labels[0])
    nearest = PrototypeClassifier("nearest_neighbour", normalise=normalise).fit(support, labels)
    many = PrototypeClassifier(n_prototypes=5, normalise=normalise).fit(support, labels)
    np.testing.assert_allclose(many.decision_function(queries), nearest.decision_function(queries), atol=1e-6)


def test_prototypes_of_nearly_the_same_points_give_no_warning() -> None:
    """Embeddings of a picture saved twice differ in the last digit of a float32."""
    rng = np.random.default_rng(0)
    point = rng.normal(5, 1, 200).astype(np.float32)
    near = point.copy()
    near[0] = np.nextafter(near[0], np.float32(9))
    rows = np.stack([point, near, point + 1, point - 1, near + 1, near - 1]).astype(np.float64)
    fitted = PrototypeClassifier(n_prototypes=3).fit(rows, [0, 0, 0, 1, 1, 1])
    assert np.isfinite(fitted.decision_function(rows)).all()


def test_the_same_seed_gives_the_same_means() -> None:
    support, labels, queries = _cells(1, [12, 12], 5)
    a, b = (PrototypeClassifier(n_prototypes=4, random_state=7).fit(support, labels) for _ in range(2))
    np.testing.assert_array_equal(a.decision_function(queries), b.decision_function(queries))


def test_unit_length_first_changes_the_mean_and_centring_the_angle() -> None:
    support = np.array([[10.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = np.array(["a", "a", "b"])
    query = np.array([[1.0, 1.0]])
    plain, unit, centred = (
        PrototypeClassifier(normalise=n, centre=c).fit(support, labels).decision_function(query) / 64  # type: ignore[arg-type]
        for n, c in ((False, "none"), (True, "none"), (False, "support"))
    )
    # (5, 0.5), then (0.5, 0.5); the support's mean is (3, 1/3)
    assert plain[0, 0] == pytest.approx(5.5 / math.hypot(5, 0.5) / math.sqrt(2))
    assert unit[0, 0] == pytest.approx(1)
    assert centred[0, 0] == pytest.approx((-2 * 2 + (2 / 3) * (1 / 6)) / math.hypot(2, 2 / 3) / math.hypot(2, 1 / 6))


# --------------------------------------------------------------------------------------------------- scikit-learn way


def test_parameters_are_got_set_and_cloned() -> None:
    classifier = PrototypeClassifier("logistic_regression", normalise=True, centre="support", c=3.0, random_state=4)
    assert classifier.get_params() == {
        "rule": "logistic_regression",
        "normalise": True,
        "centre": "support",
        "n_prototypes": 1,
        "c": 3.0,
        "random_state": 4,
    }
    support, labels, queries = _cells(0, [3, 3], 4)
    classifier.fit(support, labels)
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(queries)
    changed = clone(classifier).set_params(rule="prototype", normalise=False, centre="none").fit(support, labels)
    published = PrototypeClassifier().fit(support, labels)
    np.testing.assert_array_equal(changed.decision_function(queries), published.decision_function(queries))
    with pytest.raises(ValueError, match="Invalid parameter 'metric'"):
        copy.set_params(metric="euclidean")


@each_way
def test_unfitted_it_answers_nothing(way: dict[str, Any]) -> None:
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(PrototypeClassifier(**way), method)(np.zeros((1, 3)))


@each_way
def test_labels_may_be_words_or_numbers_and_come_in_any_order(way: dict[str, Any]) -> None:
    support, labels, queries = _cells(5, [4, 3, 5], 6)
    words = _fit(way, support, labels, queries)
    assert words.classes_.tolist() == sorted(set(labels.tolist()))
    assert words.n_features_in_ == 6
    numbers = np.searchsorted(words.classes_, labels)
    as_lists = PrototypeClassifier(**way).fit(
        support.tolist(), (10 * numbers).tolist(), queries.tolist() if way["centre"] == "target" else None
    )
    assert as_lists.classes_.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(words.decision_function(queries), as_lists.decision_function(queries))
    np.testing.assert_array_equal(np.searchsorted(words.classes_, words.predict(queries)) * 10, as_lists.predict(queries))
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = _fit(way, support[order], labels[order], queries)
    if way["n_prototypes"] == 1:
        np.testing.assert_allclose(shuffled.decision_function(queries), words.decision_function(queries), atol=1e-3)
    assert 0 <= words.score(support, labels) <= 1


@pytest.mark.parametrize("labels", [["a", "a"], ["a"]])
def test_a_support_of_one_class_is_refused(labels: list[str]) -> None:
    with pytest.raises(InputError, match="one class only; expected labelled images of at least two classes"):
        PrototypeClassifier().fit(np.eye(2)[: len(labels)], labels)


def test_centring_on_a_target_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="centre=target"):
        PrototypeClassifier(centre="target").fit(np.eye(2), ["a", "b"])


def test_the_target_s_images_move_the_centre_and_nothing_else_does() -> None:
    support, labels, queries = _cells(0, [3, 3], 4)
    shifted = PrototypeClassifier(centre="target").fit(support + 5, labels, queries + 5)
    here = PrototypeClassifier(centre="target").fit(support, labels, queries)
    np.testing.assert_allclose(shifted.decision_function(queries + 5), here.decision_function(queries), atol=1e-8)
    np.testing.assert_allclose(here.centre_, queries.mean(axis=0))
    ignored = PrototypeClassifier().fit(support, labels, queries)
    np.testing.assert_array_equal(ignored.centre_, 0)


# ------------------------------------------------------------------------------------------------------------- graph


@each_way
@given(shape=shapes)
@settings(max_examples=4)
def test_the_graph_says_what_the_classifier_says(way: dict[str, Any], shape: tuple[list[int], int, int]) -> None:
    sizes, d, seed = shape
    support, labels, queries = _cells(seed, sizes, d)
    fitted = _fit(way, support, labels, queries)
    # what lies close to the centre has no direction in float32
    length = np.linalg.norm(queries - fitted.centre_, axis=1)
    queries = queries[length > 0.2 * np.linalg.norm(queries, axis=1)]
    np.testing.assert_allclose(_run(fitted, queries), fitted.decision_function(queries), atol=1e-4)


@each_way
def test_a_zero_vector_is_like_nothing_and_harms_nothing(way: dict[str, Any]) -> None:
    support = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0], [0.0, 3.0, 3.0], [0.0, -3.0, -3.0], [1.0, 1.0, 1.0]])
    labels = np.array(["a", "a", "b", "b", "c"])
    queries = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.5]])
    fitted = _fit(way, support, labels, queries)
    at_the_centre = np.concatenate([queries, fitted.centre_[None]])
    logits = fitted.decision_function(at_the_centre)
    assert np.isfinite(logits).all()
    assert np.isfinite(_run(fitted, at_the_centre)).all()
    np.testing.assert_allclose(_run(fitted, queries), logits[:2], atol=1e-4)
    if way["rule"] != "logistic_regression":
        assert np.abs(logits).max() <= 64 + 1e-9
        assert np.abs(logits[2]).max() < 1e-9, "the centre itself has no direction"


def test_the_graph_declares_its_names_and_sizes() -> None:
    support, labels, queries = _cells(0, [2, 3, 4], 7)
    graph = few_shot_graph(_fit(WAYS[0], support, labels, queries)).graph
    assert [value.name for value in graph.input] == ["embedding"]
    assert [value.name for value in graph.output] == ["raw_logits"]
    assert graph.input[0].type.tensor_type.shape.dim[1].dim_value == 7
    assert graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3


# ------------------------------------------------------------------------------------------------------ leave one out


@pytest.mark.parametrize("way", [w for w in WAYS if w["n_prototypes"] == 1 and w["centre"] != "target"], ids=_name)
def test_leaving_one_out_is_a_loop_over_the_units(way: dict[str, Any]) -> None:
    support, labels, _ = _cells(2, [4, 3, 5], 5)
    targets = np.searchsorted(np.unique(labels), labels)
    unit = np.array([0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9])
    found = leave_one_out(FewShotConfig(**way), support, targets, unit)
    for i in range(len(targets)):
        others = [j for j in range(len(targets)) if unit[j] != unit[i]]
        assert len({targets[j] for j in others}) == 3
        if way["rule"] == "logistic_regression":
            expected = PrototypeClassifier(**way).fit(support[others], targets[others]).decision_function(support[[i]])
        else:
            expected = 64 * _by_definition(way, support[others], targets[others], support[[i]])
        np.testing.assert_allclose(found[i], expected[0], atol=1e-8)


def test_a_class_that_vanishes_with_its_unit_is_unknown() -> None:
    support, _, _ = _cells(0, [7], 4)
    targets = np.array([0, 0, 1, 1, 2, 2, 2])
    # both images of class 1 are one unit; class 2 has one of its images with class 0
    unit = np.array([0, 1, 2, 2, 0, 3, 4])
    found = leave_one_out(FewShotConfig(), support, targets, unit)
    missing = np.zeros((7, 3), bool)
    missing[[2, 3], 1] = True
    np.testing.assert_array_equal(np.isneginf(found), missing)
    others = [0, 1, 4, 5, 6]
    expected = 64 * _by_definition(WAYS[0], support[others], targets[others], support[[2]])
    np.testing.assert_allclose(found[2, [0, 2]], expected[0], atol=1e-8)


def test_what_would_leave_one_class_is_not_answered() -> None:
    support, _, _ = _cells(0, [4], 4)
    targets, unit = np.array([0, 0, 0, 1]), np.arange(4)
    found = leave_one_out(FewShotConfig(), support, targets, unit)
    assert np.isneginf(found[3]).all()
    assert np.isfinite(found[:3]).all()
    alone = leave_one_out(FewShotConfig(), support[2:], np.array([0, 1]), unit[:2])
    assert np.isneginf(alone).all()


# ------------------------------------------------------------------------------------------------------------ config


def test_the_defaults_are_the_published_way() -> None:
    config = FewShotConfig()
    assert config.model_dump() == {"rule": "prototype", "normalise": False, "centre": "none", "n_prototypes": 1, "c": 1.0}
    assert not config.transductive
    classifier = config.make(random_state=3)
    assert classifier.get_params() == {**config.model_dump(), "random_state": 3}
    assert FewShotConfig(centre="target").transductive
    assert not FewShotConfig(centre="support").transductive


def test_a_configuration_says_itself_in_words() -> None:
    words = {
        "class means, cosine": FewShotConfig(),
        "up to 3 means a class, cosine": FewShotConfig(n_prototypes=3),
        "nearest image, cosine, unit length first": FewShotConfig(rule="nearest_neighbour", normalise=True),
        "logistic regression, centred on the support": FewShotConfig(rule="logistic_regression", centre="support"),
        "class means, cosine, unit length first, centred on the target": FewShotConfig(normalise=True, centre="target"),
    }
    for text, config in words.items():
        assert str(config) == text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("centr=support", "unknown key 'centr'. did you mean 'centre'"),
        ("rule=nearest", "key 'rule'; expected 'prototype', .* or 'base'; got 'nearest'"),
        ("rule=discriminant", "key 'rule'"),
        ("centre=source", "key 'centre'; expected 'none', 'support' or 'target'; got 'source'"),
        ("normalise=1", "key 'normalise'; expected .*; got 1"),
        ("n_prototypes=0", "key 'n_prototypes'; expected greater than or equal to 1; got 0"),
        ("n_prototypes=2.0", "key 'n_prototypes'"),
        ("c=0.0", "key 'c'; expected greater than 0"),
        ("random_state=1", "unknown key 'random_state'"),
    ],
)
def test_nonsense_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FewShotConfig.load(None, [setting])


def test_settings_are_read_from_the_command_line() -> None:
    config = FewShotConfig.load(None, ["rule=logistic_regression", "normalise=true", "centre=support", "c=2"])
    assert config == FewShotConfig(rule="logistic_regression", normalise=True, centre="support", c=2.0)
