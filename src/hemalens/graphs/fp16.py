"""Store a graph's weights in 16 bits and cast them to 32 where they are used: half the size, the same computation.

Rounding to 16 bits changes a weight by at most one part in 2,000. Only large tensors between pixels and embedding are
rounded, and the components of a distance in the embedding; batch norm keeps 32 bits, because its constants are small.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hemalens.errors import BundleError
from hemalens.graphs.build import BATCH_NORM, cut

FEWEST = 256
"""Smallest number of values of a tensor that is rounded."""
SUFFIX = "_half"
COMPONENTS = "distance.components"
"""End of the name of the components of `models.class_distance.ClassDistance`."""


def has_half_weights(graph: onnx.ModelProto) -> bool:
    """Whether any weight of a graph is stored in 16 bits."""
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
        raise BundleError("the graph has no weights to store in 16 bits", expected=f"tensors of {FEWEST} numbers or more")
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in inner.node]
    del inner.node[:]
    # each cast before its uses
    inner.node.extend([*casts, *nodes])
    return model


def _roundable(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the large 32-bit weights that are rounded: outside batch norm, and such that 16 bits can hold them."""
    encoder = cut(model, ["image"], ["embedding"]).graph
    kept = {name for node in model.graph.node if node.op_type == BATCH_NORM for name in node.input}
    used = {name for node in encoder.node for name in node.input} - kept
    return frozenset(
        tensor.name
        for tensor in model.graph.initializer
        if (tensor.name in used or tensor.name.endswith(COMPONENTS))
        and tensor.data_type == TensorProto.FLOAT
        and _fits(numpy_helper.to_array(tensor))
    )


def _fits(values: np.ndarray) -> bool:
    return values.size >= FEWEST and bool(np.abs(values).max() <= np.finfo(np.float16).max)
