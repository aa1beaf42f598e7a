"""Read the weights of a trained network back from its bundle's graph."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hemalens.errors import BundleError
from hemalens.graphs.build import BATCH_NORM
from hemalens.graphs.fp16 import SUFFIX

Weights = dict[str, NDArray[np.float32]]
OF_NETWORK = re.compile(r"(?:\d+_)*module\.(?:averaged|network)\.(?P<name>.+)")
"""Names that the exporter gives to the tensors of a training module's network, or of its average."""
OF_FURTHER = re.compile(r"(?:\d+_)*module\.further\.(?P<name>.+)")
"""Names that it gives to those of `training.mature_types.FurtherTypes`."""
FURTHER_NODES = re.compile(r"(?:\d+_)*/further/")
"""Beginning of the names of its nodes: they take the embedding too, beside the head."""
PARTS = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a batch norm, in the order of its inputs."""


def network_weights(graph: onnx.ModelProto) -> Weights:
    """The tensors of the network behind a graph, in 32 bits, by their names in torch.

    Batch norms have the statistics of the graph, also where these were re-estimated. The exporter stores equal tensors of
    other layers once, under one of their names.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    found = {}
    for name, value in values.items():
        if named := OF_NETWORK.fullmatch(name.removesuffix(SUFFIX)):
            found[named["name"]] = value.astype(np.float32)
    for node in graph.graph.node:
        if node.op_type == BATCH_NORM and (layer := _layer_of(node)):
            for part, name in zip(PARTS, node.input[1:], strict=True):
                value, own = values[name].astype(np.float32), f"{layer}.{part}"
                # a tensor without a name of the network was re-estimated
                found[own] = found.get(own, value) if OF_NETWORK.fullmatch(name) else value
    return found


def further_tensors(graph: onnx.ModelProto) -> Weights:
    """The tensors by which a graph lowers the logits of further types, in 32 bits, by name; none where it does not."""
    values = {tensor.name.removesuffix(SUFFIX): tensor for tensor in graph.graph.initializer}
    named = {match["name"]: values[name] for name in values if (match := OF_FURTHER.fullmatch(name))}
    return {name: numpy_helper.to_array(tensor).astype(np.float32) for name, tensor in named.items()}


def _layer_of(node: onnx.NodeProto) -> str | None:
    """The name of a batch norm, by the majority of its tensors: some may be shared with another layer."""
    matches = [(part, OF_NETWORK.fullmatch(name)) for part, name in zip(PARTS, node.input[1:], strict=True)]
    names = [named["name"].rpartition(".") for part, named in matches if named and named["name"].endswith(part)]
    layers = Counter(layer for layer, _, _ in names)
    return layers.most_common(1)[0][0] if layers else None


def head_weights(graph: onnx.ModelProto) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (f, d) and bias (f,) of the linear head on the embedding; raises `BundleError` where there is none."""
    uses = [node for node in graph.graph.node if "embedding" in node.input and not FURTHER_NODES.match(node.name)]
    values = {tensor.name: tensor for tensor in graph.graph.initializer}
    if len(uses) != 1 or uses[0].op_type != "Gemm" or not set(uses[0].input[1:]) <= set(values):
        raise BundleError("the bundle has no linear head of its own", remedy="Use the bundle that it was made from.")
    weight, bias = (numpy_helper.to_array(values[name]).astype(np.float32) for name in uses[0].input[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in uses[0].attribute)
    return (weight if transposed else weight.T), bias
