"""What every head of `HEADS` keeps: `check_head_contract` runs all of it on one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hemalens.classifiers.heads import HEADS, Head, make_head
from hemalens.errors import ConfigError
from hemalens.graphs.build import join, make_model, temperature_graph

N_FEATURES = 20
N_CLASSES = 4
Blobs = tuple[np.ndarray, np.ndarray, np.ndarray]


def blobs() -> Blobs:
    """Embeddings to learn from (120, 20), their classes, and others (80, 20); classes overlap."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1.0, (N_CLASSES, N_FEATURES))
    targets = np.arange(200) % N_CLASSES
    rows = (centres[targets] + rng.normal(0, 1.0, (200, N_FEATURES))).astype(np.float32)
    # features of unlike scale: standardisation makes a difference
    rows *= np.geomspace(0.01, 100, N_FEATURES).astype(np.float32)
    return rows[:120], targets[:120], rows[120:]


def fitted(name: str, data: Blobs) -> Head:
    """The head `name`, fitted on the first part of `data`."""
    return make_head(name, seed=3).fit(data[0], data[1])


def graph_predicts_as_the_head(head: Head, data: Blobs) -> None:
    """softmax(raw_logits) of the graph is `predict_proba`, within 1e-3."""
    held = data[2]
    session = onnxruntime.InferenceSession(head.graph().SerializeToString(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["raw_logits"]
    (raw,) = session.run(None, {"embedding": held})
    assert raw.dtype == np.float32
    powers = np.exp(np.asarray(raw, np.float64))
    served = powers / powers.sum(axis=1, keepdims=True)
    assert served.shape == (len(held), N_CLASSES)
    np.testing.assert_allclose(served, head.predict_proba(held), atol=1e-3)


def graph_joins_an_encoder_and_a_temperature(head: Head, data: Blobs) -> None:
    """As in a bundle."""
    held = data[2]
    nodes = [helper.make_node("Identity", ["rows"], ["embedding"])]
    rows, embedding = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", N_FEATURES]) for n in ("rows", "embedding")
    )
    encoder = make_model(nodes, [rows], [embedding], [])
    graph = join(join(encoder, head.graph(), keep=("embedding",)), temperature_graph(N_CLASSES, 2.0))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (served,) = session.run(["probabilities"], {"rows": held})
    powers = np.sqrt(np.maximum(np.asarray(head.predict_proba(held), np.float64), 1e-7))
    np.testing.assert_allclose(served, powers / powers.sum(axis=1, keepdims=True), atol=1e-3)


def learns_a_distribution(head: Head, data: Blobs) -> None:
    """Probabilities sum to 1, and most held-out predictions are right."""
    held = data[2]
    p = np.asarray(head.predict_proba(held))
    assert p.shape == (len(held), N_CLASSES)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert np.mean(p.argmax(axis=1) == np.arange(120, 200) % N_CLASSES) > 0.6


def logits_are_finite_logarithms(head: Head, data: Blobs) -> None:
    """Logits are log(max(p, 1e-7))."""
    logits = head.logits(data[2])
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(np.exp(logits), np.maximum(head.predict_proba(data[2]), 1e-7), rtol=1e-5)


def same_seed_gives_the_same_head(head: Head, data: Blobs) -> None:
    """Another fit from the same seed predicts the same."""
    again = fitted(head.name, data)
    np.testing.assert_allclose(again.predict_proba(data[2]), head.predict_proba(data[2]), atol=1e-6)


def weights_favour_the_rare_class(head: Head, data: Blobs) -> None:
    """One class in ten, overlapping the other: balanced weights make it more probable; or weights are refused."""
    rng = np.random.default_rng(5)
    targets = (np.arange(1200) % 10 == 0).astype(np.int64)
    embeddings = (rng.normal(0, 1.0, (1200, 4)) + 0.7 * targets[:, None]).astype(np.float32)
    weights = np.where(targets[:900] == 1, 5.0, 5 / 9)
    plain, weighted = (make_head(head.name, seed=3) for _ in range(2))
    if not head.kind.sample_weights:
        with pytest.raises(ConfigError, match=f"'{head.name}' takes no class weights"):
            weighted.fit(embeddings[:900], targets[:900], weights)
        return
    plain.fit(embeddings[:900], targets[:900])
    weighted.fit(embeddings[:900], targets[:900], weights)
    rare = [np.asarray(each.predict_proba(embeddings[900:]))[:, 1].mean() for each in (plain, weighted)]
    assert rare[1] > 1.1 * rare[0]


CHECKS: tuple[Callable[[Head, Blobs], None], ...] = (
    graph_predicts_as_the_head,
    graph_joins_an_encoder_and_a_temperature,
    learns_a_distribution,
    logits_are_finite_logarithms,
    same_seed_gives_the_same_head,
    weights_favour_the_rare_class,
)


def check_head_contract(name: str) -> None:
    """All checks on the head `name`."""
    assert HEADS[name].summary
    data = blobs()
    head = fitted(name, data)
    for check in CHECKS:
        check(head, data)
