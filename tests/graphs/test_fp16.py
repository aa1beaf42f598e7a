"""Weights in 16 bits: what is rounded and what is not, how little the answers move, and that graph edits still work."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemalens.errors import BundleError
from hemalens.graphs.build import cut, float_value, join, make_model
from hemalens.graphs.cost import count_graph
from hemalens.graphs.fp16 import has_half_weights, with_half_weights
from hemalens.graphs.runtime import session_of
from networks import conv_encoder


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return conv_encoder()


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _embedding(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return np.asarray(session_of(model.SerializeToString()).run(["embedding"], {"image": image})[0])


def _image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 40, 50, 3)).astype(np.uint8)


def test_large_weights_are_rounded_and_all_else_stays(graph: onnx.ModelProto) -> None:
    half = with_half_weights(graph)
    onnx.checker.check_model(half, full_check=True)
    before, after = _kinds(graph), _kinds(half)
    large = {t.name for t in graph.graph.initializer if np.prod(t.dims) >= 256 and t.data_type == TensorProto.FLOAT}
    assert len(large) == 3
    assert {name for name, kind in after.items() if kind == TensorProto.FLOAT16} == {f"{name}_half" for name in large}
    assert {name: kind for name, kind in after.items() if name in before} == {
        name: kind for name, kind in before.items() if name not in large
    }
    for tensor in half.graph.initializer:
        if tensor.name.endswith("_half"):
            (own,) = [t for t in graph.graph.initializer if t.name == tensor.name.removesuffix("_half")]
            exact = numpy_helper.to_array(own)
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), exact.astype(np.float16))
    assert has_half_weights(half)
    assert not has_half_weights(graph)


def test_the_answers_hardly_move_and_the_graph_is_half_as_large(graph: onnx.ModelProto) -> None:
    half = with_half_weights(graph)
    before, after = _embedding(graph, _image()), _embedding(half, _image())
    assert after.dtype == np.float32
    assert 0 < np.abs(before - after).max() <= 2e-3 * np.abs(before).max()
    assert len(half.SerializeToString()) < 0.6 * len(graph.SerializeToString())


def test_it_is_counted_as_what_it_computes_in(graph: onnx.ModelProto) -> None:
    assert count_graph(with_half_weights(graph), 32) == count_graph(graph, 32)


def test_it_can_be_cut_and_joined(graph: onnx.ModelProto) -> None:
    half = with_half_weights(graph)
    encoder = cut(half, ["image"], ["embedding"])
    tail = make_model(
        [helper.make_node("Neg", ["embedding"], ["less"])],
        [float_value("embedding", ["n", 32])],
        [float_value("less", ["n", 32])],
        [],
    )
    whole = session_of(join(encoder, tail, keep=("embedding",)).SerializeToString())
    embedding, less = whole.run(["embedding", "less"], {"image": _image()})
    np.testing.assert_array_equal(embedding, _embedding(half, _image()))
    np.testing.assert_array_equal(less, -embedding)


def test_a_weight_that_16_bits_cannot_hold_keeps_its_32(graph: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    tensor = next(t for t in changed.graph.initializer if t.name.endswith("filters_1"))
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 1e6
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert _kinds(with_half_weights(changed))[tensor.name] == TensorProto.FLOAT


def test_a_graph_without_large_weights_is_refused() -> None:
    with pytest.raises(BundleError, match=r"no weights.*256 numbers"):
        with_half_weights(conv_encoder(n_layers=1))
