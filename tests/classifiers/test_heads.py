"""What every head keeps, over the table of heads: the published settings, and a graph that says what the head says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hemalens.classifiers.heads import HEADS, head_graph, head_logits, make_head, sample_weight_of
from hemalens.errors import ConfigError
from hemalens.graphs import build as graphs

N_FEATURES = 20
N_CLASSES = 4
Split = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def blobs() -> Split:
    """Embeddings to learn from (120, 20), their classes, and others (80, 20); classes overlap."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1.0, (N_CLASSES, N_FEATURES))
    targets = np.arange(200) % N_CLASSES
    rows = (centres[targets] + rng.normal(0, 1.0, (200, N_FEATURES))).astype(np.float32)
    # features of unlike scale: what standardises them shows
    rows *= np.geomspace(0.01, 100, N_FEATURES).astype(np.float32)
    return rows[:120], targets[:120], rows[120:]


@pytest.fixture(scope="module")
def heads(blobs: Split) -> dict[str, Any]:
    """Every head, fitted."""
    learn, targets, _ = blobs
    fitted = {name: make_head(name, seed=3) for name in HEADS}
    for head in fitted.values():
        head.fit(learn, targets)
    return fitted


@pytest.mark.parametrize("name", HEADS)
def test_the_graph_says_what_the_head_says(heads: dict[str, Any], blobs: Split, name: str) -> None:
    head, (_, _, held) = heads[name], blobs
    graph = head_graph(head, n_features=N_FEATURES, n_classes=N_CLASSES)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["raw_logits"]
    (raw,) = session.run(None, {"embedding": held})
    powers = np.exp(np.asarray(raw, np.float64))
    served = powers / powers.sum(axis=1, keepdims=True)
    assert served.shape == (len(held), N_CLASSES)
    np.testing.assert_allclose(served, head.predict_proba(held), atol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_the_graph_joins_an_encoder_and_a_temperature(heads: dict[str, Any], blobs: Split, name: str) -> None:
    head, (_, _, held) = heads[name], blobs
    nodes = [helper.make_node("Identity", ["rows"], ["embedding"])]
    rows, embedding = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", N_FEATURES]) for n in ("rows", "embedding")
    )
    encoder = graphs.make_model(nodes, [rows], [embedding], [])
    with_head = graphs.join(encoder, head_graph(head, n_features=N_FEATURES, n_classes=N_CLASSES), keep=("embedding",))
    graph = graphs.join(with_head, graphs.temperature_graph(N_CLASSES, 2.0))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (served,) = session.run(["probabilities"], {"rows": held})
    powers = np.sqrt(np.maximum(np.asarray(head.predict_proba(held), np.float64), 1e-7))
    np.testing.assert_allclose(served, powers / powers.sum(axis=1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_and_gives_a_distribution(heads: dict[str, Any], blobs: Split, name: str) -> None:
    _, _, held = blobs
    p = np.asarray(heads[name].predict_proba(held))
    assert p.shape == (len(held), N_CLASSES)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert np.mean(p.argmax(axis=1) == np.arange(120, 200) % N_CLASSES) > 0.6


@pytest.mark.parametrize("name", HEADS)
def test_logits_are_finite_logarithms(heads: dict[str, Any], blobs: Split, name: str) -> None:
    _, _, held = blobs
    logits = head_logits(heads[name], held)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(np.exp(logits), np.maximum(heads[name].predict_proba(held), 1e-7), rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_the_same_seed_gives_the_same_head(heads: dict[str, Any], blobs: Split, name: str) -> None:
    learn, targets, held = blobs
    again = make_head(name, seed=3)
    again.fit(learn, targets)
    np.testing.assert_allclose(again.predict_proba(held), heads[name].predict_proba(held), atol=1e-6)


@pytest.mark.parametrize("name", ["rf", "ann"])
def test_another_seed_gives_another_head(heads: dict[str, Any], blobs: Split, name: str) -> None:
    learn, targets, held = blobs
    other = make_head(name, seed=4)
    other.fit(learn, targets)
    assert np.abs(np.asarray(other.predict_proba(held)) - heads[name].predict_proba(held)).max() > 1e-3


SCALED = {"lr": True, "rf": False, "svm_rbf": True, "svm_poly": True, "ann": True, "xgboost": False}


def test_the_table_of_scaling_covers_every_head() -> None:
    assert SCALED.keys() == HEADS.keys()


@pytest.mark.parametrize("name", HEADS)
def test_only_what_needs_it_standardises(name: str) -> None:
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    head = make_head(name, seed=0)
    assert isinstance(head, Pipeline) is SCALED[name]
    if isinstance(head, Pipeline):
        assert isinstance(head[0], StandardScaler)
        assert len(head) == 2


def test_settings_are_the_published_ones() -> None:
    """BC-SAM: a forest of 200 trees of depth 16, one hidden layer of 100, SVMs with RBF and polynomial kernels."""
    forest: Any = make_head("rf", seed=0)
    assert (forest.n_estimators, forest.max_depth) == (200, 16)
    network: Any = make_head("ann", seed=0)
    assert tuple(np.atleast_1d(network[-1].hidden_layer_sizes)) == (100,)
    for name, kernel in (("svm_rbf", "rbf"), ("svm_poly", "poly")):
        svm: Any = make_head(name, seed=0)
        assert svm[-1].estimator.kernel == kernel


def test_the_number_of_trees_grown_is_that_of_the_settings(heads: dict[str, Any]) -> None:
    trees = heads["rf"].estimators_
    assert len(trees) == 200
    assert max(tree.get_depth() for tree in trees) <= 16


def test_an_unknown_head_shows_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown head 'svm_rfb'. did you mean 'svm_rbf'"):
        make_head("svm_rfb", seed=0)
    with pytest.raises(ConfigError, match=r"unknown head 'zzz'. known: ann, lr, rf, svm_poly, svm_rbf, xgboost"):
        make_head("zzz", seed=0)


@pytest.mark.parametrize("name", HEADS)
def test_weights_move_the_answers_to_the_rare_class(blobs: Split, name: str) -> None:
    """One class in ten, overlapping the other: weighing both alike makes it answered more often."""
    rows, _, _ = blobs
    rng = np.random.default_rng(5)
    targets = (np.arange(1200) % 10 == 0).astype(np.int64)
    embeddings = (rng.normal(0, 1.0, (1200, 4)) + 0.7 * targets[:, None]).astype(rows.dtype)
    plain, weighted = make_head(name, seed=3), make_head(name, seed=3)
    plain.fit(embeddings[:900], targets[:900])
    weights = np.where(targets[:900] == 1, 5.0, 5 / 9)
    weighted.fit(embeddings[:900], targets[:900], **sample_weight_of(weighted, weights))
    held = embeddings[900:]
    rare = np.asarray(plain.predict_proba(held))[:, 1].mean(), np.asarray(weighted.predict_proba(held))[:, 1].mean()
    assert rare[1] > 1.1 * rare[0]


def test_no_weights_are_no_argument() -> None:
    assert sample_weight_of(make_head("lr", seed=0), None) == {}
