"""Export a torch module to an ONNX graph."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import onnx
import torch

from hemalens.errors import ConfigError
from hemalens.graphs.build import IR_VERSION, OPSET
from hemalens.graphs.simplify import simplified
from hemalens.imaging.reading import Preprocessing


class LastMap(torch.nn.Module):
    """A timm network up to its last feature map: pixels (n, 3, size, size) -> (n, c, h, w)."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The map before pooling."""
        feature_map: torch.Tensor = self.network.forward_features(pixels)
        # swin and its kin keep the channels last
        return feature_map.permute(0, 3, 1, 2) if getattr(self.network, "output_fmt", "") == "NHWC" else feature_map

    def shape(self, preprocessing: Preprocessing) -> tuple[int, ...]:
        """(c, h, w) at this input size; raises `ConfigError` for a network without a feature map, such as a ViT."""
        size = preprocessing.size_px
        with torch.inference_mode():
            found = tuple(self.eval()(torch.zeros(1, 3, size, size)).shape[1:])
        if len(found) != 3:
            raise ConfigError(
                "this backbone has no feature map", expected="channels, height, width", got=f"an output of shape {found}"
            )
        return found


def to_onnx(
    module: torch.nn.Module,
    preprocessing: Preprocessing,
    outputs: list[str],
    *,
    feature_map: tuple[int, ...] | None = None,
    free_sides: bool = False,
) -> onnx.ModelProto:
    """Trace a module in evaluation mode: pixels float (n, 3, size, size) -> `outputs`, first axis free.

    With `feature_map`, a shape (c, h, w), the module takes `full_map` (n, c, h, w) instead of pixels. With `free_sides`
    height and width of the pixels are free, and the outputs are maps (n, h', w', c).

    Batch norm is not folded into the convolution before it, so that its statistics can be re-estimated on other images;
    ONNX Runtime folds it when it opens the graph. Uses the TorchScript exporter, which is ten times faster than the
    dynamo one on these networks and needs no further package.
    """
    pixels = (3, preprocessing.size_px, preprocessing.size_px)
    source, shape = ("pixels", pixels) if feature_map is None else ("full_map", feature_map)
    axes: dict[str, Any] = {name: {0: "n"} for name in (source, *outputs)}
    if free_sides:
        axes = {source: {0: "n", 2: "height", 3: "width"}} | {name: {0: "n", 1: "rows", 2: "columns"} for name in outputs}
    buffer = io.BytesIO()
    training = module.training
    module.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # the exporter warns of its deprecation and of every traced shape
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (torch.zeros(2, *shape),),
            buffer,  # type: ignore[arg-type]
            input_names=[source],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            # PRESERVE keeps evaluation mode, and differs from EVAL only in what is folded
            training=torch.onnx.TrainingMode.PRESERVE if _has_batch_norm(module) else torch.onnx.TrainingMode.EVAL,
            dynamo=False,
        )
    module.train(training)
    model = onnx.load_model_from_string(buffer.getvalue())
    model.ir_version = IR_VERSION
    _name_directly(model.graph)
    # with free sides no size is the same for all images
    return model if free_sides else simplified(model)


def _has_batch_norm(module: torch.nn.Module) -> bool:
    return any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules())


def _name_directly(graph: onnx.GraphProto) -> None:
    """Remove Identity nodes that alias equal weights, so that each use names the weight itself."""
    kept = {tensor.name for tensor in graph.initializer}
    given = {value.name for value in graph.output}
    aliases = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in kept]
    named = {node.output[0]: node.input[0] for node in aliases if node.output[0] not in given}
    for node in aliases:
        if node.output[0] in named:
            graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [named.get(name, name) for name in node.input]
