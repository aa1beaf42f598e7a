"""Remove the layers that adaptation adds to a bundle's graph."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from hemalens.graphs.build import BESIDE_FEATURES

ADDED = ("mature_", "evidence_", "size_", "neighbour_", "means_", "beside_")
"""Prefixes of the names that adaptation adds to a graph."""
FEATURES = ("size_features", BESIDE_FEATURES)
"""Constants that hold the width of the embedding before the addition."""


def without_additions(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Remove nucleus size, neighbours, class means and further encoders from a bundle's graph.

    A graph without such layers, or whose classifier needs them, is returned as it is.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    gone = [node for node in model.graph.node if any(name.startswith(ADDED) for name in (*node.input, *node.output))]
    if not gone:
        return graph
    logits = next((name for node in gone for name in node.input if name.startswith("logits_before")), None)
    names = {logits: "logits"} if logits else {}
    of_embedding = [node for node in gone if node.op_type == "Concat" and node.output[0].startswith("embedding")]
    ends = [tensor for tensor in model.graph.initializer if tensor.name.startswith(FEATURES)]
    if of_embedding and not ends:
        return graph  # a new classifier reads the whole embedding
    if of_embedding:
        names[of_embedding[0].input[0]] = "embedding"
        names |= {name: "embedding" for node in gone for name in node.output if name.startswith("embedding_for_head")}
        value = next(v for v in model.graph.output if v.name == "embedding")
        value.type.tensor_type.shape.dim[1].dim_value = min(int(numpy_helper.to_array(t)[0]) for t in ends)
    left_out = {name for node in gone for name in node.output}
    rest = [node for node in model.graph.node if not set(node.output) & left_out]
    for node in rest:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    used = {name for node in rest for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rest)
    model.graph.initializer.extend(constants)
    onnx.checker.check_model(model)
    return model
