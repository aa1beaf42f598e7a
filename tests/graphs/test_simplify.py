"""Traced graphs without the arithmetic of sizes give the same outputs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hemalens.graphs.build import make_model
from hemalens.graphs.simplify import simplified

KERNEL = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)


def _floats(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _whole(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _padded(
    widths: list[int], *, value: float = 0.0, mode: str = "constant", own: list[int] | None = None
) -> onnx.ModelProto:
    """pixels (n, 3, 8, 8) -> maps: padded by widths that follow from a shape, and convolved."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Gather", ["shape", "side"], ["eight"]),
        helper.make_node("Sub", ["eight", "eight_less"], ["widths"]),
        helper.make_node("Pad", ["pixels", "widths", "value"], ["padded"], mode=mode),
        helper.make_node("Conv", ["padded", "kernel"], ["maps"], pads=own or [0, 0, 0, 0]),
    ]
    constants = [
        _whole("side", *[2] * 8),
        _whole("eight_less", *(8 - width for width in widths)),
        numpy_helper.from_array(np.array(value, np.float32), "value"),
        numpy_helper.from_array(KERNEL, "kernel"),
    ]
    return make_model(nodes, [_floats("pixels", ["n", 3, 8, 8])], [_floats("maps", ["n", 2, "h", "w"])], constants)


def _run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": pixels})[0])


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_padding_by_a_computed_width_becomes_part_of_the_convolution(n: int) -> None:
    model = _padded([0, 0, 0, 1, 0, 0, 1, 2], own=[1, 0, 0, 0])
    short = simplified(model)
    assert _operators(short) == {"Conv": 1}
    assert [tensor.name for tensor in short.graph.initializer] == ["kernel"]
    pixels = np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(_run(short, pixels), _run(model, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], {"value": 1.0}),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"mode": "edge"}),
        ([0, 0, -1, 0, 0, 0, -1, 0], {}),
        ([1, 0, 0, 0, 0, 0, 0, 0], {}),
    ],
)
def test_padding_that_a_convolution_cannot_do_stays(widths: list[int], options: dict[str, Any]) -> None:
    model = _padded(widths, **options)
    short = simplified(model)
    assert _operators(short) == {"Pad": 1, "Conv": 1}
    pixels = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(_run(short, pixels), _run(model, pixels), rtol=0, atol=1e-5)


def test_what_follows_from_the_length_of_the_batch_stays() -> None:
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["flat_shape"], axis=0),
        helper.make_node("Reshape", ["pixels", "flat_shape"], ["flat"]),
    ]
    constants = [_whole("zero", 0), _whole("one", 1), _whole("rest", 192)]
    model = make_model(nodes, [_floats("pixels", ["n", 3, 8, 8])], [_floats("flat", ["n", 192])], constants)
    short = simplified(model)
    assert _operators(short)["Shape"] == 1
    pixels = np.arange(2 * 192, dtype=np.float32).reshape(2, 3, 8, 8)
    np.testing.assert_array_equal(_run(short, pixels), pixels.reshape(2, 192))


def test_the_given_graph_is_not_changed() -> None:
    model = _padded([0, 0, 0, 1, 0, 0, 1, 2])
    before = model.SerializeToString(deterministic=True)
    simplified(model)
    assert model.SerializeToString(deterministic=True) == before
