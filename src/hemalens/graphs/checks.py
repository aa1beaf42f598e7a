"""What a graph must take and give before it is run: one image, the named outputs, all weights in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

Shape = tuple[int | None, ...]
"""Lengths of an output's axes without the first; None where any length will do."""


def check_interface(model: onnx.ModelProto, outputs: Mapping[str, Shape]) -> str | None:
    """Why a graph is not one from `image` uint8 (n, h, w, 3) alone to the float `outputs`, or None.

    Lengths that the graph leaves open pass: only a run shows them. Weights in other files are refused.
    """
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        return "weights in another file"
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if [value.name for value in inputs] != ["image"]:
        return f"the input {', '.join(value.name for value in inputs) or 'none'}, not image alone"
    kind, shape = _declared(inputs[0])
    if kind != TensorProto.UINT8 or shape != (None, None, None, 3):
        return f"an image of type {_name(kind)} and shape {_shown(shape)}, not uint8 (n, h, w, 3)"
    given = {value.name: _declared(value) for value in model.graph.output}
    for name, wanted in outputs.items():
        if name not in given:
            return f"no output {name}"
        kind, shape = given[name]
        if kind != TensorProto.FLOAT or (shape is not None and not _fits(shape[1:], wanted)):
            return f"an output {name} of type {_name(kind)} and shape {_shown(shape)}, not FLOAT {_shown((None, *wanted))}"
    return None


def is_quantised(graph: onnx.ModelProto) -> bool:
    """Whether any part of a graph computes in 8 bits."""
    return any(node.op_type == "QuantizeLinear" for node in graph.graph.node)


def check_outputs(values: Mapping[str, NDArray[Any]], outputs: Mapping[str, Shape]) -> str | None:
    """Why the `values` that a run gave are not the `outputs`, each without its first axis, or None: shape, finite."""
    for name, wanted in outputs.items():
        value = values[name]
        if value.ndim != len(wanted) or not _fits(value.shape, wanted):
            return f"{name} of shape {value.shape}, not {_shown(wanted)}"
        if not np.isfinite(value).all():
            return f"NaN or infinity in {name}"
    return None


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True))


def _declared(value: onnx.ValueInfoProto) -> tuple[int, Shape | None]:
    """Type and shape that a graph declares for an input or output; None for lengths, or a shape, that it leaves open."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _name(kind: int) -> str:
    return next((str(name) for name, number in TensorProto.DataType.items() if number == kind), str(kind))


def _shown(shape: Shape | None) -> str:
    return "unknown" if shape is None else f"({', '.join('?' if n is None else str(n) for n in shape)})"


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants of a graph, those of nodes and of graphs within nodes included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)
