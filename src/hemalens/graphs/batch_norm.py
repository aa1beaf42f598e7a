"""Re-estimate batch-norm statistics on unlabelled images, in a bundle's graph (Li et al. 2018; Schneider et al. 2020).

A batch-norm layer scales each channel to mean 0 and variance 1 by statistics of the training images. Another laboratory's
stain and camera shift them; statistics of its own images correct the shift without labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hemalens.graphs.build import cut
from hemalens.graphs.runtime import session_of

OP_TYPE = "BatchNormalization"
PIXELS = re.compile(r"(?:.*_)?pixels(?:_\d+)?")
"""Names of the tensors that networks read; joined encoders have a prefix and a number."""
Statistics = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Mean and variance (c,) of each layer, by the name of the layer's output."""


def has_batch_norm(graph: onnx.ModelProto) -> bool:
    """Whether a graph has batch norm that is not folded into the layer before it."""
    return any(node.op_type == OP_TYPE for node in graph.graph.node)


def pixels_of(graph: onnx.ModelProto) -> list[str]:
    """Names of the tensors that the networks in a graph read; joined encoders have one each."""
    made = (name for node in graph.graph.node for name in node.output)
    return [name for name in made if PIXELS.fullmatch(name)]


def preprocessing_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The part of a bundle's graph from `image` to its pixels, outputs in the order of `pixels_of`."""
    return cut(onnx.shape_inference.infer_shapes(graph), ["image"], pixels_of(graph))


def estimate(
    graph: onnx.ModelProto, batches: Iterable[dict[str, NDArray[np.float32]]], *, strength: float = 1.0
) -> Statistics:
    """Statistics of every batch-norm layer over batches of pixels, each (n, 3, size, size) by the name of `pixels_of`.

    One pass: each layer normalises a batch by the batch's own mean and variance, as torch does in training. Over batches,
    means are averaged by size, and variances by the law of total variance, with n - 1 in the denominator as in torch.
    `strength` in (0, 1] is the weight of the new statistics against the graph's own, in the pass and in the result.
    """
    model, layers = _measuring(graph, strength)
    session = session_of(model.SerializeToString())
    names = [value.name for value in model.graph.output]
    kept = ("source_mean", "source_variance", "mean", "variance", "shape")
    seen: dict[str, list[tuple[NDArray[Any], ...]]] = {layer: [] for layer in layers}
    for batch in batches:
        values = dict(zip(names, session.run(names, batch), strict=True))
        for i, layer in enumerate(layers):
            seen[layer].append(tuple(values[_name(i, part)] for part in kept))
    return {layer: _over_batches(rows, strength) for layer, rows in seen.items() if rows}


def _over_batches(rows: list[tuple[NDArray[Any], ...]], strength: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and variance (c,) of all values from those of each batch, mixed with the source's."""
    means, variances = (np.stack([row[i] for row in rows]).astype(np.float64) for i in (2, 3))
    # values of each channel: images times positions
    n = np.array([row[4][0] * row[4][2] for row in rows], np.float64)
    mean = np.average(means, axis=0, weights=n)
    variance = np.average(variances + (means - mean) ** 2, axis=0, weights=n) * n.sum() / max(n.sum() - 1, 1)
    source_mean, source_variance = rows[0][:2]
    mixed = (1 - strength) * source_mean + strength * mean, (1 - strength) * source_variance + strength * variance
    return mixed[0].astype(np.float32), mixed[1].astype(np.float32)


def _name(layer: int, part: str) -> str:
    return f"batch_norm_{layer}_{part}"


def _measuring(graph: onnx.ModelProto, strength: float) -> tuple[onnx.ModelProto, list[str]]:
    """The graph from pixels on, in which each batch norm uses and outputs the statistics of its batch; the layers."""
    # joined encoders rename their pixels without type information
    ends = [node.output[0] for node in graph.graph.node if node.op_type == OP_TYPE]
    model = cut(onnx.shape_inference.infer_shapes(graph), pixels_of(graph), ends)
    inner = model.graph
    del inner.output[:]  # the layers' outputs are large, and only their statistics are needed
    nodes: list[onnx.NodeProto] = []
    layers: list[str] = []
    for node in inner.node:
        if node.op_type == OP_TYPE:
            nodes += _statistics_nodes(node, len(layers))
            layers.append(node.output[0])
        nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del inner.node[:], inner.output[:]
    inner.node.extend(nodes)
    constants: dict[str, NDArray[Any]] = {
        "batch_norm_flat": np.array([0, 0, -1], np.int64),
        "batch_norm_axes": np.array([0, 2], np.int64),
        "batch_norm_line": np.array([-1], np.int64),
        "batch_norm_strength": np.array([strength], np.float32),
        "batch_norm_rest": np.array([1 - strength], np.float32),
    }
    inner.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for i in range(len(layers)):
        for part in ("source_mean", "source_variance", "mean", "variance", "shape"):
            inner.output.append(onnx.ValueInfoProto(name=_name(i, part)))
    return model, layers


def _statistics_nodes(node: onnx.NodeProto, layer: int) -> list[onnx.NodeProto]:
    """Nodes in front of a batch norm (n, c, ...) that compute the mean and variance it uses."""
    values, _, _, source_mean, source_variance = node.input

    def named(part: str) -> str:
        return _name(layer, part)

    node.input[3], node.input[4] = named("used_mean"), named("used_variance")
    nodes = [
        # (n, c) becomes (n, c, 1)
        helper.make_node("Reshape", [values, "batch_norm_flat"], [named("flat")]),
        helper.make_node("Shape", [named("flat")], [named("shape")]),
        helper.make_node("ReduceMean", [named("flat"), "batch_norm_axes"], [named("mean_3d")], keepdims=1),
        helper.make_node("Sub", [named("flat"), named("mean_3d")], [named("centred")]),
        helper.make_node("Mul", [named("centred"), named("centred")], [named("squared")]),
        helper.make_node("ReduceMean", [named("squared"), "batch_norm_axes"], [named("variance")], keepdims=0),
        helper.make_node("Reshape", [named("mean_3d"), "batch_norm_line"], [named("mean")]),
    ]
    for part, source in (("mean", source_mean), ("variance", source_variance)):
        nodes += [
            helper.make_node("Identity", [source], [named(f"source_{part}")]),
            helper.make_node("Mul", [source, "batch_norm_rest"], [named(f"old_{part}")]),
            helper.make_node("Mul", [named(part), "batch_norm_strength"], [named(f"new_{part}")]),
            helper.make_node("Add", [named(f"old_{part}"), named(f"new_{part}")], [named(f"used_{part}")]),
        ]
    return nodes


def with_statistics(graph: onnx.ModelProto, statistics: Statistics) -> onnx.ModelProto:
    """The same graph with these means and variances in its batch-norm layers."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    inner = model.graph
    fresh = {}
    for node in inner.node:
        if node.op_type == OP_TYPE and node.output[0] in statistics:
            for position, part in ((3, "mean"), (4, "variance")):
                # layers may share equal statistics: each layer gets its own
                name = f"{node.output[0]}_{part}"
                fresh[name] = statistics[node.output[0]][position - 3]
                node.input[position] = name
    used = {name for node in inner.node for name in node.input} | {value.name for value in inner.output}
    kept = [tensor for tensor in inner.initializer if tensor.name in used and tensor.name not in fresh]
    kept += [numpy_helper.from_array(value, name) for name, value in fresh.items()]
    del inner.initializer[:]
    inner.initializer.extend(kept)
    return model
