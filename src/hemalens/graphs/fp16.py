"""A graph's weights in 16 bits, turned back into 32 where they are used: half the room, the same computation. No torch.

Rounding to 16 bits moves a weight by at most one part in 2,000. Only large tensors on the way from pixels to embedding are
rounded, since nothing else takes much room; batch norm keeps its 32 bits, because its statistics are estimated anew.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hemalens.errors import BundleError
from hemalens.graphs.batch_norm import OP_TYPE
from hemalens.graphs.build import cut

FEWEST = 256
"""A tensor of fewer numbers is not worth a node of its own."""
SUFFIX = "_half"


def has_half_weights(graph: onnx.ModelProto) -> bool:
    """Whether any weight of a graph is kept in 16 bits."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.graph.initializer)


def with_half_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the network's weights in 16 bits and a Cast to 32 bits behind each; inputs and outputs stay.

    Raises `BundleError` where no weight can be rounded.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    inner = model.graph
    chosen = _roundable(model)
    casts = []
    for tensor in inner.initializer:
        if tensor.name in chosen:
            half, whole = f"{tensor.name}{SUFFIX}", tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [whole], to=TensorProto.FLOAT))
    if not casts:
        raise BundleError("the graph has no weights to keep in 16 bits", expected=f"tensors of {FEWEST} numbers or more")
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in inner.node]
    del inner.node[:]
    # each before whatever uses it
    inner.node.extend([*casts, *nodes])
    return model


def _roundable(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the large 32-bit weights that lead to the embedding, that batch norm does not use and 16 bits can hold."""
    encoder = cut(model, ["image"], ["embedding"]).graph
    kept = {name for node in model.graph.node if node.op_type == OP_TYPE for name in node.input}
    used = {name for node in encoder.node for name in node.input} - kept
    return frozenset(
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in used and tensor.data_type == TensorProto.FLOAT and _fits(numpy_helper.to_array(tensor))
    )


def _fits(values: np.ndarray) -> bool:
    return values.size >= FEWEST and bool(np.abs(values).max() <= np.finfo(np.float16).max)
