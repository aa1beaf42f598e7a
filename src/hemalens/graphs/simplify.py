"""Make a traced graph as short as it can be: shapes that are the same for every batch become constants."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Constants = dict[str, NDArray[Any]]


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph whose inputs are float tensors with a free first axis, with the same outputs and fewer nodes.

    A traced graph computes sizes while it runs, from the shapes of its tensors. Those that two batches of different
    lengths agree on become constants, and zero padding by a constant width becomes part of the convolution behind it.
    Weights keep their names.
    """
    short = onnx.ModelProto()
    short.CopyFrom(model)
    _freeze(short, _fixed(short))
    _prune(short.graph)
    _fuse_padding(short.graph)
    _prune(short.graph)
    onnx.checker.check_model(short)
    return short


def _sizes(graph: onnx.GraphProto) -> list[str]:
    """Names of the tensors that follow from shapes alone and that a node reads which does not."""
    known = {tensor.name for tensor in graph.initializer}
    sizes: set[str] = set()
    for node in graph.node:
        from_sizes = all(name in known or name in sizes or not name for name in node.input)
        if node.op_type == "Shape" or (from_sizes and any(name in sizes for name in node.input)):
            sizes.update(node.output)
        elif from_sizes:
            known.update(node.output)
    read = {name for node in graph.node if not sizes.issuperset(node.output) for name in node.input}
    return sorted(sizes & read)


def _fixed(model: onnx.ModelProto) -> Constants:
    """The sizes that batches of one and of three agree on."""
    names = _sizes(model.graph)
    if not names:
        return {}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    one, three = (session.run(names, _batch(model.graph, n)) for n in (1, 3))
    found = {name: (np.asarray(a), np.asarray(b)) for name, a, b in zip(names, one, three, strict=True)}
    return {name: a for name, (a, b) in found.items() if a.shape == b.shape and np.array_equal(a, b)}


def _batch(graph: onnx.GraphProto, n: int) -> Constants:
    """Inputs of `n` rows, all of them `n`."""
    given = {tensor.name for tensor in graph.initializer}
    sides = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        for value in graph.input
        if value.name not in given
    }
    return {name: np.full((n, *shape), n, np.float32) for name, shape in sides.items()}


def _freeze(model: onnx.ModelProto, values: Constants) -> None:
    """Replace the nodes that compute `values` by initializers."""
    graph = model.graph
    rest = [node for node in graph.node if not any(name in values for name in node.output)]
    several = [node for node in graph.node if len(node.output) > 1 and any(name in values for name in node.output)]
    # a node with further outputs is still needed: its own name for the frozen one is dropped
    for node in several:
        node.output[:] = [f"{name}_computed" if name in values else name for name in node.output]
    kept = {id(node) for node in (*rest, *several)}
    nodes = [node for node in graph.node if id(node) in kept]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    del graph.node[:]
    graph.node.extend(nodes)


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output needs."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, content in ((graph.node, kept[::-1]), (graph.initializer, weights)):
        del field[:]
        field.extend(content)
    del graph.value_info[:]


def _fuse_padding(graph: onnx.GraphProto) -> None:
    """Give convolutions the zero padding of a `Pad` node that they alone read."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    values |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    readers = Counter(name for node in graph.node for name in node.input)
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    for node in graph.node:
        pad = pads.get(node.input[0]) if node.op_type == "Conv" else None
        width = None if pad is None or readers[pad.output[0]] > 1 else _zero_padding(pad, values)
        if pad is None or width is None:
            continue
        own = next((attribute for attribute in node.attribute if attribute.name == "pads"), None)
        before = np.array(own.ints if own is not None else [0] * len(width))
        if own is not None:
            node.attribute.remove(own)
        node.attribute.append(helper.make_attribute("pads", (before + width).tolist()))
        node.input[0] = pad.input[0]


def _zero_padding(pad: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> NDArray[np.int64] | None:
    """The widths of a `Pad` node as a convolution states them; None where it pads otherwise."""
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    if mode != b"constant" or pad.input[1] not in values or len(pad.input) > 3:
        return None
    value = pad.input[2] if len(pad.input) > 2 else ""
    if value and (value not in values or numpy_helper.to_array(values[value]).any()):
        return None
    starts, ends = np.split(numpy_helper.to_array(values[pad.input[1]]), 2)
    if starts[:2].any() or ends[:2].any() or min(starts.min(), ends.min()) < 0:
        return None
    return np.concatenate([starts[2:], ends[2:]])
