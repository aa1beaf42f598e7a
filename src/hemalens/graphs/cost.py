"""Count the weights and multiply-adds of an ONNX graph from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from hemalens.errors import BundleError
from hemalens.graphs.runtime import session_of

Shape = tuple[int, ...]
Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """A graph's size for one image.

    `parameters`: weights in the graph, constants that the exporter computed included; folded batch norms count as part of
    their convolution. `macs`: multiply-adds of convolutions and matrix products, attention included; trees, norms and
    activations are not counted. `precision`: "int8" for a graph with quantised weights.
    """

    parameters: int
    macs: int
    precision: Precision

    @property
    def flops(self) -> int:
        """Twice the multiply-adds."""
        return 2 * self.macs


def count_graph(model: onnx.ModelProto, input_px: int) -> GraphCounts:
    """Count a graph for one image of `input_px`, which replaces every open length of its inputs.

    Raises `BundleError` for operators that cannot be counted, and for weights of another precision.
    """
    _refuse_unknown(model.graph.node)
    counted = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    shapes = _shapes(model, counted, input_px)
    macs = sum(_macs(node, shapes) for node in counted)
    kept = list(_weights(model.graph))
    parameters = sum(math.prod(tensor.dims) for tensor in kept)
    classical = [node for node in model.graph.node if node.domain == _CLASSICAL]
    macs += sum(_classical_macs(node) for node in classical)
    parameters += sum(_classical_parameters(node) for node in classical)
    return GraphCounts(parameters, macs, _precision({_computed_as(tensor, model.graph) for tensor in kept}))


# ------------------------------------------------------------------------------------------------------------- products


def _convolution(node: onnx.NodeProto, weight: Shape, image: Shape, result: Shape) -> int:
    """Each number of the result sums over one filter, (c_in / groups, kernel...)."""
    return math.prod(result) * math.prod(weight[1:])


def _transposed_convolution(node: onnx.NodeProto, weight: Shape, image: Shape, result: Shape) -> int:
    """Each number of the input goes through one filter, (c_out / groups, kernel...)."""
    return math.prod(image) * math.prod(weight[1:])


def _matrix_product(node: onnx.NodeProto, second: Shape, first: Shape, result: Shape) -> int:
    return math.prod(result) * first[-1]


def _gemm(node: onnx.NodeProto, second: Shape, first: Shape, result: Shape) -> int:
    return math.prod(result) * first[0 if _attribute(node, "transA", 0) else 1]


def _einsum(node: onnx.NodeProto, second: Shape, first: Shape, result: Shape) -> int:
    """All indices of both operands run through once."""
    terms = _attribute(node, "equation", b"").decode().replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "." in "".join(terms):
        raise BundleError("the graph holds an Einsum that cannot be counted", expected="two operands, every index named")
    lengths = dict(zip(terms[0], first, strict=True)) | dict(zip(terms[1], second, strict=True))
    return math.prod(lengths.values())


_PRODUCTS: dict[str, tuple[Callable[[onnx.NodeProto, Shape, Shape, Shape], int], int]] = {
    "Conv": (_convolution, 1),
    "ConvInteger": (_convolution, 1),
    "FusedConv": (_convolution, 1),
    "QLinearConv": (_convolution, 3),
    "ConvTranspose": (_transposed_convolution, 1),
    "Gemm": (_gemm, 1),
    "QGemm": (_gemm, 3),
    "MatMul": (_matrix_product, 1),
    "MatMulInteger": (_matrix_product, 1),
    "DynamicQuantizeMatMul": (_matrix_product, 1),
    "MatMulIntegerToFloat": (_matrix_product, 1),
    "QLinearMatMul": (_matrix_product, 3),
    "Einsum": (_einsum, 1),
}
"""Operator -> (function that counts it, index of its second operand); the first operand is input 0."""

_CLASSICAL = "ai.onnx.ml"
_WITHOUT_PRODUCTS = {
    *("QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu"),
    *("QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere"),
    *("QuantizeLinear", "DequantizeLinear", "Gelu", "QuickGelu"),
}
"""Operators of ONNX Runtime without multiply-adds to count."""
_HIDDEN_PRODUCTS = {"Attention", "DeformConv", "GRU", "If", "Loop", "LSTM", "RNN", "Scan"}


def _refuse_unknown(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        standard = node.domain in ("", "ai.onnx", _CLASSICAL) and node.op_type not in _HIDDEN_PRODUCTS
        own = node.domain == "com.microsoft" and (node.op_type in _PRODUCTS or node.op_type in _WITHOUT_PRODUCTS)
        if not (standard or own):
            raise BundleError(
                "the graph holds an operator that cannot be counted",
                expected=f"plain operators, and of products {', '.join(sorted(_PRODUCTS))}",
                got=f"{node.domain or 'ai.onnx'} {node.op_type}",
            )


def _macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    product, position = _PRODUCTS[node.op_type]
    return product(node, shapes[node.input[position]], shapes[node.input[0]], shapes[node.output[0]])


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


# --------------------------------------------------------------------------------------------------------------- shapes


def _shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto], input_px: int) -> dict[str, Shape]:
    """The shapes of all operands and results of `nodes`, by shape inference, or by a run on a blank image."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    # stored shapes of open batches would override inference
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    kept = {tensor.name for tensor in fixed.graph.initializer}
    inputs = [value for value in fixed.graph.input if value.name not in kept]
    for value in inputs:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if axis == 0 or not dimension.dim_value:
                dimension.dim_value = 1 if axis == 0 else input_px
    found = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    found |= dict(_known((*inferred.input, *inferred.value_info, *inferred.output)))
    operands = [name for node in nodes for name in (node.input[0], node.input[_PRODUCTS[node.op_type][1]], node.output[0])]
    missing = [name for name in dict.fromkeys(operands) if name not in found]
    return found | (_run_shapes(fixed, inputs, missing) if missing else {})


def _known(values: Iterable[onnx.ValueInfoProto]) -> Iterator[tuple[str, Shape]]:
    for value in values:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dimension.HasField("dim_value") for dimension in tensor.shape.dim):
            yield value.name, tuple(dimension.dim_value for dimension in tensor.shape.dim)


def _run_shapes(model: onnx.ModelProto, inputs: list[onnx.ValueInfoProto], names: list[str]) -> dict[str, Shape]:
    blank = {}
    for value in inputs:
        tensor = value.type.tensor_type
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        blank[value.name] = np.zeros([dimension.dim_value for dimension in tensor.shape.dim], kind)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        arrays = session_of(model.SerializeToString()).run(names, blank)
    except Exception as error:
        # ONNX Runtime raises many kinds of errors for an invalid graph
        raise BundleError("the shapes in the graph cannot be computed: it does not run", got=str(error)[:120]) from error
    return {name: tuple(np.shape(array)) for name, array in zip(names, arrays, strict=True)}


# -------------------------------------------------------------------------------------------------------------- weights

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
_QUANTISED = (TensorProto.INT8, TensorProto.UINT8)
_BESIDE: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "ConvInteger": (2, 3),
    "DequantizeLinear": (1, 2),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2, 3),
}
"""Inputs that are not weights: running statistics, limits, scales and zero points."""
_QUANTISED_BIAS = {("DequantizeLinear", 0), ("QLinearConv", 8), ("QGemm", 6)}


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The tensors of more than one number that are used as weights."""
    uses: dict[str, list[tuple[str, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if position not in _BESIDE.get(node.op_type, ()):
                uses.setdefault(name, []).append((node.op_type, position))
    for tensor in graph.initializer:
        places = uses.get(tensor.name, [])
        is_bias = tensor.data_type == TensorProto.INT32 and any(place in _QUANTISED_BIAS for place in places)
        is_number = tensor.data_type in (*_FLOATS, *_QUANTISED, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        if places and (is_number or is_bias) and math.prod(tensor.dims) > 1:
            yield tensor


def _computed_as(tensor: onnx.TensorProto, graph: onnx.GraphProto) -> int:
    """The type a weight is computed in: 32 bits for one that is stored in 16 bits and cast."""
    uses = [node for node in graph.node if tensor.name in node.input]
    casts = {_attribute(node, "to", 0) for node in uses if node.op_type == "Cast"}
    cast = casts.pop() if len(casts) == 1 and all(node.op_type == "Cast" for node in uses) else None
    return int(tensor.data_type if cast is None else cast)


def _precision(kinds: set[int]) -> Precision:
    if kinds & set(_QUANTISED):
        return "int8"
    if kinds <= set(_FLOATS):
        return "fp32"
    if kinds <= {*_FLOATS, TensorProto.BFLOAT16}:
        return "bf16"
    raise BundleError("the graph's weights have a precision unknown here", expected="fp32, bf16 or int8", got="fp16")


# ------------------------------------------------------------------------------------------------------ classical heads


def _classical_macs(node: onnx.NodeProto) -> int:
    """Products with the coefficients of a linear head, or with the support vectors of a support vector machine."""
    return sum(len(_attribute(node, name, ())) for name in ("coefficients", "support_vectors"))


def _classical_parameters(node: onnx.NodeProto) -> int:
    """The numbers of a classical head: coefficients, support vectors, thresholds and leaves of trees."""
    return sum(len(a.floats) for a in node.attribute if a.name != "nodes_hitrates")
