"""Layers that adaptation adds to a graph can be removed."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hemalens.graphs import build as graphs
from hemalens.graphs.additions import without_additions
from hemalens.graphs.runtime import session_of

NAMES = ["embedding", "logits", "probabilities"]


def _encoder(factor: float) -> onnx.ModelProto:
    """image (n, 3) -> embedding (n, 3), `factor` times the image."""
    return graphs.make_model(
        [helper.make_node("Mul", ["image", "factor"], ["embedding"])],
        [graphs.float_value("image", ["n", 3])],
        [graphs.float_value("embedding", ["n", 3])],
        [numpy_helper.from_array(np.array([factor], np.float32), "factor")],
    )


def _graph() -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    head = graphs.make_model(
        [helper.make_node("Gemm", ["embedding", "weight"], ["raw_logits"], transB=1)],
        [graphs.float_value("embedding", ["n", 3])],
        [graphs.float_value("raw_logits", ["n", 2])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return graphs.join(_encoder(2.0), head, graphs.temperature_graph(2, 1.5), keep=("embedding",))


def _run(graph: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(value) for value in session_of(graph.SerializeToString()).run(NAMES, {"image": image})]


def test_a_graph_without_additions_is_returned_as_it_is() -> None:
    graph = _graph()
    assert without_additions(graph) is graph


def test_a_second_encoder_is_removed() -> None:
    graph, image = _graph(), np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    wider = graphs.with_beside(graph, _encoder(-1.0))
    assert graphs.kind_of(wider, "embedding")[1] == (6,)
    removed = without_additions(wider)
    onnx.checker.check_model(removed, full_check=True)
    assert graphs.kind_of(removed, "embedding")[1] == (3,)
    for found, expected in zip(_run(removed, image), _run(graph, image), strict=True):
        np.testing.assert_array_equal(found, expected)
