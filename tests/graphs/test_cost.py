"""Counts of ONNX graphs: torch's counter on exported networks, arithmetic by hand on graphs of one operator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hemalens.models._torchvision  # noqa: F401

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from hemalens.classifiers.heads import Head, HeadKind
from hemalens.errors import BundleError
from hemalens.graphs.cost import count_graph
from hemalens.imaging.reading import Preprocessing
from hemalens.models.backbone import BackboneConfig, create_backbone
from hemalens.models.cost import count
from hemalens.models.export import to_onnx

FLOAT, INT8, UINT8, INT32 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32


def _exported(name: str, input_px: int) -> tuple[torch.nn.Module, onnx.ModelProto]:
    """A network whose weights all differ, since the exporter keeps equal ones once, and its graph."""
    network = create_backbone(BackboneConfig(backbone=name, weights="none", image_size_px=input_px), n_classes=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.rand(parameter.shape, generator=generator))
    return network, to_onnx(network, Preprocessing(size_px=input_px), ["embedding"])


@pytest.mark.parametrize(("name", "input_px"), [("test_resnet", 64), ("test_vit", 160)])
def test_exported_networks_cost_what_torch_says(name: str, input_px: int) -> None:
    network, graph = _exported(name, input_px)
    expected = count(network, input_px)
    found = count_graph(graph, input_px)
    assert found.macs == pytest.approx(expected.macs, rel=0.01)
    assert found.flops == 2 * found.macs
    assert found.precision == "fp32"
    # batch norm stays apart from the convolution before it
    assert found.parameters == expected.parameters


class _Images(CalibrationDataReader):
    def __init__(self, input_px: int) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"pixels": rng.normal(size=(1, 3, input_px, input_px)).astype(np.float32)} for _ in range(2)]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("kind", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_network_costs_the_same_in_8_bits(tmp_path: Path, kind: QuantFormat) -> None:
    _, graph = _exported("test_resnet", 32)
    onnx.save_model(graph, tmp_path / "a.onnx")
    quantize_static(tmp_path / "a.onnx", tmp_path / "b.onnx", _Images(32), quant_format=kind, per_channel=True)
    quantised = onnx.load_model(tmp_path / "b.onnx")
    assert any(node.op_type in ("QLinearConv", "QuantizeLinear") for node in quantised.graph.node)
    before, after = count_graph(graph, 32), count_graph(quantised, 32)
    assert (after.macs, after.parameters, after.precision) == (before.macs, before.parameters, "int8")


# --------------------------------------------------------------------------------------------------------- one operator

Shapes = dict[str, tuple[int, tuple[Any, ...]]]


def _graph(nodes: list[onnx.NodeProto], inputs: Shapes, kept: Shapes, output: int = FLOAT) -> onnx.ModelProto:
    """A graph with weights of ones; "y" is its output."""
    dtype = helper.tensor_dtype_to_np_dtype
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.ones(shape, dtype(kind)), name) for name, (kind, shape) in kept.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _quantised(*names: str) -> Shapes:
    """A scale and a zero point of one number for each name."""
    return {f"{n}s": (FLOAT, ()) for n in names} | {f"{n}z": (UINT8, ()) for n in names}


NODE = helper.make_node
IMAGE: Shapes = {"x": (FLOAT, ("n", 6, "h", "w"))}
BYTES: Shapes = {"x": (UINT8, ("n", 6, "h", "w"))}
OPERATORS: dict[str, tuple[onnx.ModelProto, int, int]] = {
    "convolution": (
        _graph(
            [NODE("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
            IMAGE,
            {"w": (FLOAT, (4, 6, 3, 3)), "b": (FLOAT, (4,))},
        ),
        (4 * 5 * 5) * (6 * 3 * 3),
        4 * 6 * 9 + 4,
    ),
    "convolution in groups": (
        _graph([NODE("Conv", ["x", "w"], ["y"], group=6)], IMAGE, {"w": (FLOAT, (6, 1, 3, 3))}),
        (6 * 8 * 8) * 9,
        54,
    ),
    "transposed convolution": (
        _graph([NODE("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], IMAGE, {"w": (FLOAT, (6, 5, 2, 2))}),
        (6 * 10 * 10) * (5 * 2 * 2),
        120,
    ),
    "matrix product of a batch": (
        _graph([NODE("MatMul", ["x", "w"], ["y"])], IMAGE, {"w": (FLOAT, (10, 7))}),
        (6 * 10 * 7) * 10,
        70,
    ),
    "matrix product of two activations": (_graph([NODE("MatMul", ["x", "x"], ["y"])], IMAGE, {}), 6 * 10 * 10 * 10, 0),
    "gemm, transposed": (
        _graph(
            [NODE("Gemm", ["x", "w", "b"], ["y"], transA=1, transB=1)],
            {"x": (FLOAT, (1, 5))},
            {"w": (FLOAT, (4, 1)), "b": (FLOAT, (4,))},
        ),
        5 * 4 * 1,
        8,
    ),
    "einsum": (
        _graph([NODE("Einsum", ["x", "w"], ["y"], equation="nchw, cd -> ndhw")], IMAGE, {"w": (FLOAT, (6, 5))}),
        6 * 5 * 10 * 10,
        30,
    ),
    "QLinearConv": (
        _graph(
            [NODE("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"])],
            BYTES,
            {"w": (INT8, (4, 6, 3, 3)), "ws": (FLOAT, (4,)), "wz": (INT8, (4,)), "b": (INT32, (4,))} | _quantised("x", "y"),
            UINT8,
        ),
        (4 * 8 * 8) * (6 * 9),
        4 * 6 * 9 + 4,
    ),
    "QLinearMatMul": (
        _graph(
            [NODE("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])],
            BYTES,
            {"w": (UINT8, (10, 7))} | _quantised("x", "w", "y"),
            UINT8,
        ),
        (6 * 10 * 7) * 10,
        70,
    ),
    "QGemm": (
        _graph(
            [NODE("QGemm", ["x", "xs", "xz", "w", "ws", "wz", "b", "ys", "yz"], ["y"], domain="com.microsoft", transB=1)],
            {"x": (UINT8, ("n", 12))},
            {"w": (UINT8, (4, 12)), "b": (INT32, (4,))} | _quantised("x", "w", "y"),
            UINT8,
        ),
        12 * 4,
        52,
    ),
    "ConvInteger": (
        _graph(
            [NODE("ConvInteger", ["x", "w", "xz", "wz"], ["y"])],
            BYTES,
            {"w": (UINT8, (4, 6, 3, 3)), "xz": (UINT8, ()), "wz": (UINT8, ())},
            INT32,
        ),
        (4 * 8 * 8) * (6 * 9),
        216,
    ),
    "MatMulInteger": (
        _graph(
            [NODE("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])],
            BYTES,
            {"w": (INT8, (10, 7)), "xz": (UINT8, ()), "wz": (INT8, (7,))},
            INT32,
        ),
        (6 * 10 * 7) * 10,
        70,
    ),
    "pairs around a convolution": (
        _graph(
            [
                NODE("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
                NODE("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
                NODE("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=0),
                NODE("DequantizeLinear", ["b", "bs", "bz"], ["db"], axis=0),
                NODE("Conv", ["d", "dw", "db"], ["y"]),
            ],
            IMAGE,
            {"w": (INT8, (4, 6, 3, 3)), "ws": (FLOAT, (4,)), "wz": (INT8, (4,))}
            | {"b": (INT32, (4,)), "bs": (FLOAT, (4,)), "bz": (INT32, (4,))}
            | _quantised("x"),
        ),
        (4 * 8 * 8) * (6 * 9),
        4 * 6 * 9 + 4,
    ),
}
"""Name -> a graph, its multiply-adds for an image of 10 px, its parameters; from the operators' definitions."""


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_costs_what_its_definition_says(name: str) -> None:
    graph, macs, parameters = OPERATORS[name]
    found = count_graph(graph, 10)
    assert (found.macs, found.parameters) == (macs, parameters)
    in_8_bits = any(tensor.data_type in (INT8, UINT8) and math.prod(tensor.dims) > 1 for tensor in graph.graph.initializer)
    assert found.precision == ("int8" if in_8_bits else "fp32")


def test_counting_leaves_the_graph_as_it_was() -> None:
    graph, _, _ = OPERATORS["convolution"]
    before = graph.SerializeToString(deterministic=True)
    count_graph(graph, 10)
    assert graph.SerializeToString(deterministic=True) == before


def test_shapes_that_inference_leaves_open_are_read_off_a_run() -> None:
    """Mod is unknown to the inference of shapes from values."""
    nodes = [
        NODE("Shape", ["x"], ["shape"]),
        NODE("Mod", ["shape", "modulus"], ["rest"]),
        NODE("Reshape", ["x", "rest"], ["flat"]),
        NODE("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = _graph(nodes, {"x": (FLOAT, ("n", 6, "h"))}, {"w": (FLOAT, (10, 7))})
    modulus = numpy_helper.from_array(np.array([50, 50, 50], np.int64), "modulus")
    graph.graph.initializer.append(modulus)
    assert count_graph(graph, 10).macs == 6 * 10 * 7


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (NODE("LSTM", ["x", "w", "w"], ["y"], hidden_size=2), "ai.onnx LSTM"),
        (NODE("Attention", ["x", "w", "w"], ["y"], domain="com.microsoft"), "com.microsoft Attention"),
        (NODE("Anything", ["x"], ["y"], domain="elsewhere"), "elsewhere Anything"),
    ],
)
def test_what_cannot_be_counted_is_refused(node: onnx.NodeProto, named: str) -> None:
    graph = _graph([node], IMAGE, {"w": (FLOAT, (1, 8, 10))})
    with pytest.raises(BundleError, match=f"the graph holds an operator that cannot be counted; .*got {named}$"):
        count_graph(graph, 10)


def test_an_einsum_of_another_kind_is_refused() -> None:
    graph = _graph([NODE("Einsum", ["x", "w"], ["y"], equation="...w,wd->...d")], IMAGE, {"w": (FLOAT, (10, 5))})
    with pytest.raises(BundleError, match="an Einsum that cannot be counted"):
        count_graph(graph, 10)


def test_a_graph_that_does_not_run_is_refused() -> None:
    nodes = [NODE("Reshape", ["x", "asked"], ["flat"]), NODE("MatMul", ["flat", "w"], ["y"])]
    graph = _graph(nodes, IMAGE | {"asked": (TensorProto.INT64, (3,))}, {"w": (FLOAT, (10, 7))})
    with pytest.raises(BundleError, match=r"shapes.*does not run"):
        count_graph(graph, 10)


def test_the_precision_is_that_of_the_weights() -> None:
    node = NODE("MatMul", ["x", "w"], ["y"])
    half = _graph([node], {"x": (TensorProto.FLOAT16, ("n", 10))}, {"w": (TensorProto.FLOAT16, (10, 7))})
    with pytest.raises(BundleError, match="a precision unknown here; expected fp32, bf16 or int8; got fp16"):
        count_graph(half, 10)


# -------------------------------------------------------------------------------------------------------- classical heads


def test_classical_heads_have_the_products_of_their_coefficients() -> None:
    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
    linear = Head("linear", HeadKind(lambda seed: LogisticRegression(), ""), LogisticRegression())
    found = count_graph(linear.fit(embeddings, labels).graph(), 10)
    assert (found.macs, found.parameters) == (6 * 3, 6 * 3 + 3)
    trees = RandomForestClassifier(5, random_state=0)
    forest = Head("forest", HeadKind(lambda seed: trees, ""), trees)
    found = count_graph(forest.fit(embeddings, labels).graph(), 10)
    assert found.macs == 0
    assert found.parameters >= sum(tree.tree_.node_count for tree in trees.estimators_)
