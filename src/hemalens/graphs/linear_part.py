"""Find in a graph the linear outputs of globally pooled feature maps, from which its logits follow.

A logit that is linear in the mean of a feature map is the mean of a value at each place, plus a constant (Zhou et al.,
"Learning deep features for discriminative localization", CVPR 2016). `find_linear_part` finds such outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hemalens.errors import BundleError
from hemalens.graphs.build import BATCH_NORM

LOGITS = "logits"
OTHER_WAY = "Occlusion maps work for every bundle (--explain occlusion)."
SPATIAL = {(2, 3): (2, 3), (1, 2): (1, 2), (-2, -1): (2, 3)}
"""Axes of a mean over places, as a graph names them, and counted from the first."""

_KEEPS = {"Identity", "Cast", "Flatten", "Squeeze", "Reshape", "Slice", "Gather", "Split", "ReduceMean", "ReduceSum",
          "Scaler", BATCH_NORM}  # fmt: skip
"""Operators that are linear in their first input, up to a constant, where all others are constant."""
_PRODUCTS = {"Gemm", "MatMul"}
_SUMS = {"Add", "Sub", "Sum", "Mean", "Concat"}
_LINKS = _SUMS | {
    "Softmax", "LogSoftmax", "Log", "Exp", "Max", "Min", "Clip", "ReduceLogSumExp", "ReduceSum", "ReduceMean", "Slice",
    "Split", "Gather", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Mul", "Div", "Neg", "Sigmoid", "Normalizer",
}  # fmt: skip
"""Operators between linear outputs and logits: they compute probabilities, and combine those of several outputs."""

_OF_LENGTH = {"Max", "Clip", "Expand", "Identity"}
"""Operators on the length of a linear tensor, before the division by it."""

_Kind = Literal["constant", "linear", "length", "other"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The mean of a feature map (n, c, h, w), or (n, h, w, c) with `axes` (1, 2), over its places."""

    feature_map: str
    pooled: str
    axes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LinearPart:
    """Names of tensors: `outputs` (n, m) are linear in the `pools`, and the logits follow from them and `beside`.

    `graph` is the whole graph, with the same values, in which these tensors occur. `beside` do not depend on the
    outputs alone: a size of the nucleus, a distance of the embedding. They are held while an output varies. `lengths` are
    those of vectors that the graph scales to unit length: the outputs are linear for an image's own length.
    """

    graph: onnx.ModelProto
    pools: tuple[Pool, ...]
    outputs: tuple[str, ...]
    beside: tuple[str, ...]
    lengths: tuple[str, ...]

    def linear_graph(self) -> onnx.ModelProto:
        """The pools' means and the lengths -> the outputs."""
        return between(self.graph, [*(pool.pooled for pool in self.pools), *self.lengths], self.outputs)

    def tail_graph(self) -> onnx.ModelProto | None:
        """The outputs and `beside` -> the logits; None where the outputs are the logits."""
        return None if self.outputs == (LOGITS,) else between(self.graph, [*self.outputs, *self.beside], [LOGITS])


@dataclass(slots=True)
class _Tensors:
    """What is known of the tensors of a graph: kind, pools, lengths, and whether a matrix of weights lies behind them."""

    kind: dict[str, _Kind]
    pools: dict[str, frozenset[Pool]] = field(default_factory=dict)
    lengths: dict[str, frozenset[str]] = field(default_factory=dict)
    weighted: set[str] = field(default_factory=set)
    maker: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def of(self, name: str) -> _Kind:
        return "constant" if name == "" else self.kind.get(name, "other")


def find_linear_part(model: onnx.ModelProto) -> LinearPart:
    """The linear outputs of pooled feature maps behind the logits of a graph; raises `BundleError` where there are none."""
    graph = with_open_classifiers(model)
    known = _classified(graph)
    beside: dict[str, None] = {}
    outputs: dict[str, None] = {}
    kind = _walk(LOGITS, known, outputs, beside)
    if kind != "linear" or not outputs:
        raise BundleError(
            "this model has no exact map of its evidence",
            expected="logits that follow from linear outputs of a pooled feature map",
            remedy=OTHER_WAY,
        )
    pools = frozenset[Pool]().union(*(known.pools[name] for name in outputs))
    lengths = frozenset[str]().union(*(known.lengths[name] for name in outputs))
    in_order = sorted(pools, key=lambda pool: pool.pooled)
    return LinearPart(graph, tuple(in_order), tuple(outputs), tuple(beside), tuple(sorted(lengths)))


def _walk(
    name: str, known: _Tensors, outputs: dict[str, None], beside: dict[str, None]
) -> Literal["constant", "linear", "beside", "mixed"]:
    """How a tensor behind the logits depends on linear outputs; collects these, and what else it depends on."""
    kind = known.of(name)
    if kind == "constant":
        return "constant"
    if kind == "linear" and name in known.weighted:
        outputs[name] = None
        return "linear"
    node = known.maker.get(name)
    if node is None or node.op_type not in _LINKS:
        beside[name] = None
        return "beside"
    own_outputs: dict[str, None] = {}
    own_beside: dict[str, None] = {}
    found = {_walk(given, known, own_outputs, own_beside) for given in node.input} - {"constant"}
    if found == {"beside"}:
        # computed from others alone: held as it is
        beside[name] = None
        return "beside"
    outputs |= own_outputs
    beside |= own_beside
    mixed = "mixed" in found or ("beside" in found and node.op_type not in _SUMS)
    return "mixed" if mixed else "linear" if found else "constant"


def _classified(model: onnx.ModelProto) -> _Tensors:
    """The kind of every tensor: constant, linear in pooled feature maps, or anything else."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known = _Tensors(dict.fromkeys(constants, "constant"))
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _value_of(node)
        pool = _pool_of(node, constants)
        kind = _kind_of(node, known)
        linear = [name for name in node.input if known.of(name) == "linear"]
        pools = frozenset[Pool]().union(*(known.pools[name] for name in linear))
        lengths = frozenset[str]().union(*(known.lengths[name] for name in linear))
        weighted = node.op_type in _PRODUCTS or not known.weighted.isdisjoint(linear)
        if kind == "other" and pool is not None:
            kind, pools, weighted = "linear", frozenset([pool]), False
        elif kind == "linear" and len(node.input) > 1 and known.of(node.input[1]) == "length":
            lengths |= {node.input[1]}
        for name in node.output:
            known.kind[name] = kind
            known.maker[name] = node
            if kind == "linear":
                known.pools[name], known.lengths[name] = pools, lengths
                if weighted:
                    known.weighted.add(name)
    return known


def _kind_of(node: onnx.NodeProto, known: _Tensors) -> _Kind:
    """The kind of a node's outputs."""
    kinds, operator = [known.of(name) for name in node.input], node.op_type
    n_linear = kinds.count("linear")
    first_only = n_linear == 1 and kinds[0] == "linear"
    found: _Kind = "other"
    if all(kind == "constant" for kind in kinds) or (operator == "Shape" and first_only):
        found = "constant"
    elif "other" in kinds:
        found = "other"
    elif "length" in kinds:
        if operator == "Div" and kinds == ["linear", "length"]:
            found = "linear"
        elif operator in _OF_LENGTH and not n_linear:
            found = "length"
    elif operator == "ReduceL2" and first_only:
        found = "length"
    elif (
        operator in _SUMS
        or (operator in _KEEPS | _PRODUCTS | {"Div"} and first_only)
        or (operator == "Mul" and n_linear == 1)
    ):
        found = "linear"
    return found


def _pool_of(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> Pool | None:
    """The mean over places that a node computes; None for any other node."""
    if node.op_type == "GlobalAveragePool":
        return Pool(node.input[0], node.output[0], (2, 3))
    if node.op_type != "ReduceMean":
        return None
    given = [list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"]
    if len(node.input) > 1 and node.input[1] in constants:
        given = [constants[node.input[1]].ravel().tolist()]
    axes = SPATIAL.get(tuple(sorted(given[0]))) if given else None  # type: ignore[call-overload]
    return None if axes is None else Pool(node.input[0], node.output[0], axes)


def _value_of(node: onnx.NodeProto) -> NDArray[Any]:
    value = helper.get_attribute_value(node.attribute[0])
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def with_open_classifiers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, with each linear classifier of ONNX-ML written as a matrix product and what follows it."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    nodes: list[onnx.NodeProto] = []
    links = {b"SOFTMAX": "Softmax", b"LOGISTIC": "Sigmoid", b"NONE": "Identity"}
    for node in graph.node:
        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        link = links.get(values.get("post_transform", b"NONE"))
        if node.op_type != "LinearClassifier" or link is None:
            nodes.append(node)
            continue
        answer = node.output[1]
        bias = np.asarray(values["intercepts"], np.float32)
        weight = np.asarray(values["coefficients"], np.float32).reshape(len(bias), -1)
        graph.initializer.extend(
            numpy_helper.from_array(value, f"{answer}_{name}") for name, value in (("weight", weight), ("bias", bias))
        )
        product = [node.input[0], f"{answer}_weight", f"{answer}_bias"]
        nodes.append(helper.make_node("Gemm", product, [f"{answer}_linear"], transB=1))
        nodes.append(helper.make_node(link, [f"{answer}_linear"], [answer]))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return opened


def between(model: onnx.ModelProto, inputs: Iterable[str], outputs: Iterable[str]) -> onnx.ModelProto:
    """The part of a graph from named tensors of 32-bit floats of any shape to others."""
    inputs, outputs = list(inputs), list(outputs)
    wanted, nodes = set(outputs) - set(inputs), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input) - set(inputs)
    used = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs]
    made = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes[::-1], "part", given, made, used)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
